"""Packets of the GDB remote serial protocol, as bytes of a stream.

    $<payload>#<checksum>    a packet; the checksum is the sum of the payload's bytes modulo 256, two hex digits
    +  -                     the packet before arrived whole, or did not (not in no-ack mode)
    0x03                     outside a packet: stop what runs

In a payload ``}`` announces a byte that is sent exclusive-or 0x20, and in what a stub sends ``*`` and a character
repeat the character before them.  Rules: GDB manual, appendix "GDB Remote Serial Protocol", sections "Overview" and
"Interrupts".

A client may send anything.  What is kept of it is bounded, and what is no packet is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

PACKET_SIZE = 0x4000
"""Most bytes in a payload, in either direction."""

_BREAK = 0x03
_ESCAPE = 0x7D
_ESCAPED = re.compile(rb"[#$*}]")
_ESCAPE_PAIR = re.compile(rb"\}(.?)", re.DOTALL)
_MARKS = re.compile(rb"[$#]")
_RUN = re.compile(rb"(.)\1{3,96}", re.DOTALL)
# A count is sent as a printable character, 29 more than the repetitions; '#', '$', '+' and '-' mean something else.
_COUNT_BASE = 29
_UNUSABLE_COUNTS = frozenset(ord(mark) - _COUNT_BASE for mark in "#$+-")


class Sign(Enum):
    """What comes between packets."""

    ACKNOWLEDGED = auto()
    REJECTED = auto()
    BREAK = auto()


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that came whole: its payload, escapes undone."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Garbled:
    """A packet that cannot be used; ``is_worth_repeating`` if the same bytes sent again might be."""

    is_worth_repeating: bool


class Decoder:
    """Cuts a stream into what it consists of."""

    def __init__(self) -> None:
        self._body: bytearray | None = None  # of the packet that has begun
        self._checksum: bytearray | None = None  # once its '#' has come
        self._is_too_long = False

    def feed(self, data: bytes) -> Iterator[Packet | Garbled | Sign]:
        """Yield what *data*, the next bytes of the stream, completes."""
        at = 0
        while at < len(data):
            if self._checksum is not None:
                self._checksum.append(data[at])
                at += 1
                if len(self._checksum) == 2:
                    yield self._finish()
            elif self._body is not None:
                at = self._take_body(data, at)
            else:
                if (sign := self._begin(data[at])) is not None:
                    yield sign
                at += 1

    def _begin(self, byte: int) -> Sign | None:
        if byte == ord("$"):
            self._body, self._is_too_long = bytearray(), False
        return {ord("+"): Sign.ACKNOWLEDGED, ord("-"): Sign.REJECTED, _BREAK: Sign.BREAK}.get(byte)

    def _take_body(self, data: bytes, at: int) -> int:
        """Take what *data* has of the body from *at* on; return where it goes on behind that."""
        assert self._body is not None
        mark = _MARKS.search(data, at)
        end = mark.start() if mark else len(data)
        # An escape doubles a byte at most.
        room = 2 * PACKET_SIZE - len(self._body)
        self._is_too_long |= end - at > room
        self._body += data[at : min(end, at + room)]
        if mark is None:
            return end
        if data[end] == ord("$"):  # the client began anew
            self._body, self._is_too_long = bytearray(), False
        else:
            self._checksum = bytearray()
        return end + 1

    def _finish(self) -> Packet | Garbled:
        assert self._body is not None
        assert self._checksum is not None
        body, digits = bytes(self._body), bytes(self._checksum)
        self._body = self._checksum = None
        if self._is_too_long:
            return Garbled(is_worth_repeating=False)
        if digits.lower() != b"%02x" % (sum(body) & 0xFF):
            return Garbled(is_worth_repeating=True)
        payload = unescape(body)
        return Packet(payload) if len(payload) <= PACKET_SIZE else Garbled(is_worth_repeating=False)


def encode(payload: bytes) -> bytes:
    """Return the packet that carries *payload*, in which binary data is escaped already."""
    body = _RUN.sub(_shorten, payload)
    return b"$%b#%02x" % (body, sum(body) & 0xFF)


def escape(data: bytes) -> bytes:
    """Return binary *data* as it stands in a payload."""
    return _ESCAPED.sub(lambda match: bytes((_ESCAPE, match[0][0] ^ 0x20)), data)


def unescape(body: bytes) -> bytes:
    """Return *body* with escapes undone; one that nothing follows is left out."""
    return _ESCAPE_PAIR.sub(lambda pair: bytes(byte ^ 0x20 for byte in pair[1]), body)


def _shorten(run: re.Match[bytes]) -> bytes:
    """Return a run of one character, the character itself and up to 96 repetitions, as a repetition."""
    character, repetitions = run[1], len(run[0]) - 1
    if character in b"*}#$":
        # A repeated mark would not be read as one: data that holds them is escaped, so runs of them are rare.
        return run[0]
    spelled_out = 0
    while repetitions - spelled_out in _UNUSABLE_COUNTS:
        spelled_out += 1
    return character * (1 + spelled_out) + b"*%c" % (repetitions - spelled_out + _COUNT_BASE)
