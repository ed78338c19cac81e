"""Reading a log: its segments in order, their events as they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from revirt.errors import CorruptError
from revirt.log import segment
from revirt.log.events import Event
from revirt.log.frame import list_directory
from revirt.log.segment import Segment


def list_files(directory: Path) -> list[Path]:
    """Return the segment files in *directory*, in order; raises as `list_directory`.

    Names of other files, such as those of segments being written, are passed over.
    """
    return [path for path in list_directory(directory) if segment.index_of(path) is not None]


def check_order(before: Segment | None, after: Segment) -> None:
    """Raise CorruptError unless *after* can follow *before* (None: nothing) in one log."""
    index = before.index + 1 if before else 0
    ordinal = before.ordinal + before.count if before else 0
    if after.index != index:
        raise CorruptError(after.path, f"segment {index} is missing before it")
    if after.ordinal != ordinal:
        raise CorruptError(after.path, f"begins with event {after.ordinal}, not {ordinal}", offset=0)
    if before and after.first_branches < before.last_branches:
        raise CorruptError(after.path, f"begins before {before.path.name} ends", offset=0)


class LogReader:
    """The log in *directory* as it was when its segments were first asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def segments(self) -> list[Segment]:
        """What the headers of all segments say, in order; raises CorruptError, also if one is missing."""
        segments = [segment.read_header(path) for path in list_files(self.directory)]
        for before, after in pairwise([None, *segments]):
            assert after is not None
            check_order(before, after)
        return segments

    @property
    def count(self) -> int:
        """Events in the log."""
        return sum(each.count for each in self.segments)

    @property
    def size(self) -> int:
        """Bytes of the log on disk."""
        return sum(each.size for each in self.segments)

    def events(self, after: int = 0) -> Iterator[Event]:
        """Yield the events but for the first *after*, reading a segment at a time and none that is not
        needed.

        Raises CorruptError when it comes to a segment that is damaged.
        """
        # Looked up, not walked to: an audit asks for the events of every checkpoint.
        start = bisect_right(self.segments, after, key=lambda each: each.ordinal + each.count)
        for position in range(start, len(self.segments)):
            known = self.segments[position]
            found, events = segment.read(known.path)
            # The last segment may have grown since.
            if found.ordinal != known.ordinal or found.count < known.count:
                raise CorruptError(known.path, "changed while it was being read", offset=0)
            yield from events[max(after - known.ordinal, 0) : known.count]
