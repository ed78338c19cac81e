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
are, and is read several times as fast, by slices instead of a loop over bytes.  The core makes them
(revirt/core/journal.c).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat

from revirt.log.events import Event, Kind
from revirt.log.rows import MAX_DATA, Rows

MAX_EVENTS = 1 << 16
"""Most events in one run."""
RAW_LIMIT = 16 << 20
"""Most bytes that the columns of one run may take."""

_MASK = (1 << 64) - 1
_KINDS = frozenset(int(kind) for kind in Kind)


def encode(rows: Rows) -> bytes:
    """Return the events in *rows* (1 to ``MAX_EVENTS``) as columns.

    Raises ValueError for events that are out of order, of an unknown kind, or too far in branches.
    """
    # Only whoever writes needs the core: a log is read without it.
    from revirt.core import encode_columns

    if not 0 < rows.count <= MAX_EVENTS:
        raise ValueError(f"{rows.count} events in one run")
    unknown = rows.kinds.translate(None, bytes(_KINDS))
    if unknown:
        raise ValueError(f"unknown kind of event {unknown[0]}")
    return encode_columns(rows.rows, rows.data)


def decode(raw: bytes, count: int) -> list[Event]:
    """Return the *count* events in *raw*.

    Raises ValueError, saying what is wrong, if *raw* is not what `encode` returns for so many events.
    """
    source, kinds = _begin(raw, count)
    tables = {kind: _decode_table(kind, kinds.count(kind), source) for kind in sorted(set(kinds))}
    events = {kind: _decode_events(kind, table, source) for kind, table in tables.items()}
    source.finish()
    merged = [next(events[kind]) for kind in kinds]
    if any(later.branches < earlier.branches for earlier, later in pairwise(merged)):
        raise ValueError("events out of order")
    return merged


@dataclass(frozen=True, slots=True)
class Share:
    """What the events of a kind take of a run: how many they are, bytes of their data, bytes of columns with it."""

    events: int = 0
    data: int = 0
    raw: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.events + other.events, self.data + other.data, self.raw + other.raw)


def measure(raw: bytes, count: int) -> dict[Kind, Share]:
    """Return what each kind takes of *raw*, which holds *count* events; together they take all of it.

    Nothing is shared between kinds, not even the differences.  Raises ValueError as `decode`, but does not look at
    the order of the events.
    """
    source, kinds = _begin(raw, count)
    shares = {}
    for kind in sorted(set(kinds)):
        start, events = source.taken, kinds.count(kind)
        *_, sizes = _decode_table(kind, events, source)
        data = sum(sizes)
        shares[Kind(kind)] = Share(events, data, events + source.taken - start + data)
    source.take(sum(share.data for share in shares.values()))
    source.finish()
    return shares


def _begin(raw: bytes, count: int) -> tuple[_Source, bytes]:
    """Return what is behind the kinds of the *count* events in *raw*, and the kinds."""
    if not 0 < count <= MAX_EVENTS:
        raise ValueError(f"{count} events in one run")
    source = _Source(raw)
    kinds = source.take(count)
    if not _KINDS.issuperset(kinds):
        raise ValueError(f"unknown kind of event {max(set(kinds) - _KINDS)}")
    return source, kinds


_Table = tuple[list[int], list[int], list[int], list[int], list[int]]


def _decode_table(kind: int, count: int, source: _Source) -> _Table:
    """Return moments, pcs, checks, numbers and sizes of *count* events."""
    moments = _sums(accumulate(_unfold(source.column(count))))
    pcs = _sums(_unfold(source.column(count)))
    checks = source.column(count, width_limit=2)
    numbers = source.column(count)
    if kind == Kind.CLOCK:
        numbers = _sums(accumulate(_unfold(numbers)))
    sizes = source.column(count)
    if max(sizes) > MAX_DATA:
        raise ValueError(f"an event with {max(sizes)} bytes of data")
    return moments, pcs, checks, numbers, sizes


def _decode_events(kind: int, table: _Table, source: _Source) -> Iterator[Event]:
    moments, pcs, checks, numbers, sizes = table
    branches = [moment >> 1 for moment in moments]
    halted = [bool(moment & 1) for moment in moments]
    data = [source.take(size) if size else b"" for size in sizes]
    return map(Event, repeat(Kind(kind)), branches, halted, pcs, checks, numbers, data)


def _sums(differences: Iterator[int]) -> list[int]:
    return [value & _MASK for value in accumulate(differences)]


def _unfold(values: Sequence[int]) -> Iterator[int]:
    return ((value >> 1) ^ -(value & 1) for value in values)


class _Source:
    """Bytes taken from the front; raises ValueError when there are not enough.  ``taken`` is how many."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.taken = 0

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        start = self.taken
        if size > len(self._raw) - start:
            raise ValueError(f"columns end after {len(self._raw)} bytes, within {size} bytes from {start}")
        self.taken += size
        return self._raw[start : self.taken]

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
        if self.taken != len(self._raw):
            raise ValueError(f"{len(self._raw) - self.taken} bytes after the last column")
