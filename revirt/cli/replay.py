"""``revirt replay``: do it again, and check at every event that it is the same."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, TextIO

from revirt.cli.signals import OrderlyStop
from revirt.errors import DivergenceError
from revirt.recording import Recording, resolve
from revirt.render import (
    Format,
    emit_record,
    grouped,
    is_terminal,
    print_warnings,
    printable,
    progress,
    styled,
)
from revirt.replay import replay

if TYPE_CHECKING:
    from revirt.replay import Divergence, ReplayReport


def run(arguments: argparse.Namespace) -> int:
    """Replay a recording; return 0 only if it was exact."""
    recording = Recording.open(resolve(arguments.recording))
    prints = arguments.form is Format.TABLE and not arguments.quiet
    # Progress and the guest's console on one terminal would overwrite each other.
    is_shown = not (prints and is_terminal(sys.stdout))
    with OrderlyStop() as stop, progress(recording.path.name, is_wanted=is_shown) as shown:
        report = replay(
            recording,
            checkpoint=arguments.checkpoint,
            until=arguments.until,
            output=_print if prints else None,
            speed=arguments.speed,
            progress=shown,
            on_start=stop.arm,
        )
    sys.stdout.flush()
    if arguments.form is not Format.TABLE:
        emit_record(report_fields(recording, report), arguments.form, sys.stdout)
    else:
        _report(report)
    print_warnings(report.warnings)
    if not report.exact:
        return DivergenceError.exit_status
    return stop.exit_status or 0


def report_fields(recording: Recording, report: ReplayReport) -> dict[str, Any]:
    """Return *report* as the fields that ``replay --json`` prints."""
    return {
        "path": recording.path,
        "uuid": recording.manifest.uuid,
        "exact": report.exact,
        "digests_checked": report.digests_checked,
        "events": report.events,
        "branches": report.branches,
        "guest_seconds": report.guest_ns / 1e9,
        "seconds": report.seconds,
        "reason": report.reason,
        "divergence": divergence_fields(report.divergence),
        "warnings": report.warnings,
    }


def divergence_fields(divergence: Divergence | None) -> dict[str, Any] | None:
    """Return *divergence* as ``--json`` prints it."""
    if divergence is None:
        return None
    return {
        "position": divergence.position,
        "what": divergence.what,
        "expected": divergence.expected,
        "found": divergence.found,
        "located": divergence.located,
    }


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _report(report: ReplayReport) -> None:
    done = f"{grouped(report.branches)} branches, {grouped(report.events)} events and"
    done += f" {grouped(report.digests_checked)} digests in {report.seconds:.2f} s"
    if report.exact:
        print(f"{styled('exact', 'green', sys.stderr)}: {done} ({printable(report.reason)})", file=sys.stderr)
        return
    print(f"{styled('diverged', 'red', sys.stderr)} after {done}", file=sys.stderr)
    if report.divergence is not None:
        print_divergence(report.divergence, sys.stderr)


def print_divergence(divergence: Divergence, out: TextIO) -> None:
    """Write where and in what a replay differed, for people."""
    facts = {
        "position": divergence.position,
        "what": divergence.what,
        "recorded": divergence.expected,
        "replayed": divergence.found,
        **divergence.located,
    }
    emit_record(facts, Format.TABLE, out)
