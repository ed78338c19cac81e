"""The PIIX3 (Intel 82371SB, data sheet 290550): the PCI-to-ISA bridge, and how PCI interrupts reach the 8259A.

    register    what
    0x4C        ISA recovery timing
    0x4E-0x4F   X-bus chip selects
    0x60-0x63   PIRQRC: the interrupt request that each of PIRQA# to PIRQD# is routed to, or none
    0x69-0x6B   top of memory, miscellaneous status
    0x70-0x79   motherboard interrupts, DMA, chip selects
    0x82        deterministic latency

Only PIRQRC does anything here; the others keep what firmware writes.

Which PIRQ a slot's interrupt pin is wired to is a matter of the board; this one has the swizzle of boards with an
82441FX, which firmware and kernels know: PIRQ = (pin - 1 + slot - 1) modulo 4.  An interrupt request is the wired OR
of what is routed to it and of what the ISA bus drives it with: so a line that both share must pass through here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from revirt.machine.device import Line
from revirt.machine.pci import (
    CLASS_CODE,
    COMMAND,
    CONFIG_SIZE,
    DEVICE_ID,
    STATUS,
    STATUS_MEDIUM_DEVSEL,
    VENDOR_ID,
    VENDOR_INTEL,
    ConfigSpace,
)
from revirt.machine.state import U16, U32, Range, State

SLOT = 1
"""Where it sits on such boards."""

DEVICE_PIIX3_ISA = 0x7000
CLASS_ISA_BRIDGE = 0x0601
COMMAND_FIXED = 0x0007
"""It always answers in ports and memory, and is a master for ISA DMA (data sheet, 2.2.3)."""
COMMAND_SPECIAL_CYCLES = 0x0008

PIRQRC = range(0x60, 0x64)
PIRQRC_DISABLED = 0x80
PIRQRC_IRQ = 0x0F
PIRQRC_WRITABLE = PIRQRC_DISABLED | PIRQRC_IRQ
ROUTABLE = frozenset({3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})
"""Values of PIRQRC's routing field that are not reserved (data sheet, 2.2.8)."""

ROUTING = (10, 10, 11, 11)
"""Where firmware routes PIRQA# to PIRQD#."""

REMEMBERED = (0x4C, 0x4E, 0x4F, 0x69, 0x6A, 0x6B, 0x70, 0x71, 0x76, 0x77, 0x78, 0x79, 0x82)
"""Registers that only keep what is written."""


@dataclass
class Piix3State(State):
    """Configuration space; which slots (bits) assert each PIRQ; which requests (bits) the ISA bus asserts."""

    config: Annotated[bytes, Range(CONFIG_SIZE, CONFIG_SIZE)]
    asserted: Annotated[list[U32], Range(4, 4)] = field(default_factory=lambda: [0, 0, 0, 0])
    isa: U16 = 0


class Piix3(ConfigSpace):
    """The bridge; *irqs* are the interrupt controller's lines by number, for all requests that can be routed to."""

    name = "piix3"

    def __init__(self, irqs: Mapping[int, Line]) -> None:
        super().__init__(*_configuration())
        self._irqs = dict(irqs)
        self._asserted = [0, 0, 0, 0]
        self._isa = 0
        self._routing = self._routed()

    def intx(self, slot: int, pin: int = 1) -> Line:
        """Return the wire of interrupt pin *pin* (1 to 4, INTA# to INTD#) of the device in *slot*."""
        return partial(self._set_pirq, _pirq(slot, pin), slot)

    def isa(self, irq: int) -> Line:
        """Return the wire of interrupt request *irq* on the ISA bus; raises KeyError if it is none of *irqs*."""
        self._irqs[irq]
        return partial(self._set_isa, irq)

    def irq_of(self, slot: int, pin: int = 1) -> int:
        """Return the interrupt request that a pin is routed to, 255 (PCI 3.0, 6.2.4: unknown) if it is to none."""
        irq = self._routing[_pirq(slot, pin)]
        return 0xFF if irq is None else irq

    @property
    def level_triggered(self) -> tuple[int, int]:
        """What the interrupt controllers' ELCR registers say where PCI interrupts are routed so."""
        bits = sum(1 << irq for irq in set(self._routing) if irq is not None)
        return bits & 0xFF, bits >> 8

    def write_config(self, register: int, size: int, value: int) -> None:
        """Write *size* bytes of *value* to *register*, as far as they may change."""
        super().write_config(register, size, value)
        self._routing = self._routed()
        self.drive()

    def drive(self) -> None:
        """Drive every line that can be routed to with the level it has."""
        for irq in self._irqs:
            self._drive(irq)

    def save(self) -> Piix3State:
        """Return a copy of the state."""
        return Piix3State(bytes(self.bytes), list(self._asserted), self._isa)

    def restore(self, state: Piix3State) -> None:
        """Replace the state; `drive` then drives the lines."""
        changes = zip(self.initial, self.writable, state.config, strict=True)
        self.bytes[:] = bytes(byte & ~mask | saved & mask for byte, mask, saved in changes)
        self._asserted = copy.copy(state.asserted)
        self._isa = state.isa
        self._routing = self._routed()

    def _routed(self) -> tuple[int | None, ...]:
        registers = self.bytes[PIRQRC.start : PIRQRC.stop]
        return tuple(
            irq if not value & PIRQRC_DISABLED and (irq := value & PIRQRC_IRQ) in ROUTABLE else None
            for value in registers
        )

    def _set_pirq(self, pirq: int, slot: int, level: bool) -> None:
        before = self._asserted[pirq]
        self._asserted[pirq] = before | 1 << slot if level else before & ~(1 << slot)
        irq = self._routing[pirq]
        if irq is not None and self._asserted[pirq] != before:
            self._drive(irq)

    def _set_isa(self, irq: int, level: bool) -> None:
        self._isa = self._isa | 1 << irq if level else self._isa & ~(1 << irq)
        self._drive(irq)

    def _drive(self, irq: int) -> None:
        if irq in self._irqs:
            routed = any(
                asserted
                for asserted, routed_to in zip(self._asserted, self._routing, strict=True)
                if routed_to == irq
            )
            self._irqs[irq](routed or bool(self._isa >> irq & 1))


def _pirq(slot: int, pin: int) -> int:
    return (pin - 1 + slot - 1) & 3


def _configuration() -> tuple[bytes, bytes]:
    """Return the configuration space as firmware leaves it, and which of its bits may be written."""
    initial, writable = bytearray(CONFIG_SIZE), bytearray(CONFIG_SIZE)
    words = {
        VENDOR_ID: VENDOR_INTEL,
        DEVICE_ID: DEVICE_PIIX3_ISA,
        COMMAND: COMMAND_FIXED,
        STATUS: STATUS_MEDIUM_DEVSEL,
        CLASS_CODE: CLASS_ISA_BRIDGE,
        0x4C: 0x004D,
        0x4E: 0x0003,
        0x6A: 0x0000,
        0x76: 0x0C0C,
    }
    for register, value in words.items():
        initial[register : register + 2] = value.to_bytes(2, "little")
    initial[0x69] = 0x02
    initial[0x70] = initial[0x71] = 0x80
    writable[COMMAND] = COMMAND_SPECIAL_CYCLES
    for register in REMEMBERED:
        writable[register] = 0xFF
    for register, irq in zip(PIRQRC, ROUTING, strict=True):
        initial[register], writable[register] = irq, PIRQRC_WRITABLE
    return bytes(initial), bytes(writable)
