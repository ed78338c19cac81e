"""Drawing a screen of characters dot by dot."""

from __future__ import annotations

from functools import lru_cache

from revirt.screen.font import SLOT
from revirt.screen.pixels import PixelScreen, black, packed
from revirt.screen.text import TextScreen

_LINE_GRAPHICS = range(0xC0, 0xE0)
"""The characters whose eighth column goes on in the ninth (FreeVGA, Attribute Mode Control, bit 2)."""
_SHAPES = 4096
"""Most shapes, in their colours, that are kept for one picture."""


def draw(screen: TextScreen | PixelScreen) -> PixelScreen:
    """Return *screen* as pixels; blinking characters and the cursor are drawn as while they show."""
    if isinstance(screen, PixelScreen):
        return screen
    width, height = screen.columns * screen.character_width, screen.lines * screen.character_height
    if screen.is_off:
        return black(width, height, "the guest has turned the screen off")
    shape_of = lru_cache(_SHAPES)(lambda number, attribute: _shape(screen, number, attribute))
    rows: list[bytes] = []
    for line in range(screen.lines):
        start = 2 * screen.columns * line
        cells = screen.cells[start : start + 2 * screen.columns]
        shapes = [shape_of(*cell) for cell in zip(cells[::2], cells[1::2], strict=True)]
        cursor = screen.cursor
        if cursor is not None and cursor.line == line:
            shapes[cursor.column] = _with_cursor(screen, shapes[cursor.column], cells[2 * cursor.column + 1])
        rows.extend(map(b"".join, zip(*shapes, strict=True)))
    return PixelScreen(width, height, b"".join(rows))


def _shape(screen: TextScreen, number: int, attribute: int) -> list[bytes]:
    """Return the rows of character *number* in the colours of *attribute*."""
    foreground, background = map(packed, screen.colours(attribute))
    font = screen.fonts[attribute >> 3 & 1]
    dots = (background, foreground)
    is_joined = screen.joins_lines and number in _LINE_GRAPHICS
    rows = []
    for row in font[number * SLOT : number * SLOT + screen.character_height]:
        shape = b"".join(dots[row >> bit & 1] for bit in range(7, -1, -1))
        if screen.character_width > 8:
            shape += dots[row & 1] if is_joined else background
        rows.append(shape)
    return rows


def _with_cursor(screen: TextScreen, shape: list[bytes], attribute: int) -> list[bytes]:
    assert screen.cursor is not None
    foreground = packed(screen.colours(attribute)[0]) * screen.character_width
    first, last = screen.cursor.first, screen.cursor.last
    return [foreground if first <= row <= last else dots for row, dots in enumerate(shape)]
