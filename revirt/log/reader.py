"""Reading a log: its segments in order, their events as they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

from revirt.errors import CorruptError
from revirt.log import segment
from revirt.log.events import Event
from revirt.log.frame import list_directory
from revirt.log.segment import Segment


class Start(NamedTuple):
    """Where a log begins: its first segment, and the ordinal of that one's first event."""

    segment: int
    event: int


START = Start(0, 0)


def list_files(directory: Path, first: int = 0) -> list[Path]:
    """Return the files of segments from index *first* on in *directory*, in order; raises as `list_directory`.

    Names of other files, such as those of segments being written, are passed over.
    """
    indexed = [(segment.index_of(path), path) for path in list_directory(directory)]
    return [
        path
        for _, path in sorted(
            (index, path) for index, path in indexed if index is not None and index >= first
        )
    ]


def check_order(before: Segment | None, after: Segment, start: Start = START) -> None:
    """Raise CorruptError unless *after* can follow *before* (None: nothing) in one log that begins at *start*."""
    index = before.index + 1 if before else start.segment
    ordinal = before.ordinal + before.count if before else start.event
    if after.index != index:
        raise CorruptError(after.path, f"segment {index} is missing before it")
    if after.ordinal != ordinal:
        raise CorruptError(after.path, f"begins with event {after.ordinal}, not {ordinal}", offset=0)
    if before and after.first_branches < before.last_branches:
        raise CorruptError(after.path, f"begins before {before.path.name} ends", offset=0)


class LogReader:
    """The log in *directory*, from *start* on, as it was when its segments were first asked for.

    Events go by their ordinal, counted from the beginning of the recording, also where that was evicted.
    """

    def __init__(self, directory: Path, start: Start = START) -> None:
        self.directory = directory
        self.start = start

    @cached_property
    def segments(self) -> list[Segment]:
        """What the headers of all segments say, in order; raises CorruptError, also if one is missing."""
        segments = [segment.read_header(path) for path in list_files(self.directory, self.start.segment)]
        for before, after in pairwise([None, *segments]):
            assert after is not None
            check_order(before, after, self.start)
        return segments

    @property
    def end(self) -> int:
        """The ordinal behind that of the last event."""
        return self.segments[-1].ordinal + self.segments[-1].count if self.segments else self.start.event

    @property
    def count(self) -> int:
        """Events in the log."""
        return self.end - self.start.event

    @property
    def size(self) -> int:
        """Bytes of the log on disk."""
        return sum(each.size for each in self.segments)

    def parts(self, after: int = 0) -> Iterator[tuple[Segment, list[Event]]]:
        """Yield the segments from the one with ordinal *after* on, each with all of its events, as they are asked for.

        Raises CorruptError when it comes to a segment that is damaged.
        """
        # Looked up, not walked to: an audit asks for the events of every checkpoint.
        start = bisect_right(self.segments, after, key=lambda each: each.ordinal + each.count)
        for known in islice(self.segments, start, None):
            found, events = segment.read(known.path)
            # The last segment may have grown since.
            if found.ordinal != known.ordinal or found.count < known.count:
                raise CorruptError(known.path, "changed while it was being read", offset=0)
            yield known, events[: known.count]

    def events(self, after: int = 0) -> Iterator[Event]:
        """Yield the events from ordinal *after* on, reading a segment at a time and none that is not needed.

        Raises CorruptError when it comes to a segment that is damaged.
        """
        for known, events in self.parts(after):
            yield from events[max(after - known.ordinal, 0) :]
