"""Pictures in the format PNG (ISO/IEC 15948, W3C "Portable Network Graphics"): red, green and blue, 8 bits each."""

from __future__ import annotations

import struct
import zlib

from revirt.screen.pixels import PixelScreen

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRUECOLOUR = 2
_LEVEL = 6
_FILTER_NONE = b"\0"


def png(screen: PixelScreen) -> bytes:
    """Return *screen* as the bytes of a PNG file; equal screens give equal bytes."""
    rgb = screen.rgb()
    stride = 3 * screen.width
    rows = b"".join(_FILTER_NONE + rgb[at : at + stride] for at in range(0, len(rgb), stride))
    header = struct.pack(">IIBBBBB", screen.width, screen.height, 8, _TRUECOLOUR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, _LEVEL)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
