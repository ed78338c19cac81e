"""What a guest wrote to its disks, as the log of a recording has it, and when, as far as the log tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from revirt.errors import CorruptError
from revirt.log.events import STORED_DATA, Event, Kind
from revirt.recording import layout
from revirt.recording.frames import timed_events
from revirt.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class RecordedWrite:
    """A write to disk number *disk*: event number *ordinal*.

    *size* bytes went to *sector* (of 512 bytes) and those behind it; *digest* is the BLAKE2b-64 of them.  ``guest_ns``
    is the guest's time, None if the log does not tell.
    """

    ordinal: int
    branches: int
    halted: bool
    guest_ns: int | None
    disk: int
    sector: int
    size: int
    digest: bytes


@dataclass(slots=True)
class Written:
    """How much was written to a disk: so many *writes*, of *size* bytes in all."""

    writes: int = 0
    size: int = 0


def recorded_writes(recording: Recording) -> Iterator[RecordedWrite]:
    """Yield what was written to the disks of *recording*, in order; raises as `Recording.events`."""
    for ordinal, event, guest_ns in timed_events(recording, frozenset({Kind.STORED})):
        disk, size, digest = _unpack(recording, ordinal, event)
        yield RecordedWrite(ordinal, event.branches, event.halted, guest_ns, disk, event.number, size, digest)


def count_writes(recording: Recording, disks: int) -> list[Written]:
    """Return how much was written to each of the *disks* of *recording*; raises as `Recording.events`."""
    counts = [Written() for _ in range(disks)]
    for ordinal, event in enumerate(recording.events(), recording.manifest.start.event):
        if event.kind is Kind.STORED:
            disk, size, _ = _unpack(recording, ordinal, event)
            if disk < disks:
                counts[disk].writes += 1
                counts[disk].size += size
    return counts


def _unpack(recording: Recording, ordinal: int, event: Event) -> tuple[int, int, bytes]:
    if len(event.data) != STORED_DATA.size:
        raise CorruptError(recording.path / layout.LOG, f"event {ordinal} is no write to a disk")
    disk, size, digest = STORED_DATA.unpack(event.data)
    return disk, size, digest
