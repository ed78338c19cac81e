"""``revirt index``: a recording is replayed once, so that it can be looked into at once from then on."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from revirt.cli.signals import UnwindingStop
from revirt.index import IndexReport, build_index
from revirt.recording import Recording, disk_usage, resolve
from revirt.render import Format, emit_record, grouped, printable, progress, size


def run(arguments: argparse.Namespace) -> int:
    """Make the index of a recording, and say what it came to."""
    recording = Recording.open(resolve(arguments.recording))
    with UnwindingStop() as stop, progress(recording.path.name) as shown:
        report = build_index(recording, jobs=arguments.jobs, progress=shown, again=arguments.force)
    if stop.exit_status is not None:
        return stop.exit_status
    facts = index_fields(recording, report)
    if arguments.form is not Format.TABLE:
        emit_record(facts, arguments.form, sys.stdout)
        return 0
    what = f"made in {report.seconds:.2f} s" if report.made else "there already"
    counted = f"{grouped(facts['instructions'])} instructions"
    print(f"{printable(str(recording.path))}: {counted}, {facts['intervals']} intervals", end=", ")
    print(f"{size(facts['size'])}, {what}")
    return 0


def index_fields(recording: Recording, report: IndexReport) -> dict[str, Any]:
    """Return *report* as the fields that ``index --json`` prints."""
    index = report.index
    return {
        "path": recording.path,
        "uuid": recording.manifest.uuid,
        "stretches": len(index.stretches),
        "made": report.made,
        "intervals": index.interval_count,
        "instructions": index.instructions,
        "size": disk_usage(recording.path).index,
        "seconds": report.seconds,
    }
