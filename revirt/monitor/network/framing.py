"""Ethernet frames on a stream of bytes, as QEMU's stream and socket networks, passt and others have them.

::

    length    u32, big-endian    bytes of the frame
    frame     without its check sequence
"""

from __future__ import annotations

from revirt.monitor.network.backend import LARGEST_FRAME

_LENGTH = 4


class FramingError(ValueError):
    """What came is not frames."""


def framed(frame: bytes) -> bytes:
    """Return *frame* as it stands on a stream."""
    return len(frame).to_bytes(_LENGTH, "big") + frame


class Unframer:
    """Takes a stream in pieces, and returns the frames on it; holds no more than a piece and a frame."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the frames that *piece* completes.

        Raises FramingError if a length is larger than a frame can be: whatever comes then means nothing.
        """
        left, at, frames = self._left, 0, []
        left += piece
        while len(left) - at >= _LENGTH:
            size = int.from_bytes(left[at : at + _LENGTH], "big")
            if size > LARGEST_FRAME:
                raise FramingError(f"a frame of {size} bytes, where at most {LARGEST_FRAME} are possible")
            if len(left) - at - _LENGTH < size:
                break
            at += _LENGTH
            frames.append(bytes(left[at : at + size]))
            at += size
        del left[:at]
        return frames
