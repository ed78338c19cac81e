"""What TCP does on the way between a guest and passt of Debian 12 (March 2023), and should not or does not do.

That passt acknowledges a guest's SYN and ACK not before the first data of either side.  A server in the guest that
speaks first does not speak before that, as for it there is no connection yet: it would wait for ever.  So the
acknowledgement comes from here (RFC 9293, section 3.5).  If one of passt's own follows, as of later versions, it says
the same again, which changes nothing.

And it takes a single acknowledgement that is repeated for a loss, and sends a whole window again.  A guest that was
held up for two seconds gets its data twice, acknowledges each segment of that again, and is sent the window for each.
Nothing is lost between here and passt, so there is nothing that a repeated acknowledgement could tell it.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

_ETHERNET, _IP, _TCP = 14, 20, 20
_IPV4 = b"\x08\x00"
_TCP_PROTOCOL = 6
_SYN_ACK, _ACK = 0x12, 0x10
_FLAGS = 0x3F
_WINDOW = 256
"""As passt has it: 64 KiB where both sides scale windows, and little until its first own segment where they do not."""


_SYN_FIN_RST = 0x07
_REPEAT_S = 1.0
"""Within this time: keep-alive packets look like it, and are further apart."""
_MOST_CONNECTIONS = 1024


class RepeatedAcknowledgements:
    """Tells acknowledgements that say the same as the one before them of the same connection."""

    def __init__(self) -> None:
        self._latest: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def is_repeat(self, frame: bytes, now_s: float) -> bool:
        """Return whether *frame*, sent at *now_s*, is only an acknowledgement, by IPv4, that was sent just now."""
        if len(frame) < _ETHERNET + _IP + _TCP or frame[12:14] != _IPV4 or frame[23] != _TCP_PROTOCOL:
            return False
        tcp = _ETHERNET + (frame[14] & 15) * 4
        if len(frame) < tcp + _TCP:
            return False
        size = int.from_bytes(frame[16:18], "big") - (tcp - _ETHERNET) - (frame[tcp + 12] >> 4) * 4
        if size or frame[tcp + 13] & _SYN_FIN_RST:
            return False
        # Addresses and ports; sequence number, acknowledgement, flags and window.
        connection, said = frame[26:34] + frame[tcp : tcp + 4], frame[tcp + 4 : tcp + 16]
        before = self._latest.get(connection)
        if before is not None and before[0] == said and now_s - before[1] < _REPEAT_S:
            return True
        self._latest[connection] = (said, now_s)
        self._latest.move_to_end(connection)
        if len(self._latest) > _MOST_CONNECTIONS:
            self._latest.popitem(last=False)
        return False


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
