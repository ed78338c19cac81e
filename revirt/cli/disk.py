"""``revirt disk``: what a guest wrote to its disks, and what they held at any moment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from revirt.cli.opening import opened
from revirt.cli.outputs import new_file
from revirt.cli.points import branches_between
from revirt.cli.signals import UnwindingStop
from revirt.cli.times import Times
from revirt.errors import UsageError
from revirt.image.sparse import PIECE, SparseWriter
from revirt.machine.devices import SECTOR_SIZE, Disk
from revirt.machine.disk import DiskContents
from revirt.position import Position
from revirt.recording import Recording, resolve
from revirt.recording.disks import attach_base, check_number
from revirt.recording.machine import machine_of
from revirt.recording.progress import Progress, no_progress
from revirt.recording.writes import recorded_writes
from revirt.render import (
    Column,
    Format,
    byte_progress,
    emit,
    emit_record,
    grouped,
    printable,
    seconds,
    size,
    styled,
)
from revirt.timeline import Timeline, seek_point

_WRITES = (
    Column("ordinal", "#", right=True),
    Column("position", "POSITION", right=True),
    Column("halted", "HLT", text=lambda halted: "hlt" if halted else ""),
    Column("guest_ns", "TIME", right=True, text=seconds),
    Column("disk", "DISK", right=True),
    Column("sector", "SECTOR", right=True),
    Column("size", "BYTES", right=True),
    Column("digest", "HASH", text=bytes.hex),
)


@dataclass(frozen=True, slots=True)
class WriteRow:
    """A write to a disk: event number *ordinal*.  ``guest_ns`` is None if it is not known."""

    ordinal: int
    position: str
    branches: int
    halted: bool
    guest_ns: int | None
    disk: int
    sector: int
    size: int
    digest: bytes


def run(arguments: argparse.Namespace) -> int:
    """List what was written to the disks of a recording, take out what one held, or say where its image is."""
    _check(arguments)
    path = resolve(arguments.recording)
    if arguments.base is not None:
        return _attach(arguments, path)
    if arguments.output is not None:
        return _extract(arguments, path)
    recording = Recording.open(path)
    if arguments.number is not None:
        check_number(recording.path, _disks(recording), arguments.number)
    first, last = branches_between(recording, arguments.first, arguments.last)
    rows = write_rows(recording, first, last, disk=arguments.number, log_only=arguments.log_only)
    emit(rows, _WRITES, arguments.form, sys.stdout)
    return 0


def write_rows(
    recording: Recording,
    first: int = 0,
    last: int | None = None,
    *,
    disk: int | None = None,
    log_only: bool = False,
) -> Iterator[WriteRow]:
    """Yield the writes of *recording* from branch count *first* to *last* (None: the end), to *disk* if given.

    The guest's time at each is from a replay where the log does not tell, unless *log_only*.  Raises as
    `Recording.events`, and what a replay raises.
    """
    times = Times(recording, log_only=log_only)
    for write in recorded_writes(recording):
        if last is not None and write.branches > last:
            return
        if write.branches >= first and disk in (None, write.disk):
            yield WriteRow(
                write.ordinal,
                str(Position(write.branches)),
                write.branches,
                write.halted,
                times.at(write.ordinal, write.guest_ns),
                write.disk,
                write.sector,
                write.size,
                write.digest,
            )


def write_contents(contents: DiskContents, fd: int, progress: Progress = no_progress) -> None:
    """Write all that a disk holds to the new file *fd*, with holes for zeros; raises OSError and HostError."""
    writer = SparseWriter(fd)
    count = PIECE // SECTOR_SIZE
    for sector in range(0, contents.sectors, count):
        writer.write(contents.read(sector, min(count, contents.sectors - sector)))
        progress("writing", writer.size, contents.sectors * SECTOR_SIZE)
    writer.finish()


def _check(arguments: argparse.Namespace) -> None:
    is_listed = arguments.base is None and arguments.output is None
    if arguments.at is not None and arguments.output is None:
        raise UsageError("--at takes out what a disk held there", hint="name a new file with -o")
    if arguments.base is not None and arguments.output is not None:
        raise UsageError("--base and -o do not go together")
    if not is_listed and (arguments.first or arguments.last or arguments.log_only):
        raise UsageError("--from, --to and --log-only are for the list of writes")


def _attach(arguments: argparse.Namespace, path: Path) -> int:
    recording = Recording.open(path)
    disks = _disks(recording)
    number = _number(recording, disks, arguments.number)
    with byte_progress(recording.path.name) as line:
        shown = line.update if line is not None else no_progress
        kept = attach_base(
            recording.path, disks, number, arguments.base, lambda done, total: shown("hashing", done, total)
        )
    facts = {"path": kept, "number": number, "size": disks[number].size, "sha256": disks[number].sha256}
    if arguments.form is not Format.TABLE:
        emit_record(facts, arguments.form, sys.stdout)
    else:
        print(f"disk {number} of {printable(recording.path.name)} has its image: {printable(str(kept))}")
    return 0


def _extract(arguments: argparse.Namespace, path: Path) -> int:
    recording = Recording.open(path)
    number = _number(recording, _disks(recording), arguments.number)
    with UnwindingStop() as stop, new_file(arguments.output) as file:
        timeline = opened(path, Timeline)
        seek_point(timeline, arguments.at or "end")
        contents = timeline.machine.disks[number]
        with byte_progress(recording.path.name) as line:
            write_contents(contents, file.fileno(), line.update if line is not None else no_progress)
    if stop.exit_status is not None:
        return stop.exit_status
    facts = {
        "path": arguments.output,
        "position": timeline.position,
        "number": number,
        "size": contents.sectors * SECTOR_SIZE,
        "blocks_written": contents.used,
    }
    if arguments.form is not Format.TABLE:
        emit_record(facts, arguments.form, sys.stdout)
        return 0
    changed = f"{grouped(contents.used)} blocks of 4 KiB written by the guest"
    print(
        f"{styled('written', 'green', sys.stdout)}: {printable(str(arguments.output))},"
        f" disk {number} at {timeline.position}, {size(facts['size'])}, {changed}"
    )
    return 0


def _disks(recording: Recording) -> tuple[Disk, ...]:
    return machine_of(recording.path, recording.manifest).devices.disks


def _number(recording: Recording, disks: tuple[Disk, ...], wanted: int | None) -> int:
    if wanted is None and len(disks) > 1:
        raise UsageError(f"{recording.path.name} has {len(disks)} disks", hint="say which with --number")
    number = wanted or 0
    check_number(recording.path, disks, number)
    return number
