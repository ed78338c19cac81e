"""A screen as a terminal can show it: characters in their colours, pixels as half blocks of fewer."""

from __future__ import annotations

from itertools import groupby

from rich.color import Color
from rich.style import Style
from rich.text import Text

from revirt.screen.pixels import BYTES_PER_PIXEL, Colour, PixelScreen
from revirt.screen.text import TextScreen

_UPPER_HALF = "▀"


def in_colour(screen: TextScreen | PixelScreen, columns: int, lines: int) -> Text:
    """Return *screen* for a terminal of *columns* x *lines*.

    Characters stay as large as they are, and what does not fit is left out; pixels are made fewer, so that all fit.
    """
    if isinstance(screen, PixelScreen):
        return _of_pixels(screen, columns, lines)
    return _of_characters(screen, columns, lines)


def _of_characters(screen: TextScreen, columns: int, lines: int) -> Text:
    text = Text(no_wrap=True, overflow="crop", end="")
    for number in range(min(screen.lines, lines)):
        start = 2 * screen.columns * number
        attributes = list(screen.cells[start + 1 : start + 2 * screen.columns : 2][:columns])
        cursor = screen.cursor
        marked = cursor.column if cursor is not None and cursor.line == number else None
        cells = zip(
            screen.line(number), ((each, at == marked) for at, each in enumerate(attributes)), strict=False
        )
        for (attribute, has_cursor), group in groupby(cells, key=lambda cell: cell[1]):
            foreground, background = screen.colours(attribute)
            style = _style(foreground, background, blinks=screen.blinks and bool(attribute & 0x80))
            text.append("".join(char for char, _ in group), style + Style(reverse=has_cursor))
        text.append("\n")
    text.right_crop(1)
    return text


def _of_pixels(screen: PixelScreen, columns: int, lines: int) -> Text:
    """Take the nearest pixel for each half of a character; a half is about as wide as it is high."""
    scale = max(screen.width / max(columns, 1), screen.height / max(2 * lines, 1), 1.0)
    width, height = int(screen.width / scale), int(screen.height / scale)
    text = Text(no_wrap=True, overflow="crop", end="")
    for upper in range(0, height - 1, 2):
        rows = [_sampled(screen, int((upper + half + 0.5) * scale), width, scale) for half in range(2)]
        for (above, below), group in groupby(zip(*rows, strict=True)):
            text.append(_UPPER_HALF * len(list(group)), _style(above, below))
        text.append("\n")
    text.right_crop(1)
    return text


def _sampled(screen: PixelScreen, number: int, width: int, scale: float) -> list[Colour]:
    row = screen.row(min(number, screen.height - 1))
    starts = (BYTES_PER_PIXEL * int((column + 0.5) * scale) for column in range(width))
    return [(row[at + 2], row[at + 1], row[at]) for at in starts]


def _style(foreground: Colour, background: Colour, *, blinks: bool = False) -> Style:
    return Style(color=Color.from_rgb(*foreground), bgcolor=Color.from_rgb(*background), blink=blinks or None)
