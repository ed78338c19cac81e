"""A running hash that ties the events of a log together.

A replay cannot see every change of a log: a clock reading that is off by a nanosecond may leave no trace in the
guest.  So every DIGEST and the END carry, as their number, a hash of all that was written up to and including them.

Rules:
- An event counts with all its fields; one that carries the hash counts with the number 0.
- The hash goes on from what it was: a reader may start behind any event that carries one.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from revirt.log.events import Event, Kind
from revirt.log.rows import Rows, rows_of

SEALED = frozenset({Kind.DIGEST, Kind.END})
"""Kinds of event that carry the hash."""

_VALUE = struct.Struct("<Q")


class Chain:
    """The hash of a log's events so far; *value* is that of the event it goes on from, 0 at the beginning."""

    def __init__(self, value: int = 0) -> None:
        self._begin(value)

    def add(self, *events: Event) -> None:
        """Take in *events*, which carry no hash; raises ValueError if a field of one is outside its range."""
        self.add_rows(rows_of(events))

    def add_rows(self, rows: Rows) -> None:
        """Take in events that carry no hash."""
        self._rows.update(rows.rows)
        self._data.update(rows.data)

    def seal(self, event: Event) -> Event:
        """Take in *event* and return it carrying the hash: 64 bits, as its number."""
        self.add(event._replace(number=0))
        whole = _VALUE.pack(self._value) + self._rows.digest() + self._data.digest()
        (value,) = _VALUE.unpack(blake2b(whole, digest_size=_VALUE.size).digest())
        self._begin(value)
        return event._replace(number=value)

    def copy(self) -> Chain:
        """Return a chain that goes on from here on its own."""
        copy = Chain(self._value)
        copy._rows, copy._data = self._rows.copy(), self._data.copy()
        return copy

    def _begin(self, value: int) -> None:
        self._value = value
        self._rows, self._data = blake2b(), blake2b()
