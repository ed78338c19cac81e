"""The ports by which a guest ends its run.

    offset   port            register
    0        0xCF9           reset control register (Intel 82371SB, "RC")
    1        0x92            system control port A (PS/2): fast reset and A20
    2, 3     0x604, 0xB004   PM1a_CNT (ACPI 4.8.3.2.1) as QEMU's and Bochs's firmware tables place it: soft off
    4        0xF4            debug exit: the byte written is the guest's exit code

Neither A20 gate moves anything: the machine's addresses never wrap, as on every PC since the gate went.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from revirt.machine.state import U8, State

RESET_CONTROL = 0
PORT_A = 1
PM1_LOW = 2
PM1_HIGH = 3
DEBUG_EXIT = 4

RC_SYSTEM_RESET = 0x02
"""Makes the reset a hard one; here all are."""
RC_RESET_CPU = 0x04
RC_FULL_RESET = 0x08
RC_WRITABLE = RC_SYSTEM_RESET | RC_RESET_CPU | RC_FULL_RESET

PORT_A_RESET = 0x01
PORT_A_A20 = 0x02

PM1_SLEEP_ENABLE = 0x20
"""SLP_EN, bit 13: in the high byte."""
PM1_SLEEP_TYPE = 0x1C
"""SLP_TYP, bits 10 to 12; 0 is S5 in those tables."""

# Why a run ended, as `Power` tells it.
RESET = "the guest reset the machine"
POWER_OFF = "the guest switched the machine off"
EXIT = "the guest ended its run"


@dataclass
class PowerState(State):
    """The registers that remember what was written."""

    reset_control: U8 = 0
    port_a: U8 = PORT_A_A20
    pm1_low: U8 = 0
    pm1_high: U8 = 0


class Power:
    """The ways out of a run.

    *end* is called with ``RESET``, ``POWER_OFF`` or ``EXIT`` and the exit code that the guest gave, None if
    it gave none.
    """

    name = "power"

    def __init__(self, end: Callable[[str, int | None], None]) -> None:
        self._end = end
        self._state = PowerState()

    def read(self, offset: int, _size: int) -> int:
        """Return register *offset*."""
        s = self._state
        registers = (s.reset_control, s.port_a, s.pm1_low, s.pm1_high)
        return registers[offset] if offset < len(registers) else 0xFF

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write register *offset*; a reset happens when its bit goes from 0 to 1."""
        s = self._state
        if offset == RESET_CONTROL:
            rises = value & ~s.reset_control & RC_RESET_CPU
            s.reset_control = value & RC_WRITABLE
            if rises:
                self._end(RESET, None)
        elif offset == PORT_A:
            rises = value & ~s.port_a & PORT_A_RESET
            s.port_a = value
            if rises:
                self._end(RESET, None)
        elif offset == PM1_LOW:
            s.pm1_low = value
        elif offset == PM1_HIGH:
            # SLP_EN is write-only (ACPI, table "PM1 Control Registers").
            s.pm1_high = value & ~PM1_SLEEP_ENABLE
            if value & PM1_SLEEP_ENABLE and not value & PM1_SLEEP_TYPE:
                self._end(POWER_OFF, None)
        elif offset == DEBUG_EXIT:
            self._end(EXIT, value)

    def save(self) -> PowerState:
        """Return a copy of the state."""
        return copy.copy(self._state)

    def restore(self, state: PowerState) -> None:
        """Replace the state."""
        self._state = copy.copy(state)
