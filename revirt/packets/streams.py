"""TCP connections put together again: what each side was sent by the other, in order (RFC 9293, section 3.4).

A byte that was delivered stays what it is, whatever comes again in its place; of segments that wait behind a gap the
one that begins earlier is delivered first.  What fits no window before or behind what is expected belongs to nothing,
and is passed over.  Checksums are not looked at, and fragments of packets not put together.

Connections count from 0, in the order of their first packets.  A SYN with another sequence number than that of the
connection between the same ends begins another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from revirt.packets.layers import ACK, SYN, Ethernet, Ip, Segment

_SEQUENCES = 1 << 32
_LARGEST_WINDOW = 1 << 30  # RFC 7323, section 2.3
# Of one direction: more is sent behind a gap only to fill us.
_WAITING_SIZE = 16 << 20
_WAITING_COUNT = 1 << 16
_MOST_CONNECTIONS = 1 << 17


class Chunk(NamedTuple):
    """Bytes of one direction of a connection, *offset* bytes behind its beginning.

    Right before them are *missing* bytes that were in no packet.
    """

    offset: int
    data: bytes
    missing: int = 0


class Assembler:
    """One direction of a connection: takes segments as they come, and returns them as `Chunk`s in order."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._offset = 0
        self._waiting: list[tuple[int, int, bytes]] = []
        """Heap of offset, how many had been taken, data."""
        self._waiting_size = 0
        self._taken = 0

    def take(self, segment: Segment) -> list[Chunk]:
        """Return what can be delivered now that *segment* has come."""
        sequence = (segment.sequence + bool(segment.flags & SYN)) % _SEQUENCES
        if self._next is None:
            self._next = sequence
        data = segment.payload
        ahead = (sequence - self._next) % _SEQUENCES
        if ahead >= _SEQUENCES // 2:
            data, ahead = data[_SEQUENCES - ahead :], 0
        if not data or ahead > _LARGEST_WINDOW:
            return []
        if ahead:
            self._keep(self._offset + ahead, data)
            return []
        chunks = [self._deliver(data)]
        while self._waiting and self._waiting[0][0] <= self._offset:
            chunks += self._release()
        return chunks

    def finish(self) -> list[Chunk]:
        """Return what still waits behind gaps."""
        chunks = []
        while self._waiting:
            missing = max(0, self._waiting[0][0] - self._offset)
            self._offset += missing
            chunks += [chunk._replace(missing=missing) for chunk in self._release()]
        return chunks

    def _keep(self, at: int, data: bytes) -> None:
        if self._waiting_size + len(data) <= _WAITING_SIZE and len(self._waiting) < _WAITING_COUNT:
            self._taken += 1
            self._waiting_size += len(data)
            heappush(self._waiting, (at, self._taken, data))

    def _release(self) -> list[Chunk]:
        """Deliver what is new in the first of those that wait, if anything is."""
        at, _, data = heappop(self._waiting)
        self._waiting_size -= len(data)
        new = data[self._offset - at :]
        return [self._deliver(new)] if new else []

    def _deliver(self, data: bytes) -> Chunk:
        assert self._next is not None
        chunk = Chunk(self._offset, data)
        self._offset += len(data)
        self._next = (self._next + len(data)) % _SEQUENCES
        return chunk


End = tuple[str, int]


@dataclass(slots=True)
class _Connection:
    number: int
    began: int | None
    """Sequence number of the SYN that began it."""


@dataclass(slots=True)
class StreamTable:
    """Connections by number, as they are met with."""

    count: int = 0
    """How many there have been."""
    _open: dict[tuple[End, End], _Connection] = field(default_factory=dict)

    def find(self, frame: bytes) -> tuple[int, Segment] | None:
        """Return the number of the connection that *frame* belongs to, and its segment; None if it is not of TCP."""
        ethernet = Ethernet.parse(frame)
        ip = Ip.parse(ethernet) if ethernet is not None else None
        segment = Segment.parse(ip) if ip is not None and not ip.is_fragment else None
        if ip is None or segment is None:
            return None
        one, other = (ip.source, segment.source_port), (ip.destination, segment.destination_port)
        return self._connection((one, other) if one < other else (other, one), segment).number, segment

    def _connection(self, ends: tuple[End, End], segment: Segment) -> _Connection:
        connection = self._open.get(ends)
        begins = segment.sequence if segment.flags & (SYN | ACK) == SYN else None
        if connection is None or (begins is not None and connection.began not in (None, begins)):
            if len(self._open) == _MOST_CONNECTIONS:
                del self._open[next(iter(self._open))]
            connection = self._open[ends] = _Connection(self.count, begins)
            self.count += 1
        return connection
