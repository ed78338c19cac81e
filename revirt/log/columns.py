"""Events as columns of bytes, arranged so that LZ4 finds them small.

A run of n events becomes, in this order::

    kinds     n bytes, one kind each, in the order of the events
    table     for every kind that occurs, ascending, m being how often:
        moments   column of branches * 2 + halted, differences of differences
        pcs       column, differences
        checks    column
        numbers   column, differences of differences for CLOCK
        sizes     column of len(data)
    data      the data of all events, table by table

    column    width (1 byte, 0 to 8), then width planes of m bytes: the low bytes of all values first

Differences are to the previous value of the same kind (before the first: 0), modulo 2**64, and folded so
that small negative ones are small: 0, -1, 1, -2 become 0, 1, 2, 3.

Why so: timer interrupts and clock readings come at a steady pace, so the second difference of their moments
is nearly nothing, as long as other kinds do not stand in between.  Planes part the noisy low bytes from the
high ones, which are all alike.  On the boot of a Debian kernel this is as small as variable-length integers
are, and is made and read several times as fast, by slices instead of a loop over bytes.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, repeat

from revirt.log.events import Event, Kind

MAX_EVENTS = 1 << 16
"""Most events in one run."""
MAX_DATA = 8 << 20
"""Most bytes of data that one event may carry."""
RAW_LIMIT = 16 << 20
"""Most bytes that the columns of one run may take."""

_MASK = (1 << 64) - 1
_KINDS = frozenset(int(kind) for kind in Kind)


def encode(events: Sequence[Event]) -> bytes:
    """Return *events* (1 to ``MAX_EVENTS``, branches never decreasing) as columns.

    Raises ValueError for events that are out of order, of an unknown kind, or have a value outside its range.
    """
    if not 0 < len(events) <= MAX_EVENTS:
        raise ValueError(f"{len(events)} events in one run")
    tables: dict[int, list[Event]] = {}
    before = 0
    for event in events:
        if event.branches < before:
            raise ValueError(f"event at {event.branches} branches after one at {before}")
        if event.kind not in _KINDS:
            raise ValueError(f"unknown kind of event {event.kind}")
        before = event.branches
        tables.setdefault(event.kind, []).append(event)
    parts = [bytes(event.kind for event in events)]
    parts += [_encode_table(kind, tables[kind]) for kind in sorted(tables)]
    parts += [event.data for kind in sorted(tables) for event in tables[kind]]
    return b"".join(parts)


def decode(raw: bytes, count: int) -> list[Event]:
    """Return the *count* events in *raw*.

    Raises ValueError, saying what is wrong, if *raw* is not what `encode` returns for so many events.
    """
    if not 0 < count <= MAX_EVENTS:
        raise ValueError(f"{count} events in one run")
    source = _Source(raw)
    kinds = source.take(count)
    if not _KINDS.issuperset(kinds):
        raise ValueError(f"unknown kind of event {max(set(kinds) - _KINDS)}")
    tables = {kind: _decode_table(kind, kinds.count(kind), source) for kind in sorted(set(kinds))}
    events = {kind: _decode_events(kind, table, source) for kind, table in tables.items()}
    source.finish()
    merged = [next(events[kind]) for kind in kinds]
    if any(later.branches < earlier.branches for earlier, later in pairwise(merged)):
        raise ValueError("events out of order")
    return merged


def _encode_table(kind: int, events: list[Event]) -> bytes:
    moments = [event.branches * 2 + event.halted for event in events]
    numbers = [event.number for event in events]
    for name, values, limit in (
        ("branches", moments, _MASK),
        ("pc", [event.pc for event in events], _MASK),
        ("check", [event.check for event in events], 0xFFFF),
        ("number", numbers, _MASK),
        ("size of data", [len(event.data) for event in events], MAX_DATA),
    ):
        if not (min(values) >= 0 and max(values) <= limit):
            raise ValueError(f"{name} of an event is outside 0..{limit:#x}")
    return b"".join(
        (
            _column(_fold(_differences(_differences(moments)))),
            _column(_fold(_differences([event.pc for event in events]))),
            _column([event.check for event in events]),
            _column(_fold(_differences(_differences(numbers))) if kind == Kind.CLOCK else numbers),
            _column([len(event.data) for event in events]),
        )
    )


_Table = tuple[list[int], list[int], list[int], list[int], list[int]]


def _decode_table(kind: int, count: int, source: _Source) -> _Table:
    """Return moments, pcs, checks, numbers and sizes of *count* events."""
    moments = _sums(accumulate(_unfold(source.column(count))))
    pcs = _sums(_unfold(source.column(count)))
    checks = source.column(count, width_limit=2)
    numbers = source.column(count)
    if kind == Kind.CLOCK:
        numbers = _sums(accumulate(_unfold(numbers)))
    return moments, pcs, checks, numbers, source.column(count)


def _decode_events(kind: int, table: _Table, source: _Source) -> Iterator[Event]:
    moments, pcs, checks, numbers, sizes = table
    branches = [moment >> 1 for moment in moments]
    halted = [bool(moment & 1) for moment in moments]
    data = [source.take(size) if size else b"" for size in sizes]
    return map(Event, repeat(Kind(kind)), branches, halted, pcs, checks, numbers, data)


def _differences(values: list[int]) -> list[int]:
    return [later - earlier for earlier, later in zip([0, *values], values, strict=False)]


def _sums(differences: Iterator[int]) -> list[int]:
    return [value & _MASK for value in accumulate(differences)]


def _fold(differences: list[int]) -> list[int]:
    wrapped = [((value + (1 << 63)) & _MASK) - (1 << 63) for value in differences]
    return [value << 1 if value >= 0 else ~(value << 1) for value in wrapped]


def _unfold(values: Sequence[int]) -> Iterator[int]:
    return ((value >> 1) ^ -(value & 1) for value in values)


def _column(values: list[int]) -> bytes:
    width = (max(values).bit_length() + 7) // 8
    words = array("Q", values)
    if sys.byteorder == "big":
        words.byteswap()
    whole = words.tobytes()
    return bytes((width,)) + b"".join(whole[plane::8] for plane in range(width))


class _Source:
    """Bytes taken from the front; raises ValueError when there are not enough."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._taken = 0

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        start = self._taken
        if size > len(self._raw) - start:
            raise ValueError(f"columns end after {len(self._raw)} bytes, within {size} bytes from {start}")
        self._taken += size
        return self._raw[start : self._taken]

    def column(self, count: int, width_limit: int = 8) -> list[int]:
        """Return the *count* values of the next column."""
        (width,) = self.take(1)
        if width > width_limit:
            raise ValueError(f"column of values {width} bytes wide")
        whole = bytearray(count * 8)
        for plane in range(width):
            whole[plane::8] = self.take(count)
        words = array("Q", bytes(whole))
        if sys.byteorder == "big":
            words.byteswap()
        return words.tolist()

    def finish(self) -> None:
        """Make sure that nothing is left."""
        if self._taken != len(self._raw):
            raise ValueError(f"{len(self._raw) - self._taken} bytes after the last column")
