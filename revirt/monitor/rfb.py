"""The remote framebuffer protocol of VNC (RFC 6143): pixel formats, rectangles and their encodings, a password.

Numbers are big-endian, pixels as the client wants them.  Of the encodings there are Raw (7.7.1), which every client
knows, and ZRLE (7.7.6), with its plainest tiles: of one colour, or all pixels, in a zlib stream that lasts as long
as the connection.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from revirt.screen import PixelScreen
from revirt.screen.pixels import BYTES_PER_PIXEL

RAW = 0
ZRLE = 16
DESKTOP_SIZE = -223

TILE = 64
"""Side of a tile of ZRLE, in pixels."""
_BAND = 16
"""Lines that are compared at a time to find what changed."""
_COLOURS = 1 << 16
"""Colours of which it is remembered how a client wants them."""
_TILE_RAW = b"\0"
_TILE_SOLID = b"\1"
_LEVEL = 1


class ProtocolError(Exception):
    """A client said what it must not say."""


@dataclass(frozen=True, slots=True)
class Area:
    """Pixels from column *x* and row *y* on."""

    x: int
    y: int
    width: int
    height: int

    def header(self, encoding: int) -> bytes:
        """Return what begins a rectangle (7.6.1)."""
        return struct.pack(">HHHHi", self.x, self.y, self.width, self.height, encoding)

    def tiles(self) -> Iterator[Area]:
        """Yield the tiles of this area, in rows from the top."""
        for y in range(self.y, self.y + self.height, TILE):
            for x in range(self.x, self.x + self.width, TILE):
                yield Area(x, y, min(TILE, self.x + self.width - x), min(TILE, self.y + self.height - y))


class PixelFormat:
    """How a client wants its pixels: the 16 bytes of PIXEL_FORMAT (7.4)."""

    STRUCT = struct.Struct(">BBBBHHHBBB3x")
    NATIVE = STRUCT.pack(32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
    """As a `PixelScreen` has them."""

    def __init__(self, data: bytes) -> None:
        """Raise ProtocolError for one with a palette, or that makes no sense."""
        bits, depth, big, true, *maxima, red, green, blue = self.STRUCT.unpack(data)
        self._shifts = (red, green, blue)
        self._maxima = tuple(maxima)
        if bits not in (8, 16, 32) or not true or not 0 < depth <= 32:
            raise ProtocolError(
                f"{bits} bits for a pixel, of {depth}, {'in' if true else 'without'} true colour"
            )
        spans = [each << shift for each, shift in zip(maxima, self._shifts, strict=True) if shift < 32]
        if len(spans) < 3 or any(span >= 1 << bits for span in spans) or 0 in maxima:
            raise ProtocolError("colours outside their pixels")
        self._type = {8: "B", 16: "H", 32: "I"}[bits]
        self._is_big = bool(big)
        self._is_native = data[:13] == self.NATIVE[:13]
        self._cache: dict[int, int] = {}
        self._compact = _compact_bytes(bits, depth, self._is_big, spans)

    def convert(self, pixels: bytes) -> bytes:
        """Return *pixels* of a screen as the client wants them."""
        if self._is_native:
            return pixels
        if len(self._cache) > _COLOURS:
            self._cache.clear()
        cache = self._cache
        given = memoryview(pixels).cast("I")
        for colour in set(given) - cache.keys():
            cache[colour] = self._colour(colour)
        converted = array(self._type, map(cache.__getitem__, given))
        if self._is_big:
            converted.byteswap()
        return converted.tobytes()

    def compact(self, pixels: bytes) -> bytes:
        """Return *pixels* as ZRLE has them: CPIXELs, without the byte of four that says nothing."""
        whole = self.convert(pixels)
        if self._compact is None:
            return whole
        out = bytearray(3 * (len(whole) // 4))
        for place in range(3):
            out[place::3] = whole[self._compact + place :: 4]
        return bytes(out)

    def _colour(self, bgrx: int) -> int:
        parts = (bgrx >> 16 & 0xFF, bgrx >> 8 & 0xFF, bgrx & 0xFF)
        scaled = zip(parts, self._maxima, self._shifts, strict=True)
        # Not a sum: colours that a client lets overlap must not carry out of their pixel.
        pixel: int = reduce(or_, ((part * most + 127) // 255 << shift for part, most, shift in scaled))
        return pixel


def _compact_bytes(bits: int, depth: int, is_big: bool, spans: list[int]) -> int | None:
    """Return at which of four bytes the three of a CPIXEL begin; None if a CPIXEL is a whole pixel (7.7.5)."""
    if bits != 32 or depth > 24:
        return None
    if all(span < 1 << 24 for span in spans):
        return 1 if is_big else 0
    if all(not span & 0xFF for span in spans):
        return 0 if is_big else 1
    return None


class Encoder:
    """Encodes areas of screens for one client, in whatever *format* and *encoding* it wants at the time."""

    def __init__(self) -> None:
        self.format = PixelFormat(PixelFormat.NATIVE)
        self.encoding = RAW
        self._stream = zlib.compressobj(_LEVEL)

    def rectangle(self, screen: PixelScreen, area: Area) -> bytes:
        """Return *area* of *screen* as a rectangle."""
        if self.encoding == RAW:
            return area.header(RAW) + self.format.convert(_cut(screen, area))
        tiles = b"".join(self._tile(_cut(screen, tile)) for tile in area.tiles())
        data = self._stream.compress(tiles) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        return area.header(ZRLE) + struct.pack(">I", len(data)) + data

    def _tile(self, pixels: bytes) -> bytes:
        first = pixels[:BYTES_PER_PIXEL]
        if pixels == first * (len(pixels) // BYTES_PER_PIXEL):
            return _TILE_SOLID + self.format.compact(first)
        return _TILE_RAW + self.format.compact(pixels)


def changed_areas(before: PixelScreen, after: PixelScreen) -> list[Area]:
    """Return where *after* differs from *before*, which has the same size: in steps of tiles, none twice."""
    areas: list[Area] = []
    stride = BYTES_PER_PIXEL * after.width
    for y in range(0, after.height, _BAND):
        height = min(_BAND, after.height - y)
        band = slice(y * stride, (y + height) * stride)
        old, new = before.pixels[band], after.pixels[band]
        if old == new:
            continue
        changed = [x for x in range(0, after.width, TILE) if _differs(old, new, x, stride)]
        for x in changed:
            width = min(TILE, after.width - x)
            last = areas[-1] if areas else None
            if last is not None and last.y == y and last.x + last.width == x:
                areas[-1] = Area(last.x, y, last.width + width, height)
            else:
                areas.append(Area(x, y, width, height))
    return areas


def _differs(old: bytes, new: bytes, x: int, stride: int) -> bool:
    """Return whether the tile at column *x* of two bands differs."""
    start, end = BYTES_PER_PIXEL * x, min(BYTES_PER_PIXEL * (x + TILE), stride)
    return any(old[at + start : at + end] != new[at + start : at + end] for at in range(0, len(old), stride))


def _cut(screen: PixelScreen, area: Area) -> bytes:
    """Return the pixels of *area*; where *screen* ends before it, black ones."""
    width = BYTES_PER_PIXEL * area.width
    rows = (
        screen.row(y)[BYTES_PER_PIXEL * area.x :][:width].ljust(width, b"\0")
        for y in range(area.y, area.y + area.height)
    )
    return b"".join(rows)


CHALLENGE_SIZE = 16
PASSWORD_SIZE = 8
"""More characters of a password do not count."""


def is_answer(challenge: bytes, password: str, answer: bytes) -> bool:
    """Return whether *answer* is *challenge* encrypted with *password* (7.2.2)."""
    return hmac.compare_digest(encrypted(challenge, password), answer)


def encrypted(challenge: bytes, password: str) -> bytes:
    """Return *challenge* encrypted by DES with *password*, the bits of whose bytes are taken in reverse."""
    # Imported here: it takes a while, and most displays need no password.
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    try:
        from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    except ImportError:
        from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES

    key = password.encode("latin-1", "replace")[:PASSWORD_SIZE].ljust(PASSWORD_SIZE, b"\0")
    reversed_key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    # Three times the same key is DES itself.
    encryptor = Cipher(TripleDES(3 * reversed_key), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()
