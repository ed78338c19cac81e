"""What a DHCP message is about (RFC 2131, options of RFC 2132)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from revirt.packets.layers import format_mac

PORTS = (67, 68)
"""UDP ports of server and client."""

_OPTIONS_START = 240
_COOKIE = b"\x63\x82\x53\x63"
_YOUR_ADDRESS, _HARDWARE_ADDRESS = slice(16, 20), slice(28, 34)
_PAD, _REQUESTED, _TYPE, _END = 0, 50, 53, 255
_TYPES = ("DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM")


def summarize_dhcp(message: bytes) -> str | None:
    """Return *message* in words; None if it is none."""
    if len(message) < _OPTIONS_START or message[_OPTIONS_START - 4 : _OPTIONS_START] != _COOKIE:
        return None
    options = dict(_options(message))
    number = options.get(_TYPE, b"")
    known = len(number) == 1 and 1 <= number[0] <= len(_TYPES)
    words = [
        "DHCP",
        _TYPES[number[0] - 1] if known else "message",
        "of",
        format_mac(message[_HARDWARE_ADDRESS]),
    ]
    yours, requested = message[_YOUR_ADDRESS], options.get(_REQUESTED, b"")
    if any(yours):
        words += ["gives", str(IPv4Address(yours))]
    elif len(requested) == 4:
        words += ["wants", str(IPv4Address(requested))]
    return " ".join(words)


def _options(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = _OPTIONS_START
    while at + 1 < len(message) and message[at] != _END:
        if message[at] == _PAD:
            at += 1
            continue
        size = message[at + 1]
        yield message[at], message[at + 2 : at + 2 + size]
        at += 2 + size
