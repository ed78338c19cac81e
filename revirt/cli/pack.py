"""``revirt pack`` and ``unpack``: a recording as one file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from revirt.cli.signals import UnwindingStop
from revirt.errors import UsageError
from revirt.recording import PackReport, recordings_dir, resolve
from revirt.recording.pack_format import SUFFIX
from revirt.recording.packing import pack as pack_file
from revirt.recording.packing import pack_to
from revirt.recording.progress import no_progress
from revirt.recording.store import LATEST
from revirt.recording.unpacking import unpack as unpack_file
from revirt.recording.unpacking import unpack_from
from revirt.render import ByteLine, Format, byte_progress, emit_record, is_terminal, printable, size, styled

_STREAM = "-"
_NAMED = 5  # names of what is left out that are printed


def pack(arguments: argparse.Namespace) -> int:
    """Make one file of a recording."""
    recording = resolve(arguments.recording)
    is_streamed = arguments.output == _STREAM
    if is_streamed and arguments.form is not Format.TABLE:
        raise UsageError("--json and the pack cannot both go to standard output")
    if is_streamed and is_terminal(sys.stdout):
        raise UsageError("a pack is nothing for a terminal", hint="name a file with -o, or redirect it")
    with UnwindingStop() as stop, byte_progress(recording.name) as line:
        shown = _shown(line)
        if is_streamed:
            report = pack_to(
                recording,
                sys.stdout.buffer,
                force=arguments.force,
                with_disks=arguments.with_disks,
                progress=shown,
            )
        else:
            name = arguments.output or f"{recording.resolve().name}{SUFFIX}"
            report = pack_file(
                recording,
                Path(name),
                force=arguments.force,
                with_disks=arguments.with_disks,
                progress=shown,
            )
    if stop.exit_status is not None:
        return stop.exit_status
    _report(report, arguments.form, sys.stderr if is_streamed else sys.stdout)
    _say(
        "it holds what was in the guest's memory and all that was typed or came in: mind whom you give it to"
    )
    for number, disk in enumerate(() if report.has_images else report.disks):
        _say(
            f"disk {number} is not in it: to replay it one wants the image with SHA-256 {disk.sha256},"
            f" {size(disk.size)}; --with-disks packs that, too"
        )
    if report.left_out:
        more = ", ..." if len(report.left_out) > _NAMED else ""
        _say(f"left out, as no part of a recording: {', '.join(report.left_out[:_NAMED])}{more}")
    return 0


def unpack(arguments: argparse.Namespace) -> int:
    """Make a recording of a file that ``pack`` made."""
    is_streamed = arguments.pack == _STREAM
    target = arguments.output or _target(arguments.pack)
    if is_streamed and (sys.stdin is None or is_terminal(sys.stdin)):
        raise UsageError("there is no pack at standard input", hint="name a file, or redirect one")
    with UnwindingStop() as stop, byte_progress(target.name) as line:
        shown = _shown(line)
        if is_streamed:
            source = Path("standard input")
            report = unpack_from(
                sys.stdin.buffer, target, source=source, force=arguments.force, progress=shown
            )
        else:
            report = unpack_file(Path(arguments.pack), target, force=arguments.force, progress=shown)
    if stop.exit_status is not None:
        return stop.exit_status
    _report(report, arguments.form, sys.stdout)
    for number, disk in enumerate(() if report.has_images else report.disks):
        _say(
            f"disk {number} wants the image with SHA-256 {disk.sha256}, {size(disk.size)};"
            f" say where it is: revirt disk {target.name} --number {number} --base FILE"
        )
    return 0


def _target(name: str) -> Path:
    """Return where the pack *name* goes if nobody says: into the recordings directory, under its own name."""
    stem = Path(name).name.removesuffix(SUFFIX)
    if name == _STREAM or stem in ("", LATEST):
        raise UsageError("no name for the recording", hint="name its directory with -o")
    return recordings_dir() / stem


def _shown(line: ByteLine | None) -> Callable[[str, int, int | None], None]:
    return line.update if line is not None else no_progress


def _report(report: PackReport, form: Format, out: TextIO) -> None:
    facts: dict[str, Any] = {
        "path": report.path,
        "uuid": report.uuid,
        "files": report.files,
        "size": report.size if form is not Format.TABLE else size(report.size),
        "digest": report.digest.hex(),
        "problems": report.problems if form is not Format.TABLE else report.problems or None,
        "left_out": report.left_out,
        "disks": [
            {"number": number, "size": disk.size, "sha256": disk.sha256, "is_packed": report.has_images}
            for number, disk in enumerate(report.disks)
        ],
    }
    shown = {key: key for key in facts if key not in ("left_out", "disks")} if form is Format.TABLE else None
    emit_record(facts, form, out, shown)
    if report.problems:
        _say("the recording is damaged: 'revirt verify' lists what is")


def _say(text: str) -> None:
    print(f"{styled('revirt:', 'bold', sys.stderr)} {printable(text)}", file=sys.stderr)
