"""What the commands show, as rows: queries over recordings, with no word about how they look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revirt.errors import RecordingError, UsageError
from revirt.log.events import Event, Kind
from revirt.log.wording import payload
from revirt.machine.devices import BLOCK_SIZE
from revirt.recording import Recording
from revirt.recording.disks import find_bases
from revirt.recording.machine import machine_of
from revirt.recording.writes import count_writes


@dataclass(frozen=True, slots=True)
class RecordingRow:
    """A recording; ``size`` is that of log and checkpoints in bytes.

    What cannot be read is None; ``problem`` says why.
    """

    name: str
    path: Path
    state: str
    guest: str | None = None
    clock: str | None = None
    branches: int | None = None
    guest_seconds: float | None = None
    size: int | None = None
    created: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event: the *ordinal*-th of its recording, from 0.

    ``icount`` is the number of instructions executed before it since the first checkpoint, None if nobody
    counted.
    """

    ordinal: int
    kind: str
    branches: int
    halted: bool
    pc: str
    payload: str
    number: int
    data: bytes
    icount: int | None = None

    @property
    def position(self) -> str:
        """Where it stands: the branch count, and whether the CPU was halted."""
        return f"{self.branches}{' hlt' if self.halted else ''}"


def recording_rows(paths: Iterable[Path]) -> Iterator[RecordingRow]:
    """Yield a row for each recording of *paths*; one that cannot be read is in the state ``damaged``."""
    for path in paths:
        try:
            recording = Recording.open(path)
            facts = recording_facts(recording)
        except RecordingError as error:
            yield RecordingRow(path.name, path, "damaged", problem=str(error))
            continue
        yield RecordingRow(
            path.name,
            path,
            recording.state,
            facts["guest"].get("name"),
            facts["clock"],
            facts["branches"],
            facts["guest_seconds"],
            recording.log_bytes + recording.checkpoint_bytes,
            facts["created"],
        )


def recording_facts(recording: Recording) -> dict[str, Any]:
    """Return what there is to know about *recording* as a whole; sizes in bytes.

    Where the manifest does not tell them, as that of a recording that was interrupted, ``branches`` are those of the
    last event, and ``guest_seconds`` those of the last checkpoint.
    """
    manifest = recording.manifest
    end = manifest.end or {}
    # Numbers from a manifest are whatever somebody wrote there.
    branches, guest_ns, exit_code = (_integer(end, key) for key in ("branches", "guest_ns", "exit_code"))
    if branches is None or guest_ns is None:
        last_branches, last_ns = _last_seen(recording)
        branches = last_branches if branches is None else branches
        guest_ns = last_ns if guest_ns is None else guest_ns
    return {
        "path": recording.path,
        "state": recording.state,
        "guest": manifest.guest,
        "clock": manifest.clock,
        "created": manifest.created,
        "branches": branches,
        "guest_seconds": guest_ns / 1e9,
        "events": recording.event_count,
        "log_bytes": recording.log_bytes,
        "checkpoints": len(recording.checkpoints),
        "checkpoint_bytes": recording.checkpoint_bytes,
        "ring": manifest.ring,
        "kept": manifest.kept,
        "origins": manifest.origins,
        "reason": end.get("reason"),
        "exit_code": exit_code,
        "machine": manifest.machine,
        "versions": manifest.versions,
        "command": manifest.command,
        "uuid": manifest.uuid,
        "format": manifest.format,
    }


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk of a recorded machine: sizes in bytes; *overlay* is how much the guest may write, in whole blocks.

    *path* is where the image is that it was recorded with, *problem* what is wrong with that at a glance.  The guest
    wrote *written* bytes in so many *writes*.
    """

    number: int
    size: int
    sha256: str
    overlay: int
    path: Path
    problem: str | None
    writes: int
    written: int


def disk_facts(recording: Recording) -> list[DiskFacts]:
    """Return what there is to know about the disks of *recording*, none if its machine is not known.

    Reads the log if there are any; raises as `Recording.events`.
    """
    try:
        disks = machine_of(recording.path, recording.manifest).devices.disks
    except RecordingError:
        return []
    if not disks:
        return []
    counts = count_writes(recording, len(disks))
    return [
        DiskFacts(
            found.number,
            found.disk.size,
            found.disk.sha256,
            found.disk.overlay * BLOCK_SIZE,
            found.path,
            found.problem,
            count.writes,
            count.size,
        )
        for found, count in zip(find_bases(recording.path, disks), counts, strict=True)
    ]


def _integer(values: dict[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if type(value) is int and 0 <= value < 1 << 64 else None


def _last_seen(recording: Recording) -> tuple[int, int]:
    branches = guest_ns = 0
    for info in recording.checkpoints:
        branches, guest_ns = max(branches, info.branches), max(guest_ns, info.guest_ns)
    for event in recording.events(after=max(0, recording.event_end - 1)):
        branches = event.branches
    return branches, guest_ns


def event_rows(
    events: Iterable[Event | tuple[Event, int]], kinds: Collection[Kind] = frozenset(Kind), *, first: int = 0
) -> Iterator[EventRow]:
    """Yield the rows of those *events* (alone or with their instruction counts) that are of *kinds*.

    *first* is the ordinal of the first event.
    """
    for ordinal, item in enumerate(events, first):
        event, icount = (item, None) if isinstance(item, Event) else item
        if event.kind in kinds:
            yield EventRow(
                ordinal,
                event.kind.label,
                event.branches,
                event.halted,
                f"{event.pc:#x}",
                payload(event),
                event.number,
                event.data,
                icount,
            )


def kinds_named(names: Iterable[str]) -> frozenset[Kind]:
    """Return the kinds of those labels; raises UsageError for one that there is not."""
    known = {kind.label: kind for kind in Kind}
    for name in names:
        if name not in known:
            raise UsageError(f"no kind of event is called {name!r}", hint=f"the kinds are {', '.join(known)}")
    return frozenset(known[name] for name in names)
