"""The shapes of characters: those that the guest has loaded, or else those of a PC's own font.

A VGA keeps a font in plane 2 of its memory, 32 bytes a character, one for each scan line, the leftmost dot in the
highest bit (FreeVGA, "VGA Text Mode Operation", section "Fonts").  In the machine's memory it lies where its loader
wrote it: a plane's bytes are at consecutive addresses from 0xA0000 on while one is loaded.

``cp437-8x16.font`` beside this module is what a machine shows whose guest has loaded none: 256 characters of
8x16 dots in the order of code page 437, 16 bytes each.  It is the font of SeaBIOS's video BIOS (``vgasrc/vgafonts.c``),
which is in the public domain, as Debian's copyright file of the package ``seabios`` has it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

CHARACTERS = 256
SLOT = 32
"""Bytes for each character in a VGA's memory: as many as it may have scan lines."""
FONT_SIZE = CHARACTERS * SLOT
FONT_MEMORY = 0xA0000

_OWN_HEIGHT = 16
_LETTERS = slice(ord("A") * SLOT, (ord("Z") + 1) * SLOT)
_LOW = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"

CODE_PAGE = (
    _LOW + bytes(range(0x20, 0x7F)).decode("ascii") + "⌂" + bytes(range(0x80, 0xFF)).decode("cp437") + " "
)
"""Every character of code page 437 as what it looks like; those that look like nothing are spaces."""


@cache
def own_font() -> bytes:
    """Return the font of a machine whose guest has loaded none, as a VGA would keep it."""
    data = files(__package__).joinpath("cp437-8x16.font").read_bytes()
    shapes = (data[at : at + _OWN_HEIGHT] for at in range(0, len(data), _OWN_HEIGHT))
    return b"".join(shape + bytes(SLOT - _OWN_HEIGHT) for shape in shapes)


def map_offset(number: int) -> int:
    """Return where in plane 2 the character map *number* (0 to 7) begins: the first four lie 16 KiB apart."""
    return (number & 3) * 2 * FONT_SIZE + (FONT_SIZE if number & 4 else 0)


def loaded_font(ram: memoryview, number: int) -> bytes:
    """Return the character map *number* from *ram*, or our own where the guest has loaded nothing."""
    start = FONT_MEMORY + map_offset(number)
    font = bytes(ram[start : start + FONT_SIZE])
    return font if len(font) == FONT_SIZE and any(font[_LETTERS]) else own_font()
