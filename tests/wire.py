"""Frames as a guest and its neighbours send them, with the checksums that they want."""

from __future__ import annotations

import struct
from ipaddress import ip_address

GUEST_MAC = bytes.fromhex("525400123456")
OTHER_MAC = bytes.fromhex("0200c0ffee01")
BROADCAST = b"\xff" * 6
SYN, FIN, RST, ACK, PUSH = 2, 1, 4, 16, 8


def ethernet(
    payload: bytes, kind: int = 0x0800, *, source: bytes = GUEST_MAC, destination: bytes = OTHER_MAC
) -> bytes:
    return destination + source + struct.pack(">H", kind) + payload


def checksum(data: bytes) -> int:
    """The Internet's checksum (RFC 1071)."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    addresses = ip_address(source).packed + ip_address(destination).packed
    start = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol)
    sum_ = checksum(start + b"\0\0" + addresses)
    return start + struct.pack(">H", sum_) + addresses + payload


def ipv6(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    start = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return start + ip_address(source).packed + ip_address(destination).packed + payload


def tcp(
    source: tuple[str, int],
    destination: tuple[str, int],
    flags: int,
    sequence: int = 0,
    acknowledged: int = 0,
    data: bytes = b"",
    *,
    window: int = 64240,
) -> bytes:
    """Return a whole IPv4 packet with a TCP segment."""
    ends, sequence, acknowledged = (source[1], destination[1]), sequence % 2**32, acknowledged % 2**32
    header = struct.pack(">HHIIBBHHH", *ends, sequence, acknowledged, 0x50, flags, window, 0, 0)
    addresses = ip_address(source[0]).packed + ip_address(destination[0]).packed
    sum_ = checksum(addresses + struct.pack(">HH", 6, len(header) + len(data)) + header + data)
    return ipv4(source[0], destination[0], 6, header[:16] + struct.pack(">H", sum_) + header[18:] + data)


def udp(source: tuple[str, int], destination: tuple[str, int], data: bytes) -> bytes:
    """Return a whole IPv4 packet with a UDP datagram, without a checksum."""
    header = struct.pack(">HHHH", source[1], destination[1], 8 + len(data), 0)
    return ipv4(source[0], destination[0], 17, header + data)


def arp(operation: int, sender: str, target: str, mac: bytes = GUEST_MAC) -> bytes:
    header = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return header + mac + ip_address(sender).packed + bytes(6) + ip_address(target).packed


def dhcp(kind: int, mac: bytes = GUEST_MAC, options: bytes = b"", yours: str = "0.0.0.0") -> bytes:
    """Return a DHCP message of that *kind* (RFC 2131); a client's if nothing is given."""
    operation = 1 if yours == "0.0.0.0" else 2
    start = struct.pack(">BBBBIHH4s4s4s4s", operation, 1, 6, 0, 7, 0, 0, *[bytes(4)] * 4)
    start = start[:16] + ip_address(yours).packed + start[20:]
    return (
        start + mac + bytes(10) + bytes(192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff"
    )
