"""The interrupt controllers of a PC: two 8259A and the ELCR of the PIIX.

Everything in the 8259A's datasheet (Intel 231468) that software can see: the initialisation words, fully
nested and special fully nested mode, end of interrupt in all its forms, both rotations, special mask mode,
polling, edge and level triggering, and the default interrupt 7 that answers an acknowledge with no request
behind it.

    offset   port    register
    0        0x20    master: ICW1, OCW2, OCW3; reads IRR or ISR
    1        0x21    master: ICW2-ICW4, OCW1; reads IMR
    2, 3     0xA0    slave, likewise; its INT is wired to the master's IR2
    4        0x4D0   ELCR1: one bit per line, 1 = level-triggered
    5        0x4D1   ELCR2

One thing is kinder than the datasheet: an edge stays latched until it is acknowledged, even if the input
falls before.  The machine's clock may jump over the whole high phase of the timer's output; the tick must not
be lost.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial

from revirt.machine.device import Line
from revirt.machine.state import U3, U8, State

CASCADE = 2
"""The master's input that the slave's INT is wired to."""

ICW1 = 0x10
ICW1_IC4 = 0x01
"""ICW4 will follow."""
ICW1_SNGL = 0x02
"""The only 8259A in the system: no ICW3 follows."""
ICW1_LTIM = 0x08
"""All inputs are level-triggered."""
ICW2_BASE = 0xF8
ICW4_AEOI = 0x02
ICW4_SFNM = 0x10

OCW2_LEVEL = 0x07
OCW2_EOI = 0x20
OCW2_SL = 0x40
"""The level is the one named, not the highest in service."""
OCW2_R = 0x80
OCW3 = 0x08
OCW3_RIS = 0x01
OCW3_RR = 0x02
OCW3_P = 0x04
OCW3_SMM = 0x20
OCW3_ESMM = 0x40

POLL_REQUEST = 0x80
SPURIOUS = 7
"""The level given when the request has gone away before the acknowledge."""
ELCR = 4
"""Offset of the first ELCR register."""
ELCR_WRITABLE = (0xF8, 0xDE)
"""Timer, keyboard, cascade, clock and FPU are always edge-triggered."""


@dataclass
class ChipState(State):
    """One 8259A.  ``irr`` holds latched edges only: a level-triggered request is the line itself."""

    lines: U8 = 0
    irr: U8 = 0
    isr: U8 = 0
    imr: U8 = 0
    elcr: U8 = 0
    base: U8 = 0
    icw1: U8 = 0
    icw3: U8 = 0
    icw4: U8 = 0
    next_icw: U3 = 0  # 0: initialised
    lowest: U3 = 7  # the level of lowest priority
    rotate_on_aeoi: bool = False
    special_mask: bool = False
    reads_isr: bool = False
    polled: bool = False


@dataclass
class PicState(State):
    """Both chips."""

    master: ChipState = field(default_factory=ChipState)
    slave: ChipState = field(default_factory=ChipState)


class _Chip:
    """One 8259A; *followed* is a mask of the inputs whose requests always fall with their line."""

    def __init__(self, state: ChipState, elcr_writable: int, followed: int) -> None:
        self.state = state
        self.elcr_writable = elcr_writable
        self.followed = followed

    @property
    def requests(self) -> int:
        """The IRR as software reads it."""
        s = self.state
        level = 0xFF if s.icw1 & ICW1_LTIM else s.elcr | self.followed
        return s.irr & ~level | s.lines & level

    def set_line(self, level: int, high: bool) -> None:
        s = self.state
        bit = 1 << level
        if high and not s.lines & bit:
            s.irr |= bit
        s.lines = s.lines | bit if high else s.lines & ~bit

    def winner(self) -> int | None:
        """Return the level that INT is raised for: the highest requested, unless one in service bars it."""
        s = self.state
        requests = self.requests & ~s.imr
        if not requests:
            return None
        barring = s.isr & ~s.imr if s.special_mask else s.isr
        # In special fully nested mode a slave in service may be interrupted by another request of its own.
        nesting = self.followed if s.icw4 & ICW4_SFNM else 0
        for level in self._by_priority():
            bit = 1 << level
            if requests & bit and not barring & bit & ~nesting:
                return level
            if barring & bit:
                return None
        return None

    def acknowledge(self) -> int | None:
        """Take the winning request into service and return its level, None if there is none any more."""
        s = self.state
        level = self.winner()
        if level is None:
            return None
        s.irr &= ~(1 << level)
        if not s.icw4 & ICW4_AEOI:
            s.isr |= 1 << level
        elif s.rotate_on_aeoi:
            s.lowest = level
        return level

    def read(self, register: int) -> int:
        s = self.state
        if s.polled:
            s.polled = False
            level = self.acknowledge()
            return 0 if level is None else POLL_REQUEST | level
        if register == 1:
            return s.imr
        return s.isr if s.reads_isr else self.requests

    def write(self, register: int, value: int) -> None:
        s = self.state
        if register == 0:
            if value & ICW1:
                self._initialise(value)
            elif value & OCW3:
                self._write_ocw3(value)
            else:
                self._write_ocw2(value)
        elif s.next_icw == 2:
            s.base = value & ICW2_BASE
            self._expect(3)
        elif s.next_icw == 3:
            s.icw3 = value
            self._expect(4)
        elif s.next_icw == 4:
            s.icw4 = value
            s.next_icw = 0
        else:
            s.imr = value

    def _expect(self, icw: int) -> None:
        s = self.state
        if icw == 3 and s.icw1 & ICW1_SNGL:
            icw = 4
        if icw == 4 and not s.icw1 & ICW1_IC4:
            icw = 0
        s.next_icw = icw

    def _initialise(self, icw1: int) -> None:
        s = self.state
        self.state = ChipState(lines=s.lines, elcr=s.elcr, base=s.base, icw1=icw1, next_icw=2)

    def _write_ocw2(self, value: int) -> None:
        s = self.state
        eoi, rotate = value & OCW2_EOI, bool(value & OCW2_R)
        if not value & OCW2_SL and not eoi:
            s.rotate_on_aeoi = rotate
            return
        level = value & OCW2_LEVEL if value & OCW2_SL else self._served()
        if level is None:
            return
        if eoi:
            s.isr &= ~(1 << level)
        if rotate:
            s.lowest = level

    def _served(self) -> int | None:
        """Return the level that a non-specific EOI ends: special mask mode hides masked levels from it."""
        s = self.state
        served = s.isr & ~s.imr if s.special_mask else s.isr
        return next((level for level in self._by_priority() if served & 1 << level), None)

    def _write_ocw3(self, value: int) -> None:
        s = self.state
        if value & OCW3_ESMM:
            s.special_mask = bool(value & OCW3_SMM)
        if value & OCW3_P:
            s.polled = True
        if value & OCW3_RR:
            s.reads_isr = bool(value & OCW3_RIS)

    def _by_priority(self) -> tuple[int, ...]:
        return _PRIORITIES[self.state.lowest]


_PRIORITIES = tuple(tuple((lowest + 1 + rank) % 8 for rank in range(8)) for lowest in range(8))
"""Levels from highest to lowest priority, by the level that is lowest."""


class Pic:
    """The pair of 8259A; *intr* is the CPU's INTR input."""

    name = "pic"

    def __init__(self, intr: Line) -> None:
        self._intr = intr
        self._master = _Chip(ChipState(), ELCR_WRITABLE[0], followed=1 << CASCADE)
        self._slave = _Chip(ChipState(), ELCR_WRITABLE[1], followed=0)
        self._chips = (self._master, self._slave)

    @property
    def output(self) -> bool:
        """Level of INTR: whether an interrupt waits to be acknowledged."""
        return self._master.winner() is not None

    def line(self, irq: int) -> Line:
        """Return the wire of interrupt request *irq* (0 to 15).

        Raises ValueError for 2, which is taken by the cascade, and for what is no line.
        """
        if irq == CASCADE or not 0 <= irq < 16:
            raise ValueError(f"a PC has no line IRQ {irq} for devices")
        return partial(self._set_line, self._chips[irq // 8], irq % 8)

    def acknowledge(self) -> int:
        """Run the CPU's interrupt acknowledge cycle and return the vector.

        If no request is left, the vector is that of the master's (or the slave's) level 7, and nothing is in
        service.
        """
        chip = self._master
        level = chip.acknowledge()
        if level == CASCADE and chip.state.icw3 & 1 << CASCADE:
            chip = self._slave
            level = chip.acknowledge()
        self._update()
        return chip.state.base | (SPURIOUS if level is None else level)

    def read(self, offset: int, _size: int) -> int:
        """Return register *offset*; one that was polled answers with the poll word, once."""
        if offset >= 4:
            return self._chips[offset - 4 & 1].state.elcr
        value = self._chips[offset >> 1].read(offset & 1)
        self._update()
        return value

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write register *offset*."""
        if offset >= 4:
            chip = self._chips[offset - 4 & 1]
            chip.state.elcr = value & chip.elcr_writable
        else:
            self._chips[offset >> 1].write(offset & 1, value)
        self._update()

    def drive(self) -> None:
        """Drive INTR with its present level."""
        self._intr(self.output)

    def save(self) -> PicState:
        """Return a copy of both chips' state."""
        return copy.deepcopy(PicState(self._master.state, self._slave.state))

    def restore(self, state: PicState) -> None:
        """Replace both chips' state; `drive` then drives INTR."""
        self._master.state = copy.deepcopy(state.master)
        self._slave.state = copy.deepcopy(state.slave)

    def _set_line(self, chip: _Chip, level: int, high: bool) -> None:
        if high != bool(chip.state.lines & 1 << level):
            chip.set_line(level, high)
            self._update()

    def _update(self) -> None:
        self._master.set_line(CASCADE, self._slave.winner() is not None)
        self._intr(self.output)
