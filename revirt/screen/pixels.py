"""A screen of pixels."""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_PIXEL = 4

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""


@dataclass(frozen=True, slots=True)
class PixelScreen:
    """Rows of pixels from the top, each pixel blue, green, red and a byte that means nothing.

    ``note`` says why they are black, if not because the guest wants them so.
    """

    width: int
    height: int
    pixels: bytes
    note: str = ""

    def row(self, number: int) -> bytes:
        """Return the pixels of row *number*."""
        stride = self.width * BYTES_PER_PIXEL
        return self.pixels[number * stride : (number + 1) * stride]

    def rgb(self) -> bytes:
        """Return the pixels as red, green and blue, without gaps."""
        out = bytearray(3 * self.width * self.height)
        for colour in range(3):
            out[colour::3] = self.pixels[2 - colour :: BYTES_PER_PIXEL]
        return bytes(out)


def packed(colour: Colour) -> bytes:
    """Return a pixel of *colour*."""
    red, green, blue = colour
    return bytes((blue, green, red, 0))


def black(width: int, height: int, note: str = "") -> PixelScreen:
    """Return a black screen."""
    return PixelScreen(width, height, bytes(width * height * BYTES_PER_PIXEL), note)
