"""``revirt cut``: a smaller recording, of a stretch of one."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from revirt.cli.points import point_of
from revirt.cli.signals import UnwindingStop
from revirt.errors import UsageError
from revirt.position import GuestTime, Point
from revirt.recording import CutReport, Recording, resolve
from revirt.recording import cut as cut_out
from revirt.recording.progress import no_progress
from revirt.render import Format, byte_progress, duration, emit_record, grouped, printable, size, styled
from revirt.replay import branches_at, checkpoint_before


def run(arguments: argparse.Namespace) -> int:
    """Make a recording of what is between two points of one, and say where it really begins and ends."""
    recording = Recording.open(resolve(arguments.recording))
    first, last = (point_of(recording, each) for each in (arguments.first, arguments.last))
    with UnwindingStop() as stop, byte_progress(recording.path.name) as line:
        start = checkpoint_before(recording, first)
        end = branches_at(recording, last)
        _check_order(recording, first, last, end)
        report = cut_out(
            recording,
            arguments.output,
            start,
            end,
            asked=(str(arguments.first), str(arguments.last)),
            progress=line.update if line is not None else no_progress,
        )
    if stop.exit_status is not None:
        return stop.exit_status
    _report(report, arguments.form)
    return 0


def _check_order(recording: Recording, first: Point, last: Point, end: int) -> None:
    """Raise UsageError if *first* is behind *last*, which is at branch count *end*."""
    if isinstance(first, GuestTime) and isinstance(last, GuestTime):
        is_behind = first > last
    else:
        is_behind = branches_at(recording, first) > end
    if is_behind:
        raise UsageError(f"{first} is behind {last}", hint="write FROM before TO")


def _report(report: CutReport, form: Format) -> None:
    start = report.start
    facts: dict[str, Any] = {
        "path": report.path,
        "uuid": report.uuid,
        "origin": report.origin,
        "from_checkpoint": start.number,
        "from_branches": start.branches,
        "from_guest_seconds": start.guest_ns / 1e9,
        "branches": report.branches,
        "is_end": report.is_end,
        "events": report.events,
        "checkpoints": report.checkpoints,
        "size": report.size,
    }
    if form is Format.TABLE:
        time = duration(start.guest_ns)
        where = f"checkpoint {start.number}, at {grouped(start.branches)} branches, {time} of guest time"
        whole = ", the end of the recording" if report.is_end else ""
        facts = {
            "path": report.path,
            "uuid": report.uuid,
            "origin": report.origin,
            "begins": where,
            "ends": f"{grouped(report.branches)} branches{whole}",
            "events": grouped(report.events),
            "checkpoints": grouped(report.checkpoints),
            "size": size(report.size),
        }
    emit_record(facts, form, sys.stdout)
    if report.was_sealed:
        text = "the recording is sealed, the cut is not: a seal proves a recording as it was made"
        print(f"{styled('revirt:', 'bold', sys.stderr)} {printable(text)}", file=sys.stderr)
