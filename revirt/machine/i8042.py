"""The keyboard controller of a PC, an 8042 as in the PS/2, with a keyboard that answers and no mouse.

    offset   port   register
    0        0x60   output buffer, read; input buffer with A2 = 0, written
    1        0x64   status register, read; input buffer with A2 = 1 (commands), written

The controller's commands are those of the IBM PS/2 technical reference, "Keyboard and auxiliary device
controller"; the keyboard's those of its chapter on keyboards.  A byte sent to the missing mouse times out at
once.

Rules:
- Everything is answered at once: the input buffer is never full.
- Scan codes wait until the output buffer is free and the keyboard is enabled; answers go before them.
- The state after reset is that which firmware leaves behind: self-test passed, keyboard enabled, scan codes
  translated to set 1, IRQ1 on, auxiliary port off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from revirt.machine.device import Line
from revirt.machine.state import U8, U16, Range, State

DATA = 0
COMMAND = 1

STATUS_OBF = 0x01
STATUS_SYSTEM = 0x04
STATUS_A2 = 0x08
STATUS_UNLOCKED = 0x10
STATUS_AUX_OBF = 0x20
STATUS_TIMEOUT = 0x40

MODE_KEYBOARD_IRQ = 0x01
MODE_AUX_IRQ = 0x02
MODE_SYSTEM = 0x04
MODE_KEYBOARD_OFF = 0x10
MODE_AUX_OFF = 0x20
MODE_TRANSLATE = 0x40

READ_RAM = range(0x20, 0x40)
"""Byte 0 of the controller's RAM is the mode ("controller command byte")."""
WRITE_RAM = range(0x60, 0x80)
AUX_DISABLE = 0xA7
AUX_ENABLE = 0xA8
AUX_TEST = 0xA9
SELF_TEST = 0xAA
KEYBOARD_TEST = 0xAB
KEYBOARD_DISABLE = 0xAD
KEYBOARD_ENABLE = 0xAE
READ_INPUT_PORT = 0xC0
READ_OUTPUT_PORT = 0xD0
WRITE_OUTPUT_PORT = 0xD1
WRITE_KEYBOARD_BUFFER = 0xD2
WRITE_AUX_BUFFER = 0xD3
WRITE_AUX = 0xD4
READ_TEST_INPUTS = 0xE0
PULSE_OUTPUT = range(0xF0, 0x100)

SELF_TEST_PASSED = 0x55
PORT_TEST_PASSED = 0x00
INPUT_PORT = 0x80
"""The keyboard is not locked."""
OUTPUT_PORT_RUN = 0x01
"""Low resets the CPU."""
OUTPUT_PORT_A20 = 0x02
NO_ANSWER = 0xFE

KEY_LEDS = 0xED
KEY_ECHO = 0xEE
KEY_SCAN_SET = 0xF0
KEY_IDENTIFY = 0xF2
KEY_RATE = 0xF3
KEY_ENABLE = 0xF4
KEY_DISABLE = 0xF5
KEY_DEFAULTS = 0xF6
KEY_ALL_KEYS = range(0xF7, 0xFB)
KEY_RESEND = 0xFE
KEY_RESET = 0xFF
KEY_ACK = 0xFA
KEY_BAT_PASSED = 0xAA
KEY_ID = b"\xab\x83"
KEY_BREAK = 0xF0
"""In set 2, says that the key of the next code was let go; in set 1 that is bit 7."""

REPLIES = 16
PRESSES = 4096

_SET_1 = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59 "
    "65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b "
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d "
    "69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f "
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61 "
    "6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76 "
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f "
    "52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54 "
    "80 81 82 41 54"
)
"""Set 1 codes by set 2 code; from 0x85 on the two are the same."""


@dataclass
class I8042State(State):
    """Controller and keyboard.  A reply is a byte, with the status bits that go with it in the high byte."""

    mode: U8 = MODE_KEYBOARD_IRQ | MODE_SYSTEM | MODE_AUX_OFF | MODE_TRANSLATE
    output_port: U8 = OUTPUT_PORT_RUN | OUTPUT_PORT_A20
    last_was_command: bool = False
    command: U8 = 0  # the controller command whose data byte is awaited
    full: bool = False
    output: U16 = 0
    replies: Annotated[list[U16], Range(0, REPLIES)] = field(default_factory=list)

    scanning: bool = True
    scan_set: Annotated[int, Range(1, 3)] = 2
    key_command: U8 = 0  # the keyboard command whose data byte is awaited
    last_sent: U8 = 0
    presses: Annotated[bytes, Range(0, PRESSES)] = b""
    breaking: bool = False  # a break prefix was taken away in translation


class I8042:
    """The controller; its lines are IRQ1 and IRQ12, *reset* is called when it resets the CPU."""

    name = "i8042"

    def __init__(self, keyboard_irq: Line, aux_irq: Line, reset: Callable[[], None]) -> None:
        self._keyboard_irq = keyboard_irq
        self._aux_irq = aux_irq
        self._reset_cpu = reset
        self._state = I8042State()

    @property
    def room(self) -> int:
        """How many scan codes `press` takes now."""
        return PRESSES - len(self._state.presses) if self._state.scanning else 0

    def press(self, scancodes: bytes) -> int:
        """Let the keyboard send *scancodes* (of set 2); return how many were taken.

        None are taken while the guest has stopped the keyboard from scanning, and at most ``PRESSES`` wait.
        """
        s = self._state
        taken = min(len(scancodes), self.room)
        if not taken:
            return 0
        s.presses += scancodes[:taken]
        self._fill()
        return taken

    def read(self, offset: int, _size: int) -> int:
        """Return the output buffer, which makes room for the next byte, or the status register."""
        s = self._state
        if offset != DATA:
            return self._status()
        data = s.output & 0xFF
        s.full = False
        # The line falls between two bytes, or an edge-triggered controller would miss the second.
        self.drive()
        self._fill()
        return data

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a command, or data for the controller's last command or else for the keyboard."""
        s = self._state
        s.last_was_command = offset != DATA
        if offset != DATA:
            s.command = 0
            self._control(value)
        elif s.command:
            command, s.command = s.command, 0
            self._take_data(command, value)
        else:
            # Sending to the keyboard turns its clock on.
            s.mode &= ~MODE_KEYBOARD_OFF
            self._tell_keyboard(value)
        self._fill()

    def drive(self) -> None:
        """Drive IRQ1 and IRQ12 with the levels they have."""
        s = self._state
        from_aux = bool(s.output >> 8 & STATUS_AUX_OBF)
        self._keyboard_irq(s.full and not from_aux and bool(s.mode & MODE_KEYBOARD_IRQ))
        self._aux_irq(s.full and from_aux and bool(s.mode & MODE_AUX_IRQ))

    def save(self) -> I8042State:
        """Return a copy of the state."""
        return copy.deepcopy(self._state)

    def restore(self, state: I8042State) -> None:
        """Replace the state; `drive` then drives the lines."""
        self._state = copy.deepcopy(state)

    # -- the output buffer --------------------------------------------------------------------------------

    def _status(self) -> int:
        s = self._state
        status = STATUS_UNLOCKED | (STATUS_A2 if s.last_was_command else 0)
        if s.mode & MODE_SYSTEM:
            status |= STATUS_SYSTEM
        if s.full:
            status |= STATUS_OBF | s.output >> 8 & (STATUS_AUX_OBF | STATUS_TIMEOUT)
        return status

    def _reply(self, data: int, status: int = 0) -> None:
        """Queue a byte for the output buffer; a guest that never reads loses what no buffer would hold."""
        if len(self._state.replies) < REPLIES:
            self._state.replies.append(status << 8 | data)

    def _fill(self) -> None:
        """Put what waits into the output buffer, if that is free, and drive the lines."""
        s = self._state
        if not s.full and s.replies:
            s.output, s.full = s.replies.pop(0), True
        while not s.full and s.presses and not s.mode & MODE_KEYBOARD_OFF:
            code, s.presses = s.presses[0], s.presses[1:]
            if not s.mode & MODE_TRANSLATE:
                s.output, s.full = code, True
            elif code == KEY_BREAK:
                s.breaking = True
            else:
                s.output, s.full = _translate(code) | (0x80 if s.breaking else 0), True
                s.breaking = False
        self.drive()

    # -- the controller -----------------------------------------------------------------------------------

    def _control(self, command: int) -> None:
        """Execute a command written to port 0x64; what it does not know it ignores."""
        s = self._state
        if command in READ_RAM:
            self._reply(s.mode if command == READ_RAM.start else 0)
        elif command in WRITE_RAM or command in _TAKE_DATA:
            s.command = command
        elif command in _SET_MODE:
            s.mode |= _SET_MODE[command]
        elif command in _CLEAR_MODE:
            s.mode &= ~_CLEAR_MODE[command]
        elif command == SELF_TEST:
            s.mode |= MODE_SYSTEM
            self._reply(SELF_TEST_PASSED)
        elif command in (KEYBOARD_TEST, AUX_TEST):
            self._reply(PORT_TEST_PASSED)
        elif command == READ_INPUT_PORT:
            self._reply(INPUT_PORT)
        elif command == READ_OUTPUT_PORT:
            self._reply(s.output_port)
        elif command == READ_TEST_INPUTS:
            self._reply(0)
        elif command in PULSE_OUTPUT and not command & OUTPUT_PORT_RUN:
            self._reset_cpu()

    def _take_data(self, command: int, value: int) -> None:
        """Execute *command* with the data byte that it waited for."""
        s = self._state
        if command == WRITE_RAM.start:
            s.mode = value
        elif command == WRITE_OUTPUT_PORT:
            s.output_port = value
            if not value & OUTPUT_PORT_RUN:
                self._reset_cpu()
        elif command == WRITE_KEYBOARD_BUFFER:
            self._reply(value)
        elif command == WRITE_AUX_BUFFER:
            self._reply(value, STATUS_AUX_OBF)
        elif command == WRITE_AUX:
            s.mode &= ~MODE_AUX_OFF
            self._reply(NO_ANSWER, STATUS_AUX_OBF | STATUS_TIMEOUT)

    # -- the keyboard -------------------------------------------------------------------------------------

    def _answer(self, *codes: int) -> None:
        """Send *codes* from the keyboard."""
        s = self._state
        for code in codes:
            self._reply(_translate(code) if s.mode & MODE_TRANSLATE else code)
            s.last_sent = code

    def _tell_keyboard(self, value: int) -> None:
        """Give the keyboard a command, or the data for the last one."""
        s = self._state
        command, s.key_command = s.key_command, 0
        if command == KEY_SCAN_SET and value <= 3:
            self._answer(KEY_ACK)
            if value:
                s.scan_set = value
            else:
                self._answer(s.scan_set)
        elif command in (KEY_LEDS, KEY_RATE) and value < KEY_LEDS:
            self._answer(KEY_ACK)
        else:
            # A command in place of the data ends the last one.
            self._command_keyboard(value)

    def _command_keyboard(self, command: int) -> None:
        s = self._state
        if command == KEY_RESEND:
            self._answer(s.last_sent)
        elif command == KEY_ECHO:
            self._answer(KEY_ECHO)
        elif command in (KEY_LEDS, KEY_RATE, KEY_SCAN_SET):
            s.key_command = command
            self._answer(KEY_ACK)
        elif command == KEY_IDENTIFY:
            self._answer(KEY_ACK, *KEY_ID)
        elif command in KEY_ALL_KEYS:
            self._answer(KEY_ACK)
        elif command in (KEY_ENABLE, KEY_DISABLE, KEY_DEFAULTS, KEY_RESET):
            s.presses, s.breaking = b"", False
            s.scanning = command != KEY_DISABLE
            if command in (KEY_DEFAULTS, KEY_RESET):
                s.scan_set = 2
            self._answer(KEY_ACK, *((KEY_BAT_PASSED,) if command == KEY_RESET else ()))
        else:
            self._answer(KEY_RESEND)


_TAKE_DATA = (WRITE_OUTPUT_PORT, WRITE_KEYBOARD_BUFFER, WRITE_AUX_BUFFER, WRITE_AUX)
_SET_MODE = {KEYBOARD_DISABLE: MODE_KEYBOARD_OFF, AUX_DISABLE: MODE_AUX_OFF}
_CLEAR_MODE = {KEYBOARD_ENABLE: MODE_KEYBOARD_OFF, AUX_ENABLE: MODE_AUX_OFF}


def _translate(code: int) -> int:
    """Return the set 1 code of a key or an answer in set 2."""
    return _SET_1[code] if code < len(_SET_1) else code
