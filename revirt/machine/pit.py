"""The interval timer of a PC: an 8254 at 1193182 Hz, and port 0x61 beside it.

Everything in the 8254's datasheet (Intel 231164) that software can see, to the clock pulse: three counters,
modes 0 to 5, binary and BCD, latches and read-back, gates, and when a new count takes over from the old one.

    offset   port   register
    0-2      0x40   counters: 0 drives IRQ0, 1 refreshes memory, 2 drives the speaker
    3        0x43   control word; write-only
    4        0x61   system control port B: the gate of counter 2, its output, the refresh toggle

A counter is never ticked.  It remembers the pulse at which its count was loaded; what it shows follows from
that and the time.

Rules:
- A pulse number is ``now_ns * 1193182 // 10**9``, in integers: exact however long the guest runs.
- IRQ0 is told of rising edges, and of falling ones only when the guest's own write causes them.  The line is
  lowered again just before it rises, so a periodic timer wakes the machine once per period.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from revirt.machine.device import Clock, Line
from revirt.machine.state import U2, U4, U8, U16, U64, Range, State

FREQUENCY = 1_193_182
"""Pulses a second on the CLK inputs."""
REFRESH_PULSES = 18
"""Period of counter 1 as every BIOS sets it: the refresh toggle changes each time."""

CONTROL_WORD = 3
PORT_B = 4

# Control word: SC1 SC0 RW1 RW0 M2 M1 M0 BCD.
SELECT_SHIFT = 6
READ_BACK = 3
ACCESS_SHIFT = 4
MODE_SHIFT = 1
BCD = 0x01

LATCH_COMMAND = 0
LSB_ONLY = 1
MSB_ONLY = 2

READ_BACK_NO_COUNT = 0x20
READ_BACK_NO_STATUS = 0x10
STATUS_OUT = 0x80
STATUS_NULL = 0x40

PORT_B_GATE2 = 0x01
PORT_B_WRITABLE = 0x0F
PORT_B_REFRESH = 0x10
PORT_B_OUT2 = 0x20


@dataclass
class CounterState(State):
    """One counter.  Pulses are counted from the machine's start.

    ``written`` is the count register (CR) as written, ``count`` the number of pulses it stood for when the
    counting element (CE) was last loaded with it, at pulse ``start``.
    """

    mode: Annotated[int, Range(0, 5)] = 0
    access: U2 = LSB_ONLY | MSB_ONLY
    bcd: bool = False
    gate: bool = True

    written: U16 = 0
    low_byte: U8 = 0
    writes_high: bool = False  # the next write is the high byte of a pair
    reads_high: bool = False

    count: Annotated[int, Range(1, 0x10000)] = 0x10000
    start: Annotated[int, Range(-(1 << 62), 1 << 62)] = 0
    elapsed: Annotated[int, Range(0, 1 << 62)] = 0  # pulses counted, while not running
    armed: bool = False  # CR was written since the control word
    loaded: bool = False  # CE was loaded since the control word
    running: bool = False
    null: bool = True  # CE does not yet hold what CR should give it
    takeover: Annotated[int, Range(0, 1 << 62)] = 0  # pulse at which CE reloads from CR by itself, 0 if not

    latched: bool = False
    latch: U16 = 0
    status_latched: bool = False
    status: U8 = 0


class _Counter:
    """One counter of an 8254, given the present pulse by its caller."""

    def __init__(self, state: CounterState) -> None:
        self.state = state

    # -- what the pins and the counting element show ------------------------------------------------------

    def out(self, pulse: int) -> bool:
        """Return the level of OUT."""
        self._settle(pulse)
        s = self.state
        elapsed = self._elapsed(pulse)
        if s.mode == 0:
            return s.loaded and elapsed >= s.count
        if not s.loaded:
            return True
        if s.mode == 1:
            return elapsed >= s.count
        if s.mode in (4, 5):
            return elapsed != s.count
        if not s.running or s.count == 1:
            return True
        if s.mode == 2:
            return elapsed % s.count != s.count - 1
        return elapsed % s.count < self._high_half(s.count)

    def value(self, pulse: int) -> int:
        """Return what the output latch follows: the 16 bits of the counting element."""
        self._settle(pulse)
        s = self.state
        elapsed = self._elapsed(pulse)
        if s.mode == 2:
            left = s.count - elapsed % s.count
        elif s.mode == 3:
            phase, high = elapsed % s.count, self._high_half(s.count)
            # Counts down by two in both halves; an odd count is made even first (datasheet, mode 3).
            left = (s.count & ~1) - 2 * (phase if phase < high else phase - high)
        else:
            left = s.count - elapsed
        return self._to_register(left)

    def next_rise(self, pulse: int) -> int:
        """Return the first pulse after *pulse* at which OUT rises by itself, 0 if it does not."""
        self._settle(pulse)
        s = self.state
        if not (s.loaded and s.running):
            return 0
        if s.mode in (2, 3):
            if s.takeover:
                return self._rise_of_takeover()
            if s.count == 1:
                return 0
            periods = max(pulse - s.start, 0) // s.count + 1
            return s.start + periods * s.count
        rise = s.start + s.count + (s.mode in (4, 5))
        return rise if rise > pulse else 0

    # -- what software and the gate do --------------------------------------------------------------------

    def control(self, word: int, pulse: int) -> None:
        """Take a control word that selects this counter."""
        access = word >> ACCESS_SHIFT & 3
        if access == LATCH_COMMAND:
            self.latch_count(pulse)
            return
        s = self.state
        mode = word >> MODE_SHIFT & 7
        self.state = CounterState(
            mode=mode if mode < 6 else mode - 4,
            access=access,
            bcd=bool(word & BCD),
            gate=s.gate,
            written=s.written,
            count=s.count,
            elapsed=self._elapsed(pulse),
        )

    def latch_count(self, pulse: int) -> None:
        """Hold the present count until it has been read; a count held already stays."""
        s = self.state
        if not s.latched:
            s.latch = self.value(pulse)
            s.latched = True

    def latch_status(self, pulse: int) -> None:
        """Hold the status byte (datasheet, figure "Status Byte") until it has been read."""
        s = self.state
        if not s.status_latched:
            out = STATUS_OUT if self.out(pulse) else 0
            # CE is loaded one pulse after the write.
            null = STATUS_NULL if s.null or (s.running and pulse < s.start) else 0
            s.status = out | null | s.access << ACCESS_SHIFT | s.mode << MODE_SHIFT | (BCD if s.bcd else 0)
            s.status_latched = True

    def read(self, pulse: int) -> int:
        """Return the next byte: the latched status, else the latched count, else the count as it is."""
        s = self.state
        if s.status_latched:
            s.status_latched = False
            return s.status
        value = s.latch if s.latched else self.value(pulse)
        high = s.reads_high if s.access == LSB_ONLY | MSB_ONLY else s.access == MSB_ONLY
        if s.access == LSB_ONLY | MSB_ONLY:
            s.reads_high = not high
        if high or s.access == LSB_ONLY:
            s.latched = False
        return value >> 8 if high else value & 0xFF

    def write(self, byte: int, pulse: int) -> None:
        """Take a byte of the initial count."""
        self._settle(pulse)
        s = self.state
        if s.access == LSB_ONLY:
            self._write_count(byte, pulse)
        elif s.access == MSB_ONLY:
            self._write_count(byte << 8, pulse)
        elif s.writes_high:
            s.writes_high = False
            self._write_count(byte << 8 | s.low_byte, pulse)
        else:
            s.low_byte, s.writes_high = byte, True
            if s.mode == 0:
                self._pause(pulse)
                s.loaded = False

    def set_gate(self, gate: bool, pulse: int) -> None:
        """Drive the GATE input (datasheet, figure "Gate Pin Operations Summary")."""
        self._settle(pulse)
        s = self.state
        if gate == s.gate:
            return
        s.gate = gate
        if s.mode in (1, 5):
            if gate and s.armed:
                self._load(pulse + 1)
        elif not gate:
            self._pause(pulse)
        elif s.loaded:
            if s.mode in (2, 3):
                self._load(pulse + 1)
            else:
                s.start, s.running = pulse - s.elapsed, True

    # -- counting -----------------------------------------------------------------------------------------

    def _write_count(self, written: int, pulse: int) -> None:
        s = self.state
        s.written, s.armed, s.null = written, True, True
        if s.mode in (0, 4):
            self._load(pulse + 1)
        elif s.mode in (2, 3):
            if not s.loaded or (s.running and (pulse < s.start or s.count == 1)):
                self._load(pulse + 1)
            elif s.running:
                s.takeover = self._boundary(pulse)

    def _load(self, start: int) -> None:
        """Load CE from CR at pulse *start*."""
        s = self.state
        s.count = self._from_register(s.written)
        s.start, s.elapsed = start, 0
        s.loaded, s.null, s.takeover = True, False, 0
        s.running = s.gate or s.mode in (1, 5)

    def _pause(self, pulse: int) -> None:
        s = self.state
        s.elapsed = self._elapsed(pulse)
        s.running, s.takeover = False, 0

    def _elapsed(self, pulse: int) -> int:
        s = self.state
        return max(pulse - s.start, 0) if s.running else s.elapsed

    def _settle(self, pulse: int) -> None:
        """Let a new count take over if its time has come."""
        s = self.state
        if not s.takeover or pulse < s.takeover:
            return
        takeover, rises = s.takeover, self._takes_over_rising()
        self._load(takeover)
        if not rises:
            s.start = takeover - self._high_half(s.count)

    def _boundary(self, pulse: int) -> int:
        """Return the pulse at which the current period (in mode 3, half period) ends."""
        s = self.state
        phase = (pulse - s.start) % s.count
        if s.mode == 3 and phase < self._high_half(s.count):
            return pulse - phase + self._high_half(s.count)
        return pulse - phase + s.count

    def _takes_over_rising(self) -> bool:
        """Return whether the takeover is at the end of a period, not in the middle of a square wave."""
        s = self.state
        return (s.takeover - s.start) % s.count == 0

    def _rise_of_takeover(self) -> int:
        s = self.state
        count = self._from_register(s.written)
        if self._takes_over_rising():
            return s.takeover
        return 0 if count == 1 else s.takeover + count - self._high_half(count)

    @staticmethod
    def _high_half(count: int) -> int:
        """Return how many pulses of a square wave of *count* are high (datasheet, mode 3)."""
        return (count + 1) // 2

    def _from_register(self, value: int) -> int:
        """Return the pulses that an initial count stands for; 0 is the greatest (datasheet, "Counting")."""
        if self.state.bcd:
            return sum((value >> 4 * digit & 15) * 10**digit for digit in range(4)) or 10_000
        return value or 0x10000

    def _to_register(self, left: int) -> int:
        if self.state.bcd:
            return int(f"{left % 10_000:04}", 16)
        return left & 0xFFFF


@dataclass
class PitState(State):
    """The 8254 and port 0x61.  ``rise`` is the next pulse at which IRQ0 rises, 0 if it does not."""

    counters: Annotated[list[CounterState], Range(3, 3)] = field(
        default_factory=lambda: [CounterState(), CounterState(), CounterState(gate=False)]
    )
    port_b: U4 = 0
    irq0: bool = False
    rise: U64 = 0


class Pit:
    """The interval timer.  *reschedule* is called whenever `deadline_ns` may have become earlier."""

    name = "pit"

    def __init__(self, clock: Clock, irq0: Line, reschedule: Callable[[], None]) -> None:
        self._clock = clock
        self._irq0 = irq0
        self._reschedule = reschedule
        self.restore(PitState())

    def read(self, offset: int, _size: int) -> int:
        """Return register *offset*."""
        pulse = self._pulse()
        if offset < CONTROL_WORD:
            return self._counters[offset].read(pulse)
        if offset != PORT_B:
            return 0xFF
        refresh = PORT_B_REFRESH if pulse // REFRESH_PULSES & 1 else 0
        out2 = PORT_B_OUT2 if self._counters[2].out(pulse) else 0
        return self._state.port_b | refresh | out2

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write register *offset*."""
        self.catch_up()
        pulse = self._pulse()
        was_high = self._counters[0].out(pulse)
        if offset < CONTROL_WORD:
            self._counters[offset].write(value, pulse)
        elif offset == PORT_B:
            self._state.port_b = value & PORT_B_WRITABLE
            self._counters[2].set_gate(bool(value & PORT_B_GATE2), pulse)
        elif value >> SELECT_SHIFT == READ_BACK:
            self._read_back(value, pulse)
        else:
            self._counters[value >> SELECT_SHIFT].control(value, pulse)
        self._follow(was_high, pulse)

    def deadline_ns(self) -> int | None:
        """Return the machine time of the next rising edge of IRQ0."""
        rise = self._state.rise
        return -(-rise * 10**9 // FREQUENCY) if rise else None

    def catch_up(self) -> None:
        """Drive the rising edge that is due; to an interrupt controller all edges missed are one."""
        pulse = self._pulse()
        if 0 < self._state.rise <= pulse:
            self._rise()
            self._state.rise = self._counters[0].next_rise(pulse)

    def drive(self) -> None:
        """Drive IRQ0 with the level it has."""
        self._irq0(self._state.irq0)

    def save(self) -> PitState:
        """Return a copy of the state."""
        self._state.counters = [counter.state for counter in self._counters]
        return copy.deepcopy(self._state)

    def restore(self, state: PitState) -> None:
        """Replace the state; `drive` then drives IRQ0."""
        self._state = copy.deepcopy(state)
        self._counters = [_Counter(counter) for counter in self._state.counters]

    def _pulse(self) -> int:
        return self._clock.now_ns * FREQUENCY // 10**9

    def _read_back(self, command: int, pulse: int) -> None:
        for number, counter in enumerate(self._counters):
            if command & 2 << number:
                if not command & READ_BACK_NO_COUNT:
                    counter.latch_count(pulse)
                if not command & READ_BACK_NO_STATUS:
                    counter.latch_status(pulse)

    def _follow(self, was_high: bool, pulse: int) -> None:
        """Drive IRQ0 after a write, which may have moved OUT of counter 0 or its next rise."""
        counter = self._counters[0]
        if not counter.out(pulse):
            self._state.irq0 = False
            self._irq0(False)
        elif not was_high:
            self._rise()
        rise = counter.next_rise(pulse)
        if rise != self._state.rise:
            self._state.rise = rise
            self._reschedule()

    def _rise(self) -> None:
        self._irq0(False)
        self._irq0(True)
        self._state.irq0 = True
