"""Reading the index of a recording.

Rules:
- What is not about this recording as it is now (another one's, a stretch that was evicted, a log that went on) is as
  if it were not there.
- What is damaged is refused.  What is well-formed and not true is not recognized here: a replay from a false state is
  caught at the next digest that it comes to, and against false counts the index can be made again.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, islice
from pathlib import Path

from revirt.checkpoint import CheckpointReader
from revirt.checkpoint.format import checkpoint_name
from revirt.checkpoint.pages import encode_bitmap
from revirt.errors import CorruptError, FormatVersionError, RecordingError, UsageError
from revirt.index.format import (
    FIRST_ID,
    FRAME,
    INTERVALS,
    Contents,
    StretchHeader,
    decode_contents,
    decode_header,
    files_check,
    first_id,
    identity_of,
    interval_at,
    stretch_name,
    stretch_of,
)
from revirt.index.stretches import Stretch, stretches_of
from revirt.log.events import Event
from revirt.log.frame import list_directory, read_file, read_start, stored_limit
from revirt.recording import Recording, layout
from revirt.recording.machine import machine_of
from revirt.replay.replayer import Place

_KEPT = 8
"""Stretches whose contents are kept in memory: up to 48 MiB each, normally some 100 KiB."""
_HINT = "'revirt index' makes the index again"


@dataclass(frozen=True, slots=True)
class Interval:
    """A part of a recording: the lines from branch number ``start`` to before ``end``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class IndexCheckpoint:
    """A checkpoint of the index at a taken branch, ``branches``: number ``number`` in the stretch ``stretch``."""

    branches: int
    stretch: int
    number: int


@dataclass(frozen=True, slots=True)
class LoadedMoment:
    """A checkpoint of the index in memory, but for its pages; ``path`` is its file."""

    path: Path
    state: bytes
    page_map: array[int]
    place: Place


@dataclass(frozen=True, slots=True)
class Count:
    """How many instructions were executed before taken branch number ``branches``, from the recording's start on.

    The next count that is known is at most ``stride`` branches behind it.
    """

    branches: int
    instructions: int
    stride: int


class Index:
    """The index of *recording*, as far as it was made: for some of its stretches, or all.

    Raises CorruptError if the header of a file is damaged; everything that reads does so for what it reads.
    """

    def __init__(self, recording: Recording, stretches: list[Stretch] | None = None) -> None:
        self._recording = recording
        self.stretches = stretches_of(recording) if stretches is None else stretches
        """Those that the recording has, with an index or without."""
        self._headers = {
            each.number: header
            for each in self.stretches
            if (header := _read_header(recording, each)) is not None
        }
        self._contents = lru_cache(_KEPT)(self._read_contents)
        self._checkpoints = lru_cache(None)(self._open_checkpoints)

    def __bool__(self) -> bool:
        return bool(self._headers)

    @property
    def missing(self) -> list[Stretch]:
        """The stretches that have no index."""
        return [each for each in self.stretches if each.number not in self._headers]

    @property
    def is_complete(self) -> bool:
        """Whether all of the recording has an index."""
        return bool(self._headers) and not self.missing

    @property
    def interval_count(self) -> int:
        """How many intervals it has."""
        return sum(header.intervals for header in self._headers.values())

    # -- instructions --------------------------------------------------------------------------------------------

    @cached_property
    def _bases(self) -> list[int]:
        """Instructions before each stretch, and behind the last, as far as they are known without a gap."""
        counts = []
        for each in self.stretches:
            if each.number not in self._headers:
                break
            counts.append(self._headers[each.number].instructions)
        return list(accumulate(counts, initial=0))

    @property
    def instructions(self) -> int:
        """How many instructions the recording has; raises UsageError if not all of it has an index."""
        self._check_complete(len(self.stretches) - 1)
        return self._bases[-1]

    def count_before(self, branches: int) -> Count:
        """Return the last count that is known at or before *branches*; raises UsageError if no index says."""
        place = max(0, bisect_right(self.stretches, branches, key=lambda each: each.begin) - 1)
        self._check_complete(place)
        stretch = self.stretches[place]
        header, marks = self._headers[stretch.number], self._contents(stretch.number).marks
        number = min(branches // header.stride - stretch.begin // header.stride, len(marks))
        return self._count(place, max(0, number))

    def count_up_to(self, instructions: int) -> Count:
        """Return the last count that is known and not above *instructions*; raises UsageError if no index says."""
        place = max(0, min(bisect_right(self._bases, instructions) - 1, len(self.stretches) - 1))
        self._check_complete(place)
        marks = self._contents(self.stretches[place].number).marks
        return self._count(place, bisect_right(marks, instructions - self._bases[place]))

    def events(self) -> Iterator[tuple[Event, int]] | None:
        """Yield the events behind the first checkpoint, each with the instructions executed before it.

        None if they were not all counted.
        """
        counted = (self._headers.get(each.number) for each in self.stretches)
        if not all(each and each.events == each.event_end - each.first_event for each in counted):
            return None
        return self._events()

    def _events(self) -> Iterator[tuple[Event, int]]:
        first = self.stretches[0].first_event if self.stretches else 0
        end = self.stretches[-1].event_end if self.stretches else 0
        counts = (
            base + count
            for stretch, base in zip(self.stretches, self._bases, strict=False)
            for count in self._contents(stretch.number).events
        )
        yield from zip(islice(self._recording.events(first), end - first), counts, strict=True)

    def _count(self, place: int, number: int) -> Count:
        """Return count number *number* of the stretch at *place*, 0 being that at its begin."""
        stretch, base = self.stretches[place], self._bases[place]
        stride = self._headers[stretch.number].stride
        if number == 0:
            return Count(stretch.begin, base, stride)
        marks = self._contents(stretch.number).marks
        return Count((stretch.begin // stride + number) * stride, base + marks[number - 1], stride)

    def _check_complete(self, place: int) -> None:
        """Raise UsageError if instructions are not counted to the end of the stretch at *place*."""
        if place + 1 >= len(self._bases):
            name = self._recording.path.name
            raise UsageError(f"instructions of {name} are not counted", hint=f"revirt index {name}")

    # -- written pages -------------------------------------------------------------------------------------------

    def intervals_writing(self, pages: Collection[int]) -> list[Interval]:
        """Return the intervals, in order, in which one of *pages* (numbers) is written, also with what it holds.

        An access is on the line on which it is made, and that by an interrupt being taken on the line that it ends.
        What has no index counts as written.
        """
        found: list[Interval] = []
        for stretch in self.stretches:
            begin, end = stretch.info.branches, stretch.end + stretch.is_last
            header = self._headers.get(stretch.number)
            if header is not None:
                found += self._writing(stretch.number, pages)
                begin = header.end
            if begin < end:
                found.append(Interval(begin, end))
        return found

    def _writing(self, number: int, pages: Collection[int]) -> Iterator[Interval]:
        header, contents = self._headers[number], self._contents(number)
        wanted = encode_bitmap((page for page in pages if page < header.pages), header.pages)
        bits = int.from_bytes(wanted, "little")
        # A CPU that halted takes the interrupt on the line before.
        begins = [contents.begins[0] - self._stretch(number).info.halted, *contents.begins[1:]]
        for start, end, written in zip(begins, [*begins[1:], header.end], contents.written, strict=True):
            if bits & int.from_bytes(written, "little"):
                yield Interval(start, end)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint_before(self, branches: int) -> IndexCheckpoint | None:
        """Return the last checkpoint of the index at or before *branches*, None if the recording's own is as near."""
        place = max(0, bisect_right(self.stretches, branches, key=lambda each: each.begin) - 1)
        if place >= len(self.stretches) or self.stretches[place].number not in self._headers:
            return None
        stretch = self.stretches[place].number
        number = interval_at(self._contents(stretch).begins, branches)
        if number == 0 or not self._checkpoints(stretch).infos:
            return None
        return IndexCheckpoint(self._contents(stretch).begins[number], stretch, number)

    def load(self, checkpoint: IndexCheckpoint) -> LoadedMoment:
        """Return *checkpoint*, its pages not read yet."""
        with _damage():
            loaded = self._checkpoints(checkpoint.stretch).load(checkpoint.number)
        pending = self._contents(checkpoint.stretch).pending[checkpoint.number]
        # The hash of the events since the last digest is not kept: making it takes as long as reading them.
        place = Place(loaded.info.event, None, pending)
        path = _path(self._recording, checkpoint.stretch).with_name(checkpoint_name(checkpoint.number))
        return LoadedMoment(path, loaded.state, loaded.page_map, place)

    def pages(self, ids: array[int]) -> Iterator[tuple[range, bytes]]:
        """Yield the contents of stored pages, as `Recording.read_pages` does, those of the index included."""
        start = 0
        while start < len(ids):
            if ids[start] < FIRST_ID:
                end = bisect_left(ids, FIRST_ID)
                found = self._recording.read_pages(ids[start:end])
            else:
                stretch = stretch_of(ids[start])
                end = bisect_left(ids, first_id(stretch + 1), start)
                found = self._own_pages(stretch, ids[start:end])
            for places, contents in found:
                yield range(start + places.start, start + places.stop), contents
            start = end

    def _own_pages(self, stretch: int, ids: array[int]) -> Iterator[tuple[range, bytes]]:
        reader, path = self._checkpoints(stretch), _path(self._recording, stretch)
        with _damage():
            _, header = decode_header(path, read_start(path, FRAME.header_size))
        # Made again in another way, it has other pages under the ids that are known.
        if header != self._headers[stretch]:
            raise CorruptError(path, "was made again meanwhile", hint="open the recording again")
        with _damage():
            yield from reader.pages(ids)

    def verify(self, number: int) -> None:
        """Read everything of the index of stretch *number*; raises CorruptError."""
        reader = self._checkpoints(number)
        self._contents(number)
        with _damage():
            for info in reader.infos:
                reader.load(info.number)
                reader.verify_pages(info.number)

    # -- details -------------------------------------------------------------------------------------------------

    def _stretch(self, number: int) -> Stretch:
        return next(each for each in self.stretches if each.number == number)

    def _read_contents(self, number: int) -> Contents:
        path = _path(self._recording, number)
        with _damage():
            data = read_file(path, FRAME.header_size + stored_limit(FRAME.raw_limit))
            if decode_header(path, data)[1] != self._headers.get(number):
                raise CorruptError(path, "changed while it was being read", offset=0)
            return decode_contents(path, data)

    def _open_checkpoints(self, number: int) -> CheckpointReader:
        """Return the checkpoints of the index of stretch *number*, all or none of which are there."""
        path = _path(self._recording, number)
        reader = CheckpointReader(path.parent, path.parent, first=1)
        with _damage():
            if number not in self._headers:
                raise CorruptError(path, "missing")
            if files_check(path.parent) != self._headers[number].files:
                raise CorruptError(path, "is about other checkpoints than those beside it", offset=0)
            found = [info.branches for info in reader.infos]
            if found and found != list(self._contents(number).begins[1:]):
                raise CorruptError(path, "its checkpoints are not where intervals begin")
            if reader.headers:
                first, last = reader.headers[0], reader.headers[-1]
                if first.first_page != first_id(number) or last.first_page + last.page_count > first_id(
                    number + 1
                ):
                    raise CorruptError(path, "the pages of its checkpoints are not its own")
        return reader


def is_sound(recording: Recording, stretch: Stretch) -> bool:
    """Return whether *stretch* of *recording* has an index, all of which can be read."""
    try:
        index = Index(recording, [stretch])
        if index:
            index.verify(stretch.number)
        return bool(index)
    except RecordingError:
        return False


def _path(recording: Recording, number: int) -> Path:
    return recording.path / layout.INDEX / stretch_name(number) / INTERVALS


def _read_header(recording: Recording, stretch: Stretch) -> StretchHeader | None:
    """Return the header of the index of *stretch*, None if there is none, or it is about something else.

    Raises CorruptError if it is damaged.
    """
    path = _path(recording, stretch.number)
    if not os.path.lexists(path):
        return None
    with _damage():
        # Neither directory may be a link: a recording must not let its reader reach for other files.
        list_directory(path.parents[1])
        list_directory(path.parent)
        try:
            _, header = decode_header(path, read_start(path, FRAME.header_size))
        except FormatVersionError:
            return None
    expected = (identity_of(recording.manifest.uuid, stretch.info), stretch.first_event, stretch.event_end)
    if (header.identity, header.first_event, header.event_end) != expected:
        return None
    pages = machine_of(recording.path, recording.manifest).page_count
    is_whole = stretch.is_last or header.end == stretch.end
    if header.begin != stretch.begin or not is_whole or header.pages != pages:
        raise CorruptError(path, "is about something else than its stretch", offset=0, hint=_HINT)
    return header


@contextmanager
def _damage() -> Iterator[None]:
    """Let damage that is found in the block be known as that of the index, which can be made again."""
    try:
        yield
    except CorruptError as error:
        raise CorruptError(error.path, error.problem, offset=error.offset, hint=_HINT) from error
