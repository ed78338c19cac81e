"""The registers of a VGA; its memory is the machine's own, and what they mean for it, `revirt.screen` knows.

    offset     port     register
    0x04, 05   0x3B4/5  CRT controller, index and data, while Misc Output has it there
    0x0A       0x3BA    Input Status 1, read; Feature Control, written; likewise
    0x10, 11   0x3C0/1  Attribute Controller, index and data by turns; data, read
    0x12       0x3C2    Input Status 0, read; Misc Output, written
    0x13       0x3C3    Video Subsystem Enable
    0x14, 15   0x3C4/5  Sequencer, index and data
    0x16..19   0x3C6-9  DAC: pel mask, state and read index, write index, data
    0x1A, 1C   0x3CA/C  Feature Control and Misc Output, read
    0x1E, 1F   0x3CE/F  Graphics Controller, index and data
    0x24, 25   0x3D4/5  CRT controller, while Misc Output has it here
    0x2A       0x3DA    as 0x3BA

Names, indices and the bits that can be written are those of the IBM PS/2 Hardware Interface Technical Reference,
"Video Subsystem", section "VGA Registers", and of FreeVGA ("Hardware Level VGA and SVGA Video Programming
Information Page"), which numbers them in the same way.

Rules:
- A register is what was written to it: reserved bits read as 0.
- Only Input Status 1 moves by itself, with the beam: where that is follows from the machine's time, the dot clock
  and the totals of the CRT controller, as if a frame had begun at time 0.
- There is no vertical interrupt: on a PC nobody listens to it, and IRQ 2 is the cascade.
- The state after reset is that of mode 3, as a video BIOS leaves it: 80x25 characters of 9x16 dots.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

from revirt.machine.device import Clock
from revirt.machine.state import U1, U4, U8, Range, State


class Port(IntEnum):
    """Offsets, from the first port that a VGA may answer at."""

    MONO_CRTC_INDEX = 0x04
    MONO_CRTC_DATA = 0x05
    MONO_STATUS_1 = 0x0A
    ATTRIBUTE = 0x10
    ATTRIBUTE_DATA = 0x11
    STATUS_0 = 0x12
    """Misc Output, when it is written."""
    ENABLE = 0x13
    SEQUENCER_INDEX = 0x14
    SEQUENCER_DATA = 0x15
    DAC_MASK = 0x16
    DAC_READ_INDEX = 0x17
    DAC_WRITE_INDEX = 0x18
    DAC_DATA = 0x19
    FEATURE_CONTROL = 0x1A
    MISC_OUTPUT = 0x1C
    GRAPHICS_INDEX = 0x1E
    GRAPHICS_DATA = 0x1F
    COLOUR_CRTC_INDEX = 0x24
    COLOUR_CRTC_DATA = 0x25
    COLOUR_STATUS_1 = 0x2A


MISC_COLOUR = 0x01
"""The CRT controller is at 0x3D4, not at 0x3B4."""
MISC_CLOCK_28 = 0x04
MISC_WRITABLE = 0xEF
FEATURE_WRITABLE = 0x0B

STATUS_0_SENSE = 0x10
STATUS_1_BLANK = 0x01
STATUS_1_RETRACE = 0x08

SEQ_CLOCKING = 1
SEQ_CHARACTER_MAP = 3
SEQ_MEMORY = 4
CLOCKING_8_DOTS = 0x01
CLOCKING_HALVED = 0x08
CLOCKING_SCREEN_OFF = 0x20
MEMORY_CHAIN_4 = 0x08

GR_MODE = 5
GR_MISC = 6
MODE_256_COLOURS = 0x40
MISC_GRAPHICS = 0x01
MISC_MAP_SHIFT = 2

CR_HORIZONTAL_TOTAL = 0x00
CR_HORIZONTAL_END = 0x01
CR_VERTICAL_TOTAL = 0x06
CR_OVERFLOW = 0x07
CR_ROW_SCAN = 0x08
CR_MAX_SCAN_LINE = 0x09
CR_CURSOR_START = 0x0A
CR_CURSOR_END = 0x0B
CR_START_HIGH = 0x0C
CR_START_LOW = 0x0D
CR_CURSOR_HIGH = 0x0E
CR_CURSOR_LOW = 0x0F
CR_RETRACE_START = 0x10
CR_RETRACE_END = 0x11
CR_VERTICAL_END = 0x12
CR_OFFSET = 0x13
CR_LINE_COMPARE = 0x18
CURSOR_OFF = 0x20
RETRACE_END_PROTECT = 0x80
OVERFLOW_LINE_COMPARE = 0x10
MAX_SCAN_LINE_LINE_COMPARE = 0x40
MAX_SCAN_LINE_DOUBLED = 0x80

ATTRIBUTE_INDEX = 0x1F
ATTRIBUTE_ENABLED = 0x20
"""Palette Address Source: the screen is shown, and the palette cannot be written."""
AT_PALETTE = range(0x10)
AT_MODE = 0x10
AT_OVERSCAN = 0x11
AT_PLANES = 0x12
AT_COLOUR_SELECT = 0x14
AT_MODE_GRAPHICS = 0x01
AT_MODE_LINE_GRAPHICS = 0x04
AT_MODE_BLINK = 0x08
AT_MODE_SELECT_54 = 0x80

DAC_COLOURS = 256
DAC_STATE_READING = 0x03

SEQUENCER_WRITABLE = bytes.fromhex("03 3d 0f 3f 0e")
CRTC_WRITABLE = bytes.fromhex("ff ff ff ff ff ff ff ff 7f ff 3f 7f ff ff ff ff ff ff ff ff 7f ff ff ef ff")
GRAPHICS_WRITABLE = bytes.fromhex("0f 0f 0f 1f 03 7b 0f 0f ff")
ATTRIBUTE_WRITABLE = bytes([0x3F] * 16) + bytes.fromhex("ef ff 3f 0f 0f")

# Mode 3 in the parameter table of the PS/2 BIOS Interface Technical Reference, "Video".
_MODE_3_MISC = 0x67
_MODE_3_SEQUENCER = bytes.fromhex("03 00 03 00 02")
_MODE_3_CRTC = bytes.fromhex("5f 4f 50 82 55 81 bf 1f 00 4f 0d 0e 00 00 00 00 9c 8e 8f 28 1f 96 b9 a3 ff")
_MODE_3_GRAPHICS = bytes.fromhex("00 00 00 00 00 10 0e 00 ff")
_MODE_3_ATTRIBUTE = bytes.fromhex("00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 0c 00 0f 08 00")

_KHZ = (25_175, 28_322)
"""Dot clocks by Misc Output's bit 2; what bit 3 would choose, an external one, is not connected."""
_NS_PER_MS = 1_000_000

U6 = Annotated[int, Range(0, 63)]


def _ega_colours() -> list[int]:
    """Return the DAC as mode 3 has it: the 64 colours of an EGA, secondary and primary bits as rgbRGB; then black."""
    colours = []
    for colour in range(64):
        for primary, secondary in ((4, 32), (2, 16), (1, 8)):
            colours.append((0x2A if colour & primary else 0) + (0x15 if colour & secondary else 0))
    return colours + [0] * (3 * (DAC_COLOURS - 64))


@dataclass
class VgaState(State):
    """Every register.  The DAC is red, green, blue by turns, 6 bits each."""

    misc: U8 = _MODE_3_MISC
    feature: U4 = 0
    enable: U1 = 1

    sequencer_index: U8 = 0
    sequencer: Annotated[list[U8], Range(5, 5)] = field(default_factory=lambda: list(_MODE_3_SEQUENCER))
    crtc_index: U8 = 0
    crtc: Annotated[list[U8], Range(25, 25)] = field(default_factory=lambda: list(_MODE_3_CRTC))
    graphics_index: U8 = 0
    graphics: Annotated[list[U8], Range(9, 9)] = field(default_factory=lambda: list(_MODE_3_GRAPHICS))
    attribute_index: U6 = ATTRIBUTE_ENABLED
    attribute_is_data: bool = False  # the flip-flop: the next byte written to 0x3C0 is data
    attribute: Annotated[list[U8], Range(21, 21)] = field(default_factory=lambda: list(_MODE_3_ATTRIBUTE))

    dac_mask: U8 = 0xFF
    dac_index: U8 = 0
    dac_component: Annotated[int, Range(0, 2)] = 0
    dac_reading: bool = False
    dac: Annotated[list[U6], Range(3 * DAC_COLOURS, 3 * DAC_COLOURS)] = field(default_factory=_ega_colours)


class Vga:
    """The registers of one VGA; the beam moves with *clock*."""

    name = "vga"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._state = VgaState()

    def read(self, offset: int, _size: int) -> int:
        """Return a register; all ones where there is none, or where Misc Output has put it elsewhere."""
        s = self._state
        if self._is_elsewhere(offset):
            return 0xFF
        match offset:
            case Port.MONO_STATUS_1 | Port.COLOUR_STATUS_1:
                s.attribute_is_data = False
                return self._status_1()
            case Port.ATTRIBUTE:
                return s.attribute_index
            case Port.ATTRIBUTE_DATA:
                return _register(s.attribute, s.attribute_index & ATTRIBUTE_INDEX)
            case Port.SEQUENCER_DATA:
                return _register(s.sequencer, s.sequencer_index)
            case Port.GRAPHICS_DATA:
                return _register(s.graphics, s.graphics_index)
            case Port.MONO_CRTC_DATA | Port.COLOUR_CRTC_DATA:
                return _register(s.crtc, s.crtc_index)
            case Port.DAC_DATA:
                value = s.dac[3 * s.dac_index + s.dac_component]
                self._next_component()
                return value
        return self._plain().get(offset, 0xFF)

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a register; what can only be read, or is not there, ignores it."""
        s = self._state
        if self._is_elsewhere(offset):
            return
        match offset:
            case Port.ATTRIBUTE:
                self._write_attribute(value)
            case Port.STATUS_0:
                s.misc = value & MISC_WRITABLE
            case Port.ENABLE:
                s.enable = value & 1
            case Port.SEQUENCER_INDEX:
                s.sequencer_index = value
            case Port.SEQUENCER_DATA:
                _set_register(s.sequencer, s.sequencer_index, value, SEQUENCER_WRITABLE)
            case Port.GRAPHICS_INDEX:
                s.graphics_index = value
            case Port.GRAPHICS_DATA:
                _set_register(s.graphics, s.graphics_index, value, GRAPHICS_WRITABLE)
            case Port.MONO_CRTC_INDEX | Port.COLOUR_CRTC_INDEX:
                s.crtc_index = value
            case Port.MONO_CRTC_DATA | Port.COLOUR_CRTC_DATA:
                self._write_crtc(value)
            case Port.MONO_STATUS_1 | Port.COLOUR_STATUS_1:
                s.feature = value & FEATURE_WRITABLE
            case Port.DAC_MASK:
                s.dac_mask = value
            case Port.DAC_READ_INDEX | Port.DAC_WRITE_INDEX:
                s.dac_index, s.dac_component = value, 0
                s.dac_reading = offset == Port.DAC_READ_INDEX
            case Port.DAC_DATA:
                s.dac[3 * s.dac_index + s.dac_component] = value & 0x3F
                self._next_component()

    def save(self) -> VgaState:
        """Return a copy of the state."""
        return copy.deepcopy(self._state)

    def restore(self, state: VgaState) -> None:
        """Replace the state."""
        self._state = copy.deepcopy(state)

    def _is_elsewhere(self, offset: int) -> bool:
        """Return whether *offset* is of the one of two places of the CRT controller that is not in use."""
        is_colour = bool(self._state.misc & MISC_COLOUR)
        return offset in (_MONO if is_colour else _COLOUR)

    def _plain(self) -> dict[int, int]:
        """Return what is read at offsets where reading changes nothing."""
        s = self._state
        return {
            Port.STATUS_0: STATUS_0_SENSE,
            Port.ENABLE: s.enable,
            Port.SEQUENCER_INDEX: s.sequencer_index,
            Port.GRAPHICS_INDEX: s.graphics_index,
            Port.MONO_CRTC_INDEX: s.crtc_index,
            Port.COLOUR_CRTC_INDEX: s.crtc_index,
            Port.FEATURE_CONTROL: s.feature,
            Port.MISC_OUTPUT: s.misc,
            Port.DAC_MASK: s.dac_mask,
            Port.DAC_READ_INDEX: DAC_STATE_READING if s.dac_reading else 0,
            Port.DAC_WRITE_INDEX: s.dac_index,
        }

    def _write_attribute(self, value: int) -> None:
        s = self._state
        s.attribute_is_data = not s.attribute_is_data
        if s.attribute_is_data:
            s.attribute_index = value & (ATTRIBUTE_ENABLED | ATTRIBUTE_INDEX)
            return
        index = s.attribute_index & ATTRIBUTE_INDEX
        if index not in AT_PALETTE or not s.attribute_index & ATTRIBUTE_ENABLED:
            _set_register(s.attribute, index, value, ATTRIBUTE_WRITABLE)

    def _write_crtc(self, value: int) -> None:
        s = self._state
        if s.crtc_index <= CR_OVERFLOW and s.crtc[CR_RETRACE_END] & RETRACE_END_PROTECT:
            if s.crtc_index == CR_OVERFLOW:
                kept = s.crtc[CR_OVERFLOW] & ~OVERFLOW_LINE_COMPARE
                s.crtc[CR_OVERFLOW] = kept | value & OVERFLOW_LINE_COMPARE
            return
        _set_register(s.crtc, s.crtc_index, value, CRTC_WRITABLE)

    def _next_component(self) -> None:
        """Go on to the next component of a colour, and behind blue to the next colour."""
        s = self._state
        s.dac_component = (s.dac_component + 1) % 3
        if s.dac_component == 0:
            s.dac_index = (s.dac_index + 1) % DAC_COLOURS

    def _status_1(self) -> int:
        """Return whether the beam shows nothing, and whether it goes back to the top."""
        column, line = self._beam()
        crtc = self._state.crtc
        overflow = crtc[CR_OVERFLOW]
        shown = crtc[CR_VERTICAL_END] | (overflow & 0x02) << 7 | (overflow & 0x40) << 3
        start = crtc[CR_RETRACE_START] | (overflow & 0x04) << 6 | (overflow & 0x80) << 2
        # Only four bits of the line at which it ends are kept.
        length = (crtc[CR_RETRACE_END] - start) % 16 or 16
        status = 0
        if start <= line < start + length:
            status |= STATUS_1_RETRACE | STATUS_1_BLANK
        if line > shown or column > crtc[CR_HORIZONTAL_END]:
            status |= STATUS_1_BLANK
        return status

    def _beam(self) -> tuple[int, int]:
        """Return the character column and the scan line at which the beam is."""
        s = self._state
        overflow = s.crtc[CR_OVERFLOW]
        clocking = s.sequencer[SEQ_CLOCKING]
        dots = (8 if clocking & CLOCKING_8_DOTS else 9) << bool(clocking & CLOCKING_HALVED)
        columns = s.crtc[CR_HORIZONTAL_TOTAL] + 5
        lines = (s.crtc[CR_VERTICAL_TOTAL] | (overflow & 0x01) << 8 | (overflow & 0x20) << 4) + 2
        khz = _KHZ[bool(s.misc & MISC_CLOCK_28)]
        characters = self._clock.now_ns * khz // (_NS_PER_MS * dots)
        return characters % columns, characters // columns % lines


_MONO = (Port.MONO_CRTC_INDEX, Port.MONO_CRTC_DATA, Port.MONO_STATUS_1)
_COLOUR = (Port.COLOUR_CRTC_INDEX, Port.COLOUR_CRTC_DATA, Port.COLOUR_STATUS_1)


def _register(registers: list[int], index: int) -> int:
    """Return the register at *index*; 0 if there is none."""
    return registers[index] if index < len(registers) else 0


def _set_register(registers: list[int], index: int, value: int, writable: bytes) -> None:
    """Write the bits of the register at *index* that can be written, if there is one."""
    if index < len(registers):
        registers[index] = value & writable[index]
