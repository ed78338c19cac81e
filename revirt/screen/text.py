"""A screen of characters."""

from __future__ import annotations

from dataclasses import dataclass

from revirt.screen.font import CODE_PAGE
from revirt.screen.pixels import Colour


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the cursor is, and which scan lines of its character it covers, the *last* included."""

    column: int
    line: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class TextScreen:
    """Lines of characters, as a VGA shows them.

    ``cells`` has two bytes for each, line by line: its number, in whatever font is loaded, and its attribute.
    ``palette`` has the colours of the 16 numbers in attributes; with ``blinks`` the highest bit of an attribute is no
    colour but lets its character blink.  ``fonts`` are used by attributes with bit 3 off and on.  A character takes
    ``character_width`` x ``character_height`` dots; with ``joins_lines`` the ninth column of line graphics repeats
    the eighth.  While ``is_off`` a monitor shows nothing of this.
    """

    columns: int
    lines: int
    cells: bytes
    cursor: Cursor | None
    palette: tuple[Colour, ...]
    fonts: tuple[bytes, bytes]
    character_width: int
    character_height: int
    blinks: bool
    joins_lines: bool
    is_off: bool = False

    def line(self, number: int) -> str:
        """Return the line of that *number* (from 0) as text, as long as the screen is wide.

        A character is the one that stands for its number in code page 437, whatever font the guest has loaded.
        """
        start = 2 * self.columns * number
        return "".join(map(CODE_PAGE.__getitem__, self.cells[start : start + 2 * self.columns : 2]))

    def text(self) -> str:
        """Return all lines, without the spaces that end them, each with a newline."""
        return "".join(self.line(number).rstrip() + "\n" for number in range(self.lines))

    def colours(self, attribute: int) -> tuple[Colour, Colour]:
        """Return the colours of a character with *attribute*, and of what is behind it."""
        background = attribute >> 4 & (7 if self.blinks else 15)
        return self.palette[attribute & 15], self.palette[background]
