"""Writing pcapng files (draft-ietf-opsawg-pcapng): frames with a time, a direction and a comment.

A file is one section: its header, then for every card a description before its first frame, and the frames as Enhanced
Packet Blocks.  Times are in nanoseconds, and everything is little-endian.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_VERSION = (1, 0)
_LENGTH_UNKNOWN = -1
_ETHERNET = 1
_NO_LIMIT = 0
_OPTION_END, _OPTION_COMMENT = 0, 1
_SECTION_APPLICATION = 4  # shb_userappl
_INTERFACE_NAME, _INTERFACE_RESOLUTION = 2, 9
_PACKET_FLAGS = 2  # epb_flags
_NANOSECONDS = b"\x09"
_INBOUND, _OUTBOUND = 1, 2


class CaptureWriter:
    """Writes a pcapng file to *out*; *comment* is about all of it.  What *out* raises is passed on."""

    def __init__(self, out: BinaryIO, comment: str = "", *, application: str = "revirt") -> None:
        self._out = out
        self._interfaces: dict[int, int] = {}
        options = [(_SECTION_APPLICATION, application.encode())]
        if comment:
            options.insert(0, (_OPTION_COMMENT, comment.encode()))
        header = struct.pack("<IHHq", _BYTE_ORDER, *_VERSION, _LENGTH_UNKNOWN)
        self._write(_SECTION, header + _options(options))

    def write(self, card: int, time_ns: int, frame: bytes, *, is_inbound: bool, comment: str) -> None:
        """Write a *frame* that network card number *card* took (*is_inbound*) or sent.

        *time_ns* is in nanoseconds since 1970, *comment* for people.
        """
        interface = self._interfaces.get(card)
        if interface is None:
            interface = self._interfaces[card] = len(self._interfaces)
            self._describe(card)
        size = len(frame)
        header = struct.pack(
            "<IIIII", interface, time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF, size, size
        )
        flags = struct.pack("<I", _INBOUND if is_inbound else _OUTBOUND)
        options = _options([(_OPTION_COMMENT, comment.encode()), (_PACKET_FLAGS, flags)])
        self._write(_PACKET, header + _padded(frame) + options)

    def _describe(self, card: int) -> None:
        header = struct.pack("<HHI", _ETHERNET, 0, _NO_LIMIT)
        name = f"card {card}".encode()
        self._write(
            _INTERFACE, header + _options([(_INTERFACE_NAME, name), (_INTERFACE_RESOLUTION, _NANOSECONDS)])
        )

    def _write(self, kind: int, body: bytes) -> None:
        size = struct.pack("<I", len(body) + 12)
        block = memoryview(struct.pack("<I", kind) + size + body + size)
        while block:
            # All of it, but where Python runs with unbuffered streams.
            block = block[self._out.write(block) :]


def _options(options: list[tuple[int, bytes]]) -> bytes:
    parts = [struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options]
    return b"".join(parts) + struct.pack("<HH", _OPTION_END, 0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
