"""What stands on the screen of a machine, read from its memory and the registers of its VGA.

Rules:
- Everything is the guest's: any register may have any value, and memory may end anywhere.
- A framebuffer goes before a VGA: whoever has been given one uses it.
- The machine's memory has no planes.  Text, fonts and mode 13h are where a guest sees them; graphics modes that
  write several planes at one address are lost, and said to be.

Registers are named in `revirt.machine.vga`; how they make a picture is in FreeVGA, "VGA Display Generation", "VGA
Text Mode Operation" and "Manipulating the Text-mode Cursor".
"""

from __future__ import annotations

from revirt.image.display import Framebuffer
from revirt.machine import vga
from revirt.machine.machine import Machine
from revirt.machine.vga import VgaState
from revirt.screen.font import loaded_font
from revirt.screen.pixels import BYTES_PER_PIXEL, Colour, PixelScreen, black, packed
from revirt.screen.text import Cursor, TextScreen

Screen = TextScreen | PixelScreen

_WINDOWS = ((0xA0000, 0x20000), (0xA0000, 0x10000), (0xB0000, 0x8000), (0xB8000, 0x8000))
"""Where a guest sees the VGA's memory, address and size, by Graphics Misc's bits 2 and 3."""
_NOT_KEPT = "a graphics mode with planes, which the machine does not keep"
_DARK = (640, 480)


def screen_of(machine: Machine) -> Screen | None:
    """Return what *machine* shows where it stands; None if it has nothing to show it on."""
    device = machine.board.vga
    display = machine.config.devices.display(machine.config.memory)
    state = device.save() if device is not None else None
    return read_screen(machine.core.ram, state, display.framebuffer)


def read_screen(
    ram: memoryview, state: VgaState | None, framebuffer: Framebuffer | None = None
) -> Screen | None:
    """Return what a machine with memory *ram*, a VGA in *state* and a *framebuffer* shows; None if it has neither."""
    if framebuffer is not None:
        return _framebuffer(ram, framebuffer)
    if state is None:
        return None
    is_text = not state.graphics[vga.GR_MISC] & vga.MISC_GRAPHICS
    if is_text:
        return _text(ram, state)
    is_chained = state.sequencer[vga.SEQ_MEMORY] & vga.MEMORY_CHAIN_4
    if is_chained and state.graphics[vga.GR_MODE] & vga.MODE_256_COLOURS:
        return _bytes_as_pixels(ram, state)
    return black(*_DARK, _NOT_KEPT)


def _framebuffer(ram: memoryview, framebuffer: Framebuffer) -> PixelScreen:
    pixels = _cut(ram, framebuffer.base, framebuffer.size)
    return PixelScreen(framebuffer.width, framebuffer.height, pixels)


def _text(ram: memoryview, state: VgaState) -> TextScreen:
    crtc = state.crtc
    columns = crtc[vga.CR_HORIZONTAL_END] + 1
    height = (crtc[vga.CR_MAX_SCAN_LINE] & 0x1F) + 1
    lines = max(1, _shown_lines(state) // height)
    mode = state.attribute[vga.AT_MODE]
    base, size = _window(state)
    memory = _cut(ram, base, size)
    starts = _line_starts(state, lines, height)
    map_b, map_a = _character_maps(state.sequencer[vga.SEQ_CHARACTER_MAP])
    return TextScreen(
        columns=columns,
        lines=lines,
        cells=b"".join(_ring(memory, 2 * start, 2 * columns) for start in starts),
        cursor=_cursor(state, starts, columns, height, size // 2),
        palette=tuple(_palette(state, colour) for colour in range(16)),
        fonts=(loaded_font(ram, map_b), loaded_font(ram, map_a)),
        character_width=8 if state.sequencer[vga.SEQ_CLOCKING] & vga.CLOCKING_8_DOTS else 9,
        character_height=height,
        blinks=bool(mode & vga.AT_MODE_BLINK),
        joins_lines=bool(mode & vga.AT_MODE_LINE_GRAPHICS),
        is_off=_is_off(state),
    )


def _line_starts(state: VgaState, lines: int, height: int) -> list[int]:
    """Return where each line of text begins, in characters; below the line compare they begin at 0."""
    crtc = state.crtc
    start = crtc[vga.CR_START_HIGH] << 8 | crtc[vga.CR_START_LOW]
    pitch = 2 * crtc[vga.CR_OFFSET]
    doubled = 2 if crtc[vga.CR_MAX_SCAN_LINE] & vga.MAX_SCAN_LINE_DOUBLED else 1
    split = -(-(_line_compare(state) + 1) // (height * doubled))
    return [start + line * pitch if line < split else (line - split) * pitch for line in range(lines)]


def _cursor(state: VgaState, starts: list[int], columns: int, height: int, characters: int) -> Cursor | None:
    """Return where the cursor is shown, if it is; its address is one in memory, whatever the screen shows of that."""
    crtc = state.crtc
    first, last = crtc[vga.CR_CURSOR_START] & 0x1F, min(crtc[vga.CR_CURSOR_END] & 0x1F, height - 1)
    if crtc[vga.CR_CURSOR_START] & vga.CURSOR_OFF or first > last:
        return None
    address = crtc[vga.CR_CURSOR_HIGH] << 8 | crtc[vga.CR_CURSOR_LOW]
    for line, start in enumerate(starts):
        column = (address - start) % characters
        if column < columns:
            return Cursor(column, line, first, last)
    return None


def _bytes_as_pixels(ram: memoryview, state: VgaState) -> PixelScreen:
    """Return the screen of mode 13h, or one like it: a byte for each pixel, two dots wide."""
    crtc = state.crtc
    width = 4 * (crtc[vga.CR_HORIZONTAL_END] + 1)
    height = max(1, _shown_lines(state) // ((crtc[vga.CR_MAX_SCAN_LINE] & 0x1F) + 1))
    if _is_off(state):
        return black(width, height)
    base, size = _window(state)
    memory = _cut(ram, base, size)
    start = 4 * (crtc[vga.CR_START_HIGH] << 8 | crtc[vga.CR_START_LOW])
    pitch = 8 * crtc[vga.CR_OFFSET]
    rows = b"".join(_ring(memory, start + line * pitch, width) for line in range(height))
    pixels = bytearray(BYTES_PER_PIXEL * len(rows))
    colours = [packed(_dac(state, number)) for number in range(vga.DAC_COLOURS)]
    for component in range(3):
        table = bytes(colour[component] for colour in colours)
        pixels[component::BYTES_PER_PIXEL] = rows.translate(table)
    return PixelScreen(width, height, bytes(pixels))


def _shown_lines(state: VgaState) -> int:
    """Return how many scan lines are shown, those that are doubled once."""
    crtc = state.crtc
    overflow = crtc[vga.CR_OVERFLOW]
    shown = (crtc[vga.CR_VERTICAL_END] | (overflow & 0x02) << 7 | (overflow & 0x40) << 3) + 1
    return shown // 2 if crtc[vga.CR_MAX_SCAN_LINE] & vga.MAX_SCAN_LINE_DOUBLED else shown


def _line_compare(state: VgaState) -> int:
    crtc = state.crtc
    low = crtc[vga.CR_LINE_COMPARE] | (crtc[vga.CR_OVERFLOW] & vga.OVERFLOW_LINE_COMPARE) << 4
    return low | (crtc[vga.CR_MAX_SCAN_LINE] & vga.MAX_SCAN_LINE_LINE_COMPARE) << 3


def _is_off(state: VgaState) -> bool:
    is_shown = state.attribute_index & vga.ATTRIBUTE_ENABLED
    return not is_shown or bool(state.sequencer[vga.SEQ_CLOCKING] & vga.CLOCKING_SCREEN_OFF)


def _character_maps(select: int) -> tuple[int, int]:
    """Return the numbers of the character maps for attributes with bit 3 off (B) and on (A)."""
    map_b = select & 0x03 | (select & 0x10) >> 2
    map_a = (select & 0x0C) >> 2 | (select & 0x20) >> 3
    return map_b, map_a


def _palette(state: VgaState, colour: int) -> Colour:
    """Return what *colour* (4 bits) of an attribute looks like: FreeVGA, "VGA Attribute Controller" and "DAC"."""
    attribute = state.attribute
    number = attribute[colour & attribute[vga.AT_PLANES] & 0x0F]
    select = attribute[vga.AT_COLOUR_SELECT]
    if attribute[vga.AT_MODE] & vga.AT_MODE_SELECT_54:
        number = number & 0x0F | (select & 0x03) << 4
    return _dac(state, number & 0x3F | (select & 0x0C) << 4)


def _dac(state: VgaState, number: int) -> Colour:
    at = 3 * (number & state.dac_mask)
    red, green, blue = (part << 2 | part >> 4 for part in state.dac[at : at + 3])
    return red, green, blue


def _window(state: VgaState) -> tuple[int, int]:
    return _WINDOWS[state.graphics[vga.GR_MISC] >> vga.MISC_MAP_SHIFT & 3]


def _cut(ram: memoryview, start: int, size: int) -> bytes:
    """Return *size* bytes of *ram*; what is behind its end reads as zeros."""
    return bytes(ram[start : start + size]).ljust(size, b"\0")


def _ring(memory: bytes, start: int, size: int) -> bytes:
    """Return *size* bytes of *memory* from *start* on; behind its end it begins again."""
    start %= len(memory)
    found = memory[start : start + size]
    return found + memory[: size - len(found)]
