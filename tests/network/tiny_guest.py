"""A guest that has a network card and one TCP port, as small as it can be: it answers in the thread of the test."""

from __future__ import annotations

import wire
from waiting import until

from revirt.monitor.network import Backend
from revirt.packets.layers import ACK, SYN, Ethernet, Ip, Segment

ADDRESS, ROUTER = "10.0.2.15", "10.0.2.2"


class TinyGuest:
    """Speaks to *backend*, one frame at a time."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._unread: list[bytes] = []
        self._router_mac = wire.BROADCAST
        self._peer = ("", 0)
        self._port = 0
        self._next = 0
        self._expected = 0

    def read(self) -> bytes:
        """Return the next frame."""
        until(lambda: self._unread or self._unread.extend(self._backend.frames()) or self._unread, "a frame")
        return self._unread.pop(0)

    def send(self, packet: bytes) -> None:
        self._backend.send(wire.ethernet(packet, destination=self._router_mac))

    def find_router(self) -> bytes:
        """Ask who has the router's address; return the answer."""
        question = wire.arp(1, ADDRESS, ROUTER)
        self._backend.send(wire.ethernet(question, 0x0806, destination=wire.BROADCAST))
        while (found := Ethernet.parse(self.read())) is None or found.kind != 0x0806:
            pass
        self._router_mac = found.source
        return found.payload

    def accept(self) -> tuple[str, int]:
        """Wait for a connection, take it, and return who it is from."""
        ip, segment = self._segment()
        assert segment.flags & (SYN | ACK) == SYN
        self._peer, self._port = (ip.source, segment.source_port), segment.destination_port
        self._expected = segment.sequence + 1
        self._send(wire.SYN | wire.ACK)
        self._next += 1
        # Only now does a server know of the connection.
        while (answer := self._segment()[1]).flags & (SYN | ACK) != ACK or answer.acknowledged != self._next:
            pass
        return self._peer

    @property
    def port(self) -> int:
        """The port that the connection is to."""
        return self._port

    def receive(self, size: int) -> bytes:
        """Return the next *size* bytes of the connection."""
        data = b""
        while len(data) < size:
            _, segment = self._segment()
            if segment.sequence == self._expected % 2**32 and segment.payload:
                data += segment.payload
                self._expected += len(segment.payload)
                self._send(wire.ACK)
        return data

    def write(self, data: bytes) -> None:
        """Send *data*, which is little, on the connection."""
        self._send(wire.ACK | wire.PUSH, data)
        self._next += len(data)

    def _send(self, flags: int, data: bytes = b"") -> None:
        mine = (ADDRESS, self._port)
        self.send(wire.tcp(mine, self._peer, flags, self._next, self._expected, data))

    def _segment(self) -> tuple[Ip, Segment]:
        while True:
            ethernet = Ethernet.parse(self.read())
            ip = Ip.parse(ethernet) if ethernet else None
            segment = Segment.parse(ip) if ip else None
            if ip and segment:
                return ip, segment
