"""Events as rows of bytes: how they wait to be written, and what the hash of a log is made of.

::

    row     kind      u8
            halted    u8
            check     u16
            size      u32   bytes of its data, which stands apart
            branches  u64
            pc        u64
            number    u64

The core notes events in this form (revirt/core/journal.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from revirt.log.events import Event

ROW = struct.Struct("<BBHIQQQ")
MAX_DATA = 8 << 20
"""Most bytes of data that one event may carry."""
_BRANCHES = 4
"""Which field of a row has the branches."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Events in a row: *rows* of fixed size, and the *data* of all of them, one behind the other."""

    rows: bytes
    data: bytes

    @property
    def count(self) -> int:
        """How many events these are."""
        return len(self.rows) // ROW.size

    @property
    def size(self) -> int:
        """Bytes that they take."""
        return len(self.rows) + len(self.data)

    @property
    def kinds(self) -> bytes:
        """The kind of each, in order."""
        return self.rows[:: ROW.size]

    @property
    def first_branches(self) -> int:
        """Branches of the first; there must be one."""
        return int(ROW.unpack_from(self.rows)[_BRANCHES])

    @property
    def last_branches(self) -> int:
        """Branches of the last; there must be one."""
        return int(ROW.unpack_from(self.rows, len(self.rows) - ROW.size)[_BRANCHES])


def rows_of(events: Sequence[Event]) -> Rows:
    """Return *events* as rows; raises ValueError if a field of one is outside its range."""
    pack = ROW.pack
    try:
        rows = [
            pack(kind, halted, check, len(data), branches, pc, number)
            for kind, branches, halted, pc, check, number, data in events
        ]
    except struct.error as error:
        raise ValueError(f"no log can hold {_first_bad(events)}: {error}") from error
    whole = [event.data for event in events if event.data]
    if any(len(data) > MAX_DATA for data in whole):
        raise ValueError(f"an event with {max(map(len, whole))} bytes of data")
    return Rows(b"".join(rows), b"".join(whole))


def join(parts: Sequence[Rows]) -> Rows:
    """Return the events of all *parts*, in their order."""
    # Those that are empty left out: one alone is not copied.
    return Rows(
        b"".join([part.rows for part in parts if part.rows]),
        b"".join([part.data for part in parts if part.data]),
    )


Source = Callable[[], Rows]
"""Returns what waits somewhere, and forgets it."""


def _first_bad(events: Sequence[Event]) -> Event:
    """Return the first of *events* that is not a row, shortened."""
    for event in events:
        kind, branches, halted, pc, check, number, data = event
        try:
            ROW.pack(kind, halted, check, len(data), branches, pc, number)
        except struct.error:
            return event._replace(data=data[:16])
    raise AssertionError("all of these events are rows")
