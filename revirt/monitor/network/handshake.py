"""The third step of TCP's handshake, which passt leaves out.

passt of Debian 12 (March 2023) acknowledges a guest's SYN and ACK not before the first data of either side.  A server
in the guest that speaks first does not speak before that, as for it there is no connection yet: it would wait for ever.
So the acknowledgement comes from here (RFC 9293, section 3.5).  If one of passt's own follows, as of later versions, it
says the same again, which changes nothing.
"""

from __future__ import annotations

import struct

_ETHERNET, _IP, _TCP = 14, 20, 20
_IPV4 = b"\x08\x00"
_TCP_PROTOCOL = 6
_SYN_ACK, _ACK = 0x12, 0x10
_FLAGS = 0x3F
_WINDOW = 256
"""As passt has it: 64 KiB where both sides scale windows, and little until its first own segment where they do not."""


def acknowledgement(frame: bytes) -> bytes | None:
    """Return the frame that acknowledges *frame* if that is an IPv4 guest's SYN and ACK, else None."""
    if len(frame) < _ETHERNET + _IP + _TCP or frame[12:14] != _IPV4 or frame[23] != _TCP_PROTOCOL:
        return None
    tcp = _ETHERNET + (frame[14] & 15) * 4
    if len(frame) < tcp + _TCP or frame[tcp + 13] & _FLAGS != _SYN_ACK:
        return None
    source, destination, sequence, acknowledged = struct.unpack_from(">HHII", frame, tcp)
    ends = frame[30:34] + frame[26:30]
    segment = struct.pack(
        ">HHIIBBHHH",
        destination,
        source,
        acknowledged,
        (sequence + 1) & 0xFFFFFFFF,
        0x50,
        _ACK,
        _WINDOW,
        0,
        0,
    )
    pseudo = ends + struct.pack(">HH", _TCP_PROTOCOL, len(segment))
    packet = struct.pack(">BBHHHBBH", 0x45, 0, _IP + _TCP, 0, 0x4000, 255, _TCP_PROTOCOL, 0) + ends
    return b"".join(
        (
            frame[6:12] + frame[:6] + _IPV4,
            _with_checksum(packet, 10, _checksum(packet)),
            _with_checksum(segment, 16, _checksum(pseudo + segment)),
        )
    )


def _with_checksum(data: bytes, at: int, checksum: int) -> bytes:
    return data[:at] + checksum.to_bytes(2, "big") + data[at + 2 :]


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of *data*, which has an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
