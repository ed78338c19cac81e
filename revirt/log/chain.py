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

SEALED = frozenset({Kind.DIGEST, Kind.END})
"""Kinds of event that carry the hash."""

_FIELDS = struct.Struct("<BQ?QHQI")
_VALUE = struct.Struct("<Q")


class Chain:
    """The hash of a log's events so far; *value* is that of the event it goes on from, 0 at the beginning."""

    def __init__(self, value: int = 0) -> None:
        self._hash = blake2b(_VALUE.pack(value), digest_size=_VALUE.size)

    def add(self, event: Event) -> None:
        """Take in *event*, which carries no hash; raises ValueError if one of its fields is outside its range."""
        kind, branches, halted, pc, check, number, data = event
        try:
            fields = _FIELDS.pack(kind, branches, halted, pc, check, number, len(data))
        except struct.error as error:
            raise ValueError(f"no log can hold {event._replace(data=data[:16])}: {error}") from error
        self._hash.update(fields)
        self._hash.update(data)

    def seal(self, event: Event) -> Event:
        """Take in *event* and return it carrying the hash: 64 bits, as its number."""
        self.add(event._replace(number=0))
        (value,) = _VALUE.unpack(self._hash.digest())
        self._hash = blake2b(_VALUE.pack(value), digest_size=_VALUE.size)
        return event._replace(number=value)

    def copy(self) -> Chain:
        """Return a chain that goes on from here on its own."""
        copy = Chain()
        copy._hash = self._hash.copy()
        return copy
