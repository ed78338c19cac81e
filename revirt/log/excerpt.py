"""A stretch of a log as a log of its own: the same events, under the same numbers."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import CorruptError
from revirt.log import segment
from revirt.log.events import Event
from revirt.log.frame import write_whole
from revirt.log.reader import LogReader, Start
from revirt.log.rows import rows_of


@dataclass(frozen=True, slots=True)
class LogExcerpt:
    """What was written: where it starts, the ordinal behind its last event, and that event."""

    start: Start
    end: int
    last: Event


def write_log_excerpt(source: LogReader, directory: Path, first: int, branches: int) -> LogExcerpt:
    """Write the events of *source* from ordinal *first* on, up to the branch count *branches*, to *directory*.

    Segments keep their indices; those that are in it as a whole come out as they went in.  Raises CorruptError if
    what is needed of *source* is damaged or missing, OSError if *directory* cannot be written.
    """
    start, end, last = Start(0, first), first, None
    for known, events in source.parts(first):
        if known.first_branches > branches:
            break
        inside = events[max(first - known.ordinal, 0) : bisect_right(events, branches, key=_branches_of)]
        if not inside:
            break
        try:
            encoded = segment.encode(known.index, end, rows_of(inside))
        except ValueError as error:
            raise CorruptError(known.path, str(error)) from error
        write_whole(directory / segment.file_name(known.index), encoded)
        start = start if last else Start(known.index, first)
        end, last = end + len(inside), inside[-1]
    if last is None or first < source.start.event:
        raise CorruptError(source.directory, f"event {first} is missing, or does not stand where it should")
    return LogExcerpt(start, end, last)


def _branches_of(event: Event) -> int:
    return event.branches
