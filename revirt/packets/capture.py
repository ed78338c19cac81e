"""Reading capture files of both forms that programs write: pcap and pcapng (draft-ietf-opsawg-pcap and -pcapng).

Rules:
- Frames are read as they are asked for; nothing is held but the one that is read, whatever the file says.
- Only Ethernet is taken.  A packet of an interface that is something else is an error, not passed over: it would be
  missed.
- A frame's time is the file's, in nanoseconds since 1970; one that has none has that of the frame before it.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from revirt.errors import RevirtError

LARGEST_FRAME = 1 << 18
"""Most bytes of a frame in a file: what capturing programs keep at most."""
_MOST_INTERFACES = 1024
_ETHERNET = 1  # LINKTYPE_ETHERNET
_GZIP = b"\x1f\x8b"

# pcap: a header, then records.  The magic tells the order of bytes, and the unit of the fraction of a second.
_PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PCAP_HEADER = "HHiIII"  # version, zone, accuracy, snapshot length, link type
_PCAP_RECORD = "IIII"  # seconds, fraction, bytes captured, bytes that there were
_LINK_TYPE = 0xFFFF  # above it stands how long the frame check sequence is

# pcapng: blocks of type, length, body, length.
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_SECTION_START = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_LARGEST_BLOCK = LARGEST_FRAME + (1 << 16)  # of those that are looked into; options are small
_OPTION_END, _OPTION_RESOLUTION, _OPTION_OFFSET = 0, 9, 14
_PACKET_FLAGS, _DIRECTION, _OUTBOUND = 2, 3, 2  # epb_flags and pack_flags
_SKIPPED_AT_ONCE = 1 << 16


class CaptureError(RevirtError):
    """A capture file that cannot be read, or not any further; ``path`` is the file."""

    def __init__(self, path: Path, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {problem}", hint=hint)
        self.path = path


class CapturedFrame(NamedTuple):
    """A frame as far as it was captured, and when that was: nanoseconds since 1970.

    ``is_outbound`` tells that whoever captured it sent it, where the file says so.
    """

    time_ns: int
    data: bytes
    is_outbound: bool = False


@dataclass(frozen=True, slots=True)
class _Interface:
    """An interface of a pcapng section: times are counted in 1/*per_second* seconds, from *offset_s* on."""

    link_type: int
    largest: int
    per_second: int = 10**6
    offset_s: int = 0

    def time_ns(self, ticks: int) -> int:
        return self.offset_s * 10**9 + ticks * 10**9 // self.per_second


class CaptureReader:
    """The capture file at *path*, from its beginning; iterate over it for its frames.

    Raises CaptureError if there is none or its first bytes are not those of one; iterating does, too, where the file is
    not what its form asks for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._open()
        try:
            self._frames = self._begin()
        except BaseException:
            self._file.close()
            raise

    def __iter__(self) -> Iterator[CapturedFrame]:
        return self._frames

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> BinaryIO:
        try:
            # A pipe without a writer would keep whoever opens it waiting.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CaptureError(self.path, error.strerror or str(error)) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._error("not a file")
        return os.fdopen(fd, "rb")

    def _begin(self) -> Iterator[CapturedFrame]:
        magic = self._read(4, "this file")
        if magic in _PCAP_MAGICS:
            return self._pcap_frames(*_PCAP_MAGICS[magic])
        if magic == _SECTION_START:
            self._file.seek(0)
            return self._pcapng_frames()
        if magic.startswith(_GZIP):
            raise self._error("this is compressed", hint="unpack it with gunzip first")
        raise self._error("this is no capture file", hint="pcap and pcapng files can be read")

    # -- pcap ------------------------------------------------------------------------------------------------------

    def _pcap_frames(self, order: str, unit_ns: int) -> Iterator[CapturedFrame]:
        """Yield the frames of a pcap file; its header is checked at once, not with the first of them."""
        major, *_, link_type = struct.unpack(order + _PCAP_HEADER, self._read(20, "the header"))
        if major != 2:
            raise self._error(f"pcap version {major}; only version 2 is known")
        self._check_link(link_type & _LINK_TYPE)
        return self._records(struct.Struct(order + _PCAP_RECORD), unit_ns)

    def _records(self, record: struct.Struct, unit_ns: int) -> Iterator[CapturedFrame]:
        while header := self._next(record.size, "a record"):
            seconds, fraction, size, _ = record.unpack(header)
            self._check_frame(size)
            yield CapturedFrame(seconds * 10**9 + fraction * unit_ns, self._read(size, "a frame"))

    # -- pcapng ----------------------------------------------------------------------------------------------------

    def _pcapng_frames(self) -> Iterator[CapturedFrame]:
        order, interfaces, time_ns = "", list[_Interface](), 0
        while start := self._next(8, "a block"):
            if start.startswith(_SECTION_START):
                order = self._byte_order()
                interfaces.clear()
            kind, size = struct.unpack(order + "II", start)
            if size < 12 or size % 4:
                raise self._error(f"a block of {size} bytes")
            if kind == _INTERFACE:
                if len(interfaces) == _MOST_INTERFACES:
                    raise self._error(f"more than {_MOST_INTERFACES} interfaces")
                interfaces.append(self._interface(order, self._body(order, size)))
            elif kind in (_OLD_PACKET, _SIMPLE_PACKET, _PACKET):
                frame = self._packet(kind, order, self._body(order, size), interfaces, time_ns)
                time_ns = frame.time_ns
                yield frame
            else:
                self._skip(order, size)

    def _byte_order(self) -> str:
        """Return the byte order of the section that begins here, whose length stands in it, too."""
        mark = self._read(4, "a section header")
        self._file.seek(-4, os.SEEK_CUR)
        if mark not in _BYTE_ORDERS:
            raise self._error("a section in no known byte order")
        return _BYTE_ORDERS[mark]

    def _body(self, order: str, size: int) -> bytes:
        if size > _LARGEST_BLOCK:
            raise self._error(f"a block of {size} bytes; at most {_LARGEST_BLOCK} are read")
        body = self._read(size - 12, "a block")
        self._check_end(order, size)
        return body

    def _skip(self, order: str, size: int) -> None:
        left = size - 12
        while left:
            left -= len(self._read(min(left, _SKIPPED_AT_ONCE), "a block"))
        self._check_end(order, size)

    def _check_end(self, order: str, size: int) -> None:
        (again,) = struct.unpack(order + "I", self._read(4, "a block"))
        if again != size:
            raise self._error(f"a block of {size} bytes that says {again} at its end")

    def _interface(self, order: str, body: bytes) -> _Interface:
        if len(body) < 8:
            raise self._error(f"the description of an interface in {len(body)} bytes")
        link_type, _, largest = struct.unpack_from(order + "HHI", body)
        per_second, offset_s = 10**6, 0
        for code, value in _options(order, body[8:]):
            if code == _OPTION_RESOLUTION and len(value) == 1:
                power = value[0] & 0x7F
                per_second = 1 << power if value[0] & 0x80 else 10**power
            elif code == _OPTION_OFFSET and len(value) == 8:
                (offset_s,) = struct.unpack(order + "q", value)
        return _Interface(link_type, largest, per_second, offset_s)

    def _packet(
        self, kind: int, order: str, body: bytes, interfaces: list[_Interface], before_ns: int
    ) -> CapturedFrame:
        """Return the frame in the *body* of a block of that *kind*; *before_ns* is the time of the one before it."""
        layout = struct.Struct(order + {_PACKET: "IIIII", _OLD_PACKET: "HHIIII", _SIMPLE_PACKET: "I"}[kind])
        if len(body) < layout.size:
            raise self._error(f"a packet block with {len(body)} bytes in it")
        fields = layout.unpack_from(body)
        number = 0 if kind == _SIMPLE_PACKET else fields[0]
        if number >= len(interfaces):
            raise self._error(f"a packet of interface {number}, which is not described before it")
        interface = interfaces[number]
        self._check_link(interface.link_type)
        if kind == _SIMPLE_PACKET:
            # Without a length of what was captured: as much as the interface takes, but for what pads the block.
            size = min(fields[0], interface.largest or fields[0])
            time_ns = before_ns
        else:
            high, low, size = fields[-4:-1]
            time_ns = interface.time_ns(high << 32 | low)
        self._check_frame(size)
        if size > len(body) - layout.size:
            raise self._error(f"a frame of {size} bytes in a block that holds {len(body) - layout.size}")
        end = layout.size + size
        is_outbound = kind != _SIMPLE_PACKET and _is_outbound(order, body[end + -size % 4 :])
        return CapturedFrame(time_ns, body[layout.size : end], is_outbound)

    # -- both ------------------------------------------------------------------------------------------------------

    def _check_link(self, link_type: int) -> None:
        if link_type != _ETHERNET:
            raise self._error(f"link type {link_type}, which is not Ethernet", hint="only Ethernet is taken")

    def _check_frame(self, size: int) -> None:
        if size > LARGEST_FRAME:
            raise self._error(f"a frame of {size} bytes; at most {LARGEST_FRAME} are taken")

    def _next(self, size: int, what: str) -> bytes:
        """Return the next *size* bytes, or none if the file is over."""
        try:
            data = self._file.read(size)
        except OSError as error:
            raise CaptureError(self.path, error.strerror or str(error)) from error
        if data and len(data) < size:
            raise self._error(f"ends within {what}")
        return data

    def _read(self, size: int, what: str) -> bytes:
        """Return the next *size* bytes, which there have to be."""
        data = self._next(size, what) if size else b""
        if len(data) < size:
            raise self._error(f"ends within {what}")
        return data

    def _error(self, problem: str, hint: str = "") -> CaptureError:
        return CaptureError(self.path, problem, hint=hint)


def _is_outbound(order: str, options: bytes) -> bool:
    for code, value in _options(order, options):
        if code == _PACKET_FLAGS and len(value) == 4:
            (flags,) = struct.unpack(order + "I", value)
            return bool(flags & _DIRECTION == _OUTBOUND)
    return False


def _options(order: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the code and the value of each option in *data*, as far as it holds whole ones."""
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from(order + "HH", data, at)
        if code == _OPTION_END or at + 4 + size > len(data):
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4
