"""What a machine shows: text or pixels, from the registers of its VGA and its memory; as text, colours, a picture."""

from revirt.screen.drawing import draw
from revirt.screen.pixels import PixelScreen
from revirt.screen.png import png
from revirt.screen.reading import Screen, read_screen, screen_of
from revirt.screen.terminal import in_colour
from revirt.screen.text import Cursor, TextScreen

__all__ = [
    "Cursor",
    "PixelScreen",
    "Screen",
    "TextScreen",
    "draw",
    "in_colour",
    "png",
    "read_screen",
    "screen_of",
]
