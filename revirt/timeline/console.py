"""Finding what the guest says: text in the log, and the instruction that transmitted a byte of it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from revirt.errors import UsageError
from revirt.log.events import LINE_LIMIT, Kind
from revirt.position import Position
from revirt.timeline.events import Events
from revirt.timeline.walker import Walker

_PATTERNS: Final = 16
"""Patterns whose places are remembered."""

Place = tuple[int, int]
"""A transmitted byte: the ordinal of the event that has it, and which of its bytes it is.

Behind the last such event it is the ordinal behind all events.
"""


class ConsoleSearch:
    """Finds text among *events*, and where the guest was that *walker* replays when it transmitted it."""

    def __init__(self, walker: Walker, events: Events, start: int) -> None:
        self._walker = walker
        self._events = events
        self._start = start
        self._end = walker.session.recording.end_branches
        self._places = lru_cache(_PATTERNS)(self._find)

    def after(self, pattern: bytes) -> Place | None:
        """Return the first byte that is not transmitted yet, and completes a match; UsageError for no *pattern*."""
        places = self._places(pattern)
        at = bisect_left(places, self._next())
        return places[at] if at < len(places) else None

    def before(self, pattern: bytes) -> Place | None:
        """Return the last byte that is transmitted, and completes a match; UsageError for no *pattern*."""
        places = self._places(pattern)
        at = bisect_left(places, self._next())
        return places[at - 1] if at else None

    def locate(self, place: Place) -> Position:
        """Return the position before the instruction that transmits the byte *place*; the walker is left anywhere."""
        ordinal, _ = place
        sent = (at for at, event in self._events.before(ordinal) if event.is_serial_output)
        begin = next(sent, None)
        branches = self._start if begin is None else max(self._start, self._events[begin].branches)
        is_told = ordinal < self._events.end
        line = self._line_of(place, branches, self._events[ordinal].branches if is_told else self._end)
        self._walker.stand_at(line)
        core = self._walker.machine.core
        first, steps = core.instructions, []
        with self._walker.hearing(lambda: steps.append((self._next(), core.instructions - first - 1))):
            self._go_along()
        return Position(line, next(step for at, step in steps if at == place))

    def _line_of(self, place: Place, start: int, end: int) -> int:
        """Return the line on which *place* is transmitted, which is from *start* to *end*."""
        core = self._walker.machine.core
        lines: list[int] = []

        def hear() -> None:
            if self._next() == place:
                lines.append(core.branches)

        self._walker.stand_at(start)
        with self._walker.hearing(hear):
            self._walker.run(end)
            if not lines:
                self._go_along()
        return lines[0]

    def _go_along(self) -> None:
        with self._walker.gone_along():
            pass

    def _next(self) -> Place:
        """Return the next byte to be transmitted."""
        replayer = self._walker.session.replayer
        coming = enumerate(self._events.after(replayer.next_event), replayer.next_event)
        ordinal = next((at for at, event in coming if event.is_serial_output), self._events.end)
        return ordinal, replayer.pending_output

    def _find(self, pattern: bytes) -> list[Place]:
        """Return the bytes that complete the first match of *pattern* in each line that has one."""
        try:
            compiled = re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(
                f"{pattern.decode(errors='replace')!r} is not a regular expression: {error}"
            ) from error
        places = []
        for starts, line in self._lines():
            for end in range(1, len(line) + 1):
                if compiled.search(line, 0, end):
                    at = bisect_right(starts, end - 1, key=lambda each: each[0]) - 1
                    places.append((starts[at][1], end - 1 - starts[at][0]))
                    break
        return places

    def _lines(self) -> Iterator[tuple[list[tuple[int, int]], bytes]]:
        """Yield every line, with where in it events begin: (offset, ordinal)."""
        starts: list[tuple[int, int]] = []
        line = bytearray()
        for ordinal, event in enumerate(self._events.after(self._events.first), self._events.first):
            if event.is_serial_output:
                starts.append((len(line), ordinal))
                line += event.data
                if line.endswith(b"\n") or len(line) >= LINE_LIMIT:
                    yield starts, bytes(line)
                    starts, line = [], bytearray()
        tail = self._tail()
        if line or tail:
            starts.append((len(line), self._events.end))
            yield starts, bytes(line) + tail

    def _tail(self) -> bytes:
        """Return what the guest transmits behind the last event that has any: a log may be cut off before that."""
        if self._events[self._events.end - 1].kind is Kind.END:
            return b""
        here = self._walker.position
        self._walker.stand_at(self._end)
        data = self._walker.session.replayer.place.pending_output
        self._walker.go_to(here)
        return data
