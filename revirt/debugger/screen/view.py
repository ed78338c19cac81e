"""What the screen shows of one moment, gathered by the thread that owns the session."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice, pairwise

from revirt.debugger.looking import (
    CodeRow,
    EventRow,
    MemoryRow,
    RegisterRow,
    StackRow,
    code_rows,
    console_lines,
    event_rows,
    memory_rows,
    register_rows,
    stack_rows,
)
from revirt.debugger.session import Session
from revirt.errors import UsageError
from revirt.position import Position
from revirt.recording.notes import Bookmark

BINS = 512
"""Parts that the bar is made of."""
_MOST_EVENTS = 200_000
_CODE, _WORDS, _BYTES, _LINES, _EVENTS = 40, 80, 2048, 200, 60
"""Instructions, words of stack, bytes, lines and events on either side: no terminal is larger."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The way from start to end in equal parts: how many ``events`` each has, where the rest is (in branches)."""

    start: int
    end: int
    events: tuple[int, ...]
    checkpoints: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One moment; ``changed`` are the addresses of bytes in ``memory`` that are not what they were before."""

    name: str
    position: Position
    next_event: int
    time_ns: int
    bits: int
    where: str
    bar: Bar
    bookmarks: tuple[Bookmark, ...]
    code: tuple[CodeRow, ...]
    registers: tuple[RegisterRow, ...]
    stack: tuple[StackRow, ...]
    followed: str
    memory: tuple[MemoryRow, ...]
    changed: frozenset[int]
    console: tuple[str, ...]
    events: tuple[EventRow, ...]


class Viewer:
    """Makes the views of *session*."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bar = _bar(session)
        self._bytes: dict[int, int] = {}
        self._position: Position | None = None
        self._changed: frozenset[int] = frozenset()

    def view(self, scrolled: int = 0) -> View:
        """Return the present view, with memory *scrolled* so many bytes on."""
        session, timeline = self._session, self._session.timeline
        memory = self._memory(scrolled)
        return View(
            name=session.recording.path.resolve().name,
            position=session.position,
            next_event=timeline.next_event,
            time_ns=timeline.machine.clock.now_ns,
            bits=session.bits,
            where=session.named(session.pc),
            bar=self._bar,
            bookmarks=tuple(session.notes.all),
            code=tuple(code_rows(session, _CODE, _CODE)),
            registers=tuple(register_rows(session)),
            stack=tuple(stack_rows(session, _WORDS)),
            followed=session.followed,
            memory=memory,
            changed=self._changed,
            console=tuple(console_lines(session, _LINES)),
            events=tuple(event_rows(session, _EVENTS, _EVENTS)),
        )

    def _memory(self, scrolled: int) -> tuple[MemoryRow, ...]:
        session = self._session
        try:
            address = (session.evaluate(session.followed) + scrolled) % (1 << 64)
        except UsageError:
            # What it follows may not be mapped here, and be again a step on.
            return ()
        rows = tuple(memory_rows(session, address, _BYTES))
        found = {row.address + at: byte for row in rows for at, byte in enumerate(row.data)}
        if session.position != self._position:
            before, self._position = self._bytes, session.position
            self._changed = frozenset(at for at, byte in found.items() if before.get(at, byte) != byte)
        self._bytes = found
        return rows


def _bar(session: Session) -> Bar:
    """Return the bar; of a very long log the events are counted up to `_MOST_EVENTS`."""
    timeline = session.timeline
    start, end = timeline.start.branches, max(timeline.end.branches, timeline.start.branches + 1)
    counts = [0] * BINS
    for event in islice(timeline.events.after(timeline.events.first), _MOST_EVENTS):
        part = (event.branches - start) * BINS // (end - start + 1)
        if part >= 0:
            counts[min(part, BINS - 1)] += 1
    checkpoints = tuple(each.branches for each in session.recording.checkpoints)
    return Bar(start, end, tuple(counts), checkpoints)


def column_of(bar: Bar, branches: int, width: int) -> int:
    """Return in which of *width* columns of the *bar* so many *branches* are."""
    share = (branches - bar.start) * width // (bar.end - bar.start + 1)
    return min(max(share, 0), width - 1)


def branches_at(bar: Bar, column: int, width: int) -> int:
    """Return at which branches that of *width* columns of the *bar* begins."""
    return bar.start + -(-column * (bar.end - bar.start + 1) // width)


def heights(bar: Bar, width: int, levels: int) -> list[int]:
    """Return how high each of *width* columns of the *bar* is, 0 to *levels*: by powers of four of its events."""
    edges = [column * BINS // width for column in range(width + 1)]
    counts = [sum(bar.events[low : max(high, low + 1)]) for low, high in pairwise(edges)]
    powers = [4**level for level in range(levels)]
    return [bisect_right(powers, count) for count in counts]
