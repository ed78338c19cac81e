"""The parts of an Ethernet frame, one inside the other: each is taken apart as far as its bytes go.

A `parse` returns None where there are too few bytes for a header, or the header is none; what is in a part is cut to
what the frame holds.  Layouts: IEEE 802.3 and 802.1Q, RFC 826 (ARP), 791 (IPv4), 8200 (IPv6), 9293 (TCP),
768 (UDP).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Self

ARP, IPV4, VLAN, IPV6 = 0x0806, 0x0800, 0x8100, 0x86DD
"""Ethernet types."""
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
"""IP protocols."""

_LEAST_TYPE = 0x600  # what is less is a length (IEEE 802.3)
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _DESTINATION)
_MOST_EXTENSIONS = 8
_MAC = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}")


class Ethernet(NamedTuple):
    """A frame: who sent it to whom, what is in it, and of which virtual network it is (None: of none)."""

    destination: bytes
    source: bytes
    kind: int
    payload: bytes
    vlan: int | None = None

    @classmethod
    def parse(cls, frame: bytes) -> Self | None:
        """Return the frame's parts; ``kind`` is 0 for a frame that has a length where others have a type."""
        if len(frame) < 14:
            return None
        (kind,) = struct.unpack_from(">H", frame, 12)
        start, vlan = 14, None
        if kind == VLAN and len(frame) >= 18:
            tag, kind = struct.unpack_from(">HH", frame, 14)
            start, vlan = 18, tag & 0xFFF
        return cls(frame[:6], frame[6:12], kind if kind >= _LEAST_TYPE else 0, frame[start:], vlan)


class Arp(NamedTuple):
    """An ARP message about IPv4 addresses: ``operation`` is 1 for a request, 2 for a reply."""

    operation: int
    sender_mac: bytes
    sender: str
    target: str

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Return the message if it is one about Ethernet and IPv4."""
        if len(data) < 28 or struct.unpack_from(">HHBB", data) != (1, IPV4, 6, 4):
            return None
        (operation,) = struct.unpack_from(">H", data, 6)
        return cls(operation, data[8:14], str(IPv4Address(data[14:18])), str(IPv4Address(data[24:28])))


@dataclass(frozen=True, slots=True)
class Ip:
    """An IP packet of version 4 or 6; ``offset`` is where a fragment belongs, ``more`` that others follow it.

    ``size`` is how many bytes the packet says it carries, ``payload`` those that are there.
    """

    source: str
    destination: str
    protocol: int
    payload: bytes
    size: int
    offset: int = 0
    more: bool = False

    @property
    def is_fragment(self) -> bool:
        """Whether this is a part of a packet only."""
        return self.offset > 0 or self.more

    @property
    def is_cut(self) -> bool:
        """Whether the frame ends before the packet does."""
        return len(self.payload) < self.size

    @classmethod
    def parse(cls, ethernet: Ethernet) -> Ip | None:
        """Return the packet in a frame."""
        if ethernet.kind == IPV4:
            return cls._parse_4(ethernet.payload)
        return cls._parse_6(ethernet.payload) if ethernet.kind == IPV6 else None

    @classmethod
    def _parse_4(cls, data: bytes) -> Ip | None:
        if len(data) < 20 or data[0] >> 4 != 4:
            return None
        header = (data[0] & 15) * 4
        total, _, fragment, _, protocol = struct.unpack_from(">HHHBB", data, 2)
        if header < 20 or total < header:
            return None
        source, destination = str(IPv4Address(data[12:16])), str(IPv4Address(data[16:20]))
        offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
        return cls(source, destination, protocol, data[header:total], total - header, offset, more)

    @classmethod
    def _parse_6(cls, data: bytes) -> Ip | None:
        if len(data) < 40 or data[0] >> 4 != 6:
            return None
        size, protocol = struct.unpack_from(">HB", data, 4)
        source, destination = str(IPv6Address(data[8:24])), str(IPv6Address(data[24:40]))
        payload, offset, more = data[40 : 40 + size], 0, False
        for _ in range(_MOST_EXTENSIONS):
            if protocol == _FRAGMENT and len(payload) >= 8:
                protocol, _, field = struct.unpack_from(">BBH", payload)
                offset, more = field & 0xFFF8, bool(field & 1)
                taken = 8
            elif protocol in _EXTENSIONS and len(payload) >= 8:
                protocol, taken = payload[0], (payload[1] + 1) * 8
            else:
                break
            payload, size = payload[taken:], max(0, size - taken)
            if offset:
                break  # what follows is not a header
        return cls(source, destination, protocol, payload, size, offset, more)


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment; ``flags`` are the bits of `FLAGS`."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledged: int
    flags: int
    window: int
    payload: bytes
    size: int
    """How many bytes of payload it says it has."""

    @classmethod
    def parse(cls, ip: Ip) -> Segment | None:
        """Return the segment in a packet that is of TCP and no fragment but the first."""
        data = ip.payload
        if ip.protocol != TCP or ip.offset or len(data) < 20:
            return None
        source, destination, sequence, acknowledged, bits, window = struct.unpack_from(">HHIIHH", data)
        header = (bits >> 12) * 4
        if header < 20 or header > ip.size:
            return None
        size = ip.size - header
        return cls(source, destination, sequence, acknowledged, bits & 0x1FF, window, data[header:], size)


FLAGS = {"SYN": 2, "FIN": 1, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128, "NS": 256}
"""TCP's control bits, the more telling ones first."""
SYN, FIN, RST, ACK = FLAGS["SYN"], FLAGS["FIN"], FLAGS["RST"], FLAGS["ACK"]


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram; ``size`` is how many bytes of payload it says it has."""

    source_port: int
    destination_port: int
    payload: bytes
    size: int

    @classmethod
    def parse(cls, ip: Ip) -> Datagram | None:
        """Return the datagram in a packet that is of UDP and no fragment but the first."""
        data = ip.payload
        if ip.protocol != UDP or ip.offset or len(data) < 8:
            return None
        source, destination, size, _ = struct.unpack_from(">HHHH", data)
        if size < 8:
            return None
        return cls(source, destination, data[8:size], size - 8)


def format_mac(address: bytes) -> str:
    """Return an Ethernet address as people write it: ``52:54:00:12:34:56``."""
    return address.hex(":")


def parse_mac(text: str) -> bytes:
    """Return the six bytes of an Ethernet address; raises ValueError."""
    if _MAC.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no Ethernet address; write as 52:54:00:12:34:56")
    return bytes.fromhex(text.replace("-", "").replace(":", ""))
