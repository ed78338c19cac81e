"""Checking every byte of a recording."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from revirt.checkpoint import CheckpointInfo, CheckpointReader
from revirt.checkpoint.format import checkpoint_name
from revirt.errors import CorruptError, RecordingError
from revirt.log import segment
from revirt.log.events import Event, Kind
from revirt.log.reader import check_order, list_files
from revirt.log.segment import Segment
from revirt.recording import layout
from revirt.recording.manifest import NAME, Manifest, RecordingState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in a recording: which file, at which byte (None: as a whole), and what."""

    path: Path
    offset: int | None
    problem: str


_Check = Generator[Finding, None, T]


def verify(path: Path, contents: Manifest, state: RecordingState) -> Iterator[Finding]:
    """Check everything in the recording *path* but its manifest, which is *contents*; yield what is wrong."""
    events: dict[int, tuple[int, Event]] = {}
    counted = yield from _verify_log(path / layout.LOG, events)
    reader = CheckpointReader(path / layout.CHECKPOINTS, path / layout.PAGES)
    infos = yield from _verify_checkpoints(path / layout.CHECKPOINTS, reader)
    if counted is not None and infos is not None:
        yield from _verify_pairs(path / layout.CHECKPOINTS, events, infos, counted)
        if state is RecordingState.COMPLETE:
            yield from _verify_counts(path / NAME, contents, {"events": counted, "checkpoints": len(infos)})


def _verify_log(directory: Path, checkpoints: dict[int, tuple[int, Event]]) -> _Check[int | None]:
    """Check the log; return how many events it has, None if that cannot be told.

    Collects ordinals and events of kind CHECKPOINT, by their number, in *checkpoints*.
    """
    try:
        files = list_files(directory)
    except RecordingError as error:
        yield _finding(directory, error)
        return None
    before: Segment | None = None
    damaged = False
    for path in files:
        try:
            found, events = segment.read(path)
            # Behind a damaged segment nothing says where the next should begin.
            if not damaged:
                check_order(before, found)
        except RecordingError as error:
            damaged = True
            yield _finding(path, error)
            continue
        before = found
        for ordinal, event in enumerate(events, found.ordinal):
            if event.kind is Kind.CHECKPOINT:
                checkpoints[event.number] = (ordinal, event)
    if damaged:
        return None
    return before.ordinal + before.count if before else 0


def _verify_checkpoints(directory: Path, reader: CheckpointReader) -> _Check[list[CheckpointInfo] | None]:
    """Check checkpoints and pages; return what checkpoints there are, None if that cannot be told."""
    try:
        infos = reader.infos
    except RecordingError as error:
        # Without all headers pages cannot be found; `infos` stopped at the first that is damaged.
        yield _finding(directory, error)
        return None
    for info in infos:
        path = directory / checkpoint_name(info.number)
        for check in (reader.load, reader.verify_pages):
            try:
                check(info.number)
            except RecordingError as error:
                yield _finding(path, error)
    return infos


def _verify_pairs(
    directory: Path, events: dict[int, tuple[int, Event]], infos: list[CheckpointInfo], counted: int
) -> Iterator[Finding]:
    """Check that every checkpoint stands where its event does, and that every event has one."""
    for info in infos:
        # Its event may not have been written any more when the recorder died.
        if info.event >= counted and info.number not in events:
            continue
        ordinal, event = events.pop(info.number, (None, None))
        if event is None or ordinal != info.event:
            yield Finding(directory / checkpoint_name(info.number), 0, f"event {info.event} is not its own")
        elif (event.branches, event.halted, event.pc) != (info.branches, info.halted, info.pc):
            yield Finding(directory / checkpoint_name(info.number), 0, "does not stand where its event does")
    for number in events:
        yield Finding(directory / checkpoint_name(number), None, "missing")


def _verify_counts(path: Path, contents: Manifest, found: dict[str, int]) -> Iterator[Finding]:
    for name, count in found.items():
        expected = (contents.end or {}).get(name)
        if expected != count:
            yield Finding(path, None, f"counts {expected} {name} where there are {count}")


def _finding(path: Path, error: RecordingError) -> Finding:
    if isinstance(error, CorruptError):
        return Finding(error.path, error.offset, error.problem)
    return Finding(path, None, str(error))
