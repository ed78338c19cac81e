"""``revirt audit``: whether a recording can be believed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from revirt.cli.replay import divergence_fields, print_divergence
from revirt.cli.signals import OrderlyStop
from revirt.errors import DivergenceError, RecordingError
from revirt.log.events import Kind
from revirt.recording import Recording, resolve
from revirt.render import (
    Format,
    duration,
    emit_record,
    grouped,
    print_warnings,
    printable,
    progress,
    size,
    styled,
)
from revirt.replay import AuditReport, Verdict, audit
from revirt.replay.auditor import ROLES, Gap, Role

_STATUS = {
    Verdict.CONFIRMED: 0,
    Verdict.PARTIAL: 0,
    Verdict.DIVERGED: DivergenceError.exit_status,
    Verdict.DAMAGED: RecordingError.exit_status,
}
_MEANING = {
    Verdict.CONFIRMED: "all of the record follows from its inputs",
    Verdict.PARTIAL: "what was replayed follows from its inputs; not all was",
    Verdict.DIVERGED: "the guest does something else than was recorded",
    Verdict.DAMAGED: "the files are not what was written",
}


def run(arguments: argparse.Namespace) -> int:
    """Audit a recording and print the verdict."""
    recording = Recording.open(resolve(arguments.recording))
    stop = None

    def catch_signals(end_replay: Callable[[str], None]) -> None:
        # Only now: while files are verified there is no run to end in order.
        nonlocal stop
        stop = scope.enter_context(OrderlyStop())
        stop.arm(end_replay)

    with ExitStack() as scope:
        shown = scope.enter_context(progress(recording.path.name))
        report = audit(recording, checkpoint=arguments.checkpoint, progress=shown, on_start=catch_signals)
    facts = audit_fields(recording, report)
    print_warnings(report.replay.warnings if report.replay is not None else ())
    if arguments.form is Format.TABLE:
        _print(recording, report, facts)
    else:
        emit_record(facts, arguments.form, sys.stdout)
    return _STATUS[report.verdict] or (stop.exit_status if stop is not None else None) or 0


def audit_fields(recording: Recording, report: AuditReport) -> dict[str, Any]:
    """Return *report* as the fields that ``audit --json`` prints."""
    start, came_to, confirmed = report.start, report.replay, report.confirmed
    return {
        "path": recording.path,
        "uuid": recording.manifest.uuid,
        "state": recording.state,
        "verdict": report.verdict,
        "from_checkpoint": start and start.number,
        "from_branches": start and start.branches,
        "from_guest_seconds": start and start.guest_ns / 1e9,
        "branches": came_to and came_to.branches,
        "guest_seconds": came_to and came_to.guest_ns / 1e9,
        "events": confirmed.events.total(),
        "inputs": confirmed.events_as(Role.INPUT),
        "input_bytes": confirmed.bytes_as(Role.INPUT),
        "outputs": confirmed.events_as(Role.OUTPUT),
        "output_bytes": confirmed.bytes_as(Role.OUTPUT),
        "interrupts": confirmed.events[Kind.INTERRUPT],
        "digests": confirmed.events[Kind.DIGEST],
        "checkpoints": confirmed.events[Kind.CHECKPOINT],
        "pages": report.pages,
        "kinds": {kind.label: confirmed.events[kind] for kind in ROLES},
        "unconfirmed": report.gaps,
        "findings": report.findings,
        "divergence": came_to and divergence_fields(came_to.divergence),
        "reason": came_to and came_to.reason,
        "recorded_with": report.recorded_with,
        "audited_with": report.audited_with,
        "seconds": came_to and came_to.seconds,
    }


def _print(recording: Recording, report: AuditReport, facts: dict[str, Any]) -> None:
    out = sys.stdout
    is_good = _STATUS[report.verdict] == 0
    verdict = styled(report.verdict, "green" if is_good else "red", out)
    print(f"{verdict}: {_MEANING[report.verdict]}: {printable(str(recording.path))}")
    emit_record(dict(_in_words(report, facts)), Format.TABLE, out)
    for gap in report.gaps:
        print(f"unconfirmed: {printable(_gap_in_words(gap))}")
    for finding in report.findings:
        where = f"{finding.path}" if finding.offset is None else f"{finding.path} at byte {finding.offset}"
        print(f"damaged: {printable(f'{where}: {finding.problem}')}")
    if report.replay is not None and report.replay.divergence is not None:
        print_divergence(report.replay.divergence, out)


def _in_words(report: AuditReport, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what was confirmed, as labelled lines."""
    yield "uuid", facts["uuid"]
    if report.start is not None and facts["events"]:
        yield (
            "from",
            f"checkpoint {report.start.number}, at {_place(report.start.branches, report.start.guest_ns)}",
        )
        if report.replay is not None:
            yield "to", f"{_place(report.replay.branches, report.replay.guest_ns)} ({report.replay.reason})"
        yield "inputs", f"{_kinds(facts, Role.INPUT)}, {size(facts['input_bytes'])}"
        yield "outputs", f"{_kinds(facts, Role.OUTPUT)}, {size(facts['output_bytes'])}"
        yield "interrupts", grouped(facts["interrupts"])
        yield "digests", grouped(facts["digests"])
        yield "checkpoints", grouped(facts["checkpoints"])
        yield "pages on disk", grouped(report.pages)
    yield "recorded with", _versions(report.recorded_with)
    yield "audited with", _versions(report.audited_with)


def _place(branches: int, guest_ns: int) -> str:
    return f"{grouped(branches)} branches, {duration(guest_ns)} of guest time"


def _kinds(facts: dict[str, Any], role: Role) -> str:
    counts = facts["kinds"]
    return ", ".join(
        f"{grouped(counts[kind.label])} {kind.label}" for kind, has in ROLES.items() if has is role
    )


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _gap_in_words(gap: Gap) -> str:
    if gap.count is None:
        return gap.why
    return f"{grouped(gap.count)} events from number {gap.first} on: {gap.why}"
