"""Making an interrupted recording complete: it ends at the last segment that is whole.

One that was complete, of which a recorder just did not live to say so, ends as its seal says (see
`revirt.recording.seal`).

What does not belong to that is not deleted but put aside, under its name with ``.damaged`` behind it: files that were
being written when the recorder died, segments from the first damaged one on, checkpoints whose event was not written
any more.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from revirt.checkpoint import CheckpointReader
from revirt.checkpoint.format import checkpoint_name, number_of, pages_name
from revirt.checkpoint.reader import list_checkpoints
from revirt.errors import CorruptError, NoRecordingError, RecordingError
from revirt.log import segment
from revirt.log.events import Event
from revirt.log.frame import list_directory, write_whole
from revirt.log.reader import Start, check_order, list_files
from revirt.log.segment import Segment
from revirt.recording import layout
from revirt.recording.manifest import NAME, Manifest, RecordingState
from revirt.recording.seal import Seal, is_sealed
from revirt.recording.store import is_recording

ASIDE = ".damaged"
REASON = "the recorder died; repaired"


@dataclass(frozen=True, slots=True)
class Lost:
    """Something that is not part of a repaired recording: the file that was put aside, and why."""

    path: Path
    problem: str


@dataclass(frozen=True, slots=True)
class Repair:
    """What came of a repair: where the recording ends now, and what is lost."""

    events: int
    branches: int
    checkpoints: int
    lost: list[Lost]


def was_repaired(contents: Manifest) -> bool:
    """Return whether *contents* are of a recording that `repair` completed, as far as they say so."""
    return contents.state == RecordingState.COMPLETE and (contents.end or {}).get("reason") == REASON


def repair(path: Path) -> Repair:
    """Turn the interrupted recording in *path* into a complete one.

    Raises NoRecordingError if there is none, RecordingError if it is being recorded, is complete already, or nothing of
    it can be replayed; CorruptError if its manifest or a checkpoint's header is damaged.
    """
    if not is_recording(path):
        raise NoRecordingError(path)
    lock = _lock(path)
    try:
        contents = Manifest.read(path / NAME)
        if contents.state == RecordingState.COMPLETE:
            raise RecordingError(f"{path} is complete", hint=f"to check it: revirt verify {path.name}")
        return _repair(path, contents)
    except OSError as error:
        raise RecordingError(f"cannot repair {path}: {error.strerror or error}") from error
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """Return a descriptor of the lock, held: nobody else repairs at the same time."""
    try:
        lock = os.open(path / layout.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise RecordingError(f"cannot repair {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise RecordingError(f"{path} is still being recorded", hint="stop its recorder first") from error
    return lock


def _repair(path: Path, contents: Manifest) -> Repair:
    start = contents.start
    end, last, lost = _whole_log(path / layout.LOG, Start(start.segment, start.event))
    checkpoints, orphans = _whole_checkpoints(path, start.checkpoint, end)
    if last is None or checkpoints == start.checkpoint:
        raise RecordingError(f"{path} ended before its first checkpoint: there is nothing to replay")
    lost += orphans
    lost += [Lost(each, "was being written") for each in _half_written(path)]
    said = _sealed_end(path, contents, events=end, checkpoints=checkpoints) or {
        "reason": REASON,
        "branches": last.branches,
        "pc": last.pc,
        "events": end,
        "checkpoints": checkpoints,
        "lost": [f"{each.path.relative_to(path)}: {each.problem}" for each in lost],
    }
    try:
        text = replace(contents, state=RecordingState.COMPLETE, end=said).to_json()
    except ValueError as error:
        raise CorruptError(path / NAME, "leaves no room for how the recording ended") from error
    for each in lost:
        _put_aside(each.path)
    write_whole(path / NAME, text.encode())
    return Repair(end - start.event, last.branches, checkpoints - start.checkpoint, lost)


def _sealed_end(path: Path, contents: Manifest, **counts: int) -> dict[str, Any] | None:
    """Return how the recording in *path* ended, if it was sealed that it was complete, with these *counts*."""
    try:
        end = Seal.open(path, contents).end
    except RecordingError:
        # What is wrong with it is for `verify` to say, before a repair and after.
        return None
    if end is None or end.state != RecordingState.COMPLETE:
        return None
    return end.end if all(end.end.get(name) == count for name, count in counts.items()) else None


def _put_aside(path: Path) -> None:
    """Rename *path*; what an earlier repair put aside under that name stays."""
    target, count = path.with_name(path.name + ASIDE), 1
    while os.path.lexists(target):
        count += 1
        target = path.with_name(f"{path.name}{ASIDE}-{count}")
    path.rename(target)


def _whole_log(directory: Path, start: Start) -> tuple[int, Event | None, list[Lost]]:
    """Return the ordinal behind the last event that is whole, that event, and the segments that are lost."""
    before: Segment | None = None
    last: Event | None = None
    files = list_files(directory, start.segment)
    for position, path in enumerate(files):
        try:
            found, events = segment.read(path)
            check_order(before, found, start)
        except CorruptError as error:
            behind = [Lost(each, f"behind {path.name}, which is damaged") for each in files[position + 1 :]]
            return _end_of(before, start), last, [Lost(path, error.problem), *behind]
        before, last = found, events[-1]
    return _end_of(before, start), last, []


def _end_of(last: Segment | None, start: Start) -> int:
    return last.ordinal + last.count if last is not None else start.event


def _whole_checkpoints(path: Path, first: int, end: int) -> tuple[int, list[Lost]]:
    """Return the number behind the last checkpoint that has its event below ordinal *end*, and those that have not."""
    infos = CheckpointReader(path / layout.CHECKPOINTS, path / layout.PAGES, first=first).infos
    numbers = [info.number for info in infos if info.event < end]
    behind = numbers[-1] + 1 if numbers else first
    orphans = [
        Lost(each, "its event was not written any more")
        for file in list_checkpoints(path / layout.CHECKPOINTS)
        if (number_of(file) or 0) >= behind
        for each in _files_of(path, number_of(file) or 0)
    ]
    return behind, orphans


def _files_of(path: Path, number: int) -> Iterator[Path]:
    """Yield the files of checkpoint *number* that are there."""
    for file in (
        path / layout.CHECKPOINTS / checkpoint_name(number),
        path / layout.PAGES / pages_name(number),
    ):
        if os.path.lexists(file):
            yield file


def _half_written(path: Path) -> Iterator[Path]:
    parts = (*layout.ALWAYS, layout.SEAL) if is_sealed(path) else layout.ALWAYS
    for part in parts:
        yield from (each for each in list_directory(path / part) if each.suffix == ".tmp")
    manifest = path / f"{NAME}.tmp"
    if os.path.lexists(manifest):
        yield manifest
