"""The real-time clock of a PC: an MC146818 with 128 bytes of battery-backed memory.

Everything in the datasheet (Motorola MC146818A) that software can see, except the square-wave output and
daylight saving: calendar and alarm in BCD or binary, 12 or 24 hours; setting the clock; the divider; update-
in-progress; the periodic, alarm and update-ended interrupts.  Beside it the bytes in which a PC's firmware
leaves the memory size.

    offset   port   register
    0        0x70   index; write-only (bit 7 masks NMI, which nothing here raises)
    1        0x71   the byte that the index selects

The calendar is never ticked: while the clock runs it is computed from the time, and only when software stops
the clock to set it are its registers what was written.  Flags are computed likewise, when somebody can see
them.

Rules:
- An update is instantaneous; UIP announces it 244 microseconds before.
- Calendar registers written with values that are no date are carried over (30 February is 1 or 2 March).
- Deadlines exist only for enabled interrupts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated

from revirt.machine.device import Clock, Line
from revirt.machine.state import U64, Range, State

SECONDS, SECONDS_ALARM = 0x00, 0x01
MINUTES, MINUTES_ALARM = 0x02, 0x03
HOURS, HOURS_ALARM = 0x04, 0x05
DAY_OF_WEEK = 0x06
DAY_OF_MONTH = 0x07
MONTH = 0x08
YEAR = 0x09
REGISTER_A = 0x0A
REGISTER_B = 0x0B
REGISTER_C = 0x0C
REGISTER_D = 0x0D
CENTURY = 0x32
CALENDAR = (SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR, CENTURY)

A_UIP = 0x80
A_DIVIDER = 0x70
A_DIVIDER_RUNS = 0x20
"""The only divider setting for a 32768 Hz crystal."""
A_RATE = 0x0F
B_SET = 0x80
B_PIE = 0x40
B_AIE = 0x20
B_UIE = 0x10
B_SQWE = 0x08
B_BINARY = 0x04
B_24_HOURS = 0x02
C_IRQF = 0x80
C_PF = 0x40
C_AF = 0x20
C_UF = 0x10
D_VRT = 0x80
"""Memory and time are valid: the battery is good."""

HOURS_PM = 0x80
ALARM_ANY = 0xC0
"""Alarm bytes from here on match every value."""

EQUIPMENT = 0x14
EQUIPMENT_FPU = 0x02
BASE_MEMORY = 0x15
"""KiB below 640 KiB, 16 bits."""
EXTENDED_MEMORY = (0x17, 0x30)
"""KiB from 1 MiB, 16 bits, at most 63 MiB; twice."""
HIGH_MEMORY = 0x34
"""Units of 64 KiB from 16 MiB, 16 bits."""
CHECKSUM = 0x2E
"""Sum of bytes 0x10 to 0x2D, high byte first."""

SECOND_NS = 10**9
HALF_SECOND_NS = SECOND_NS // 2
UIP_NS = 244_000
CRYSTAL = 32_768
DAY = 86_400
_CYCLE = 146_097
"""Days in the 400 years after which the calendar repeats."""
_DAY_ZERO = date(2000, 1, 1)
_UNIX_EPOCH = 946_684_800
"""Seconds from 1970 to 2000."""


@dataclass
class RtcState(State):
    """The clock.  While it runs, the time is ``origin`` seconds after 2000 plus one for each update so far.

    Updates happen when the machine's time is ``phase_ns`` modulo one second.
    """

    memory: Annotated[bytes, Range(128, 128)]
    origin: Annotated[int, Range(-(1 << 62), 1 << 62)]
    weekday_shift: Annotated[int, Range(0, 6)] = 0
    phase_ns: Annotated[int, Range(0, SECOND_NS - 1)] = 0
    index: Annotated[int, Range(0, 127)] = 0
    flags_ns: U64 = 0  # the machine time up to which the flags of register C are computed


class Rtc:
    """The real-time clock, at machine time 0 showing *epoch* (seconds since 1970, UTC).

    *memory_size* is the size of RAM in bytes; *reschedule* is called whenever `deadline_ns` may have become
    earlier.
    """

    name = "rtc"

    def __init__(
        self, clock: Clock, irq8: Line, reschedule: Callable[[], None], *, epoch: int, memory_size: int
    ) -> None:
        self._clock = clock
        self._irq8 = irq8
        self._reschedule = reschedule
        self.restore(RtcState(memory=_firmware_memory(memory_size), origin=epoch - _UNIX_EPOCH))

    def read(self, offset: int, _size: int) -> int:
        """Return the selected byte; reading register C clears its flags, and with them IRQ8."""
        if offset != 1:
            return 0xFF
        s = self._state
        if s.index == REGISTER_A:
            return s.memory[REGISTER_A] | (A_UIP if self._is_about_to_update() else 0)
        if s.index == REGISTER_C:
            self._settle()
            flags = s.memory[REGISTER_C] | (C_IRQF if self._irqf else 0)
            self._store(REGISTER_C, 0)
            self._arm()
            return flags
        if s.index in CALENDAR and self._is_running:
            return self._calendar()[CALENDAR.index(s.index)]
        return s.memory[s.index]

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write the index, or the selected byte."""
        s = self._state
        if offset != 1:
            s.index = value & 0x7F
        elif s.index not in (REGISTER_C, REGISTER_D):
            self._settle()
            self._stop()
            if s.index == REGISTER_A:
                self._write_a(value & ~A_UIP)
            elif s.index == REGISTER_B and value & B_SET:
                # Datasheet, "SET": setting it clears UIE.
                self._store(REGISTER_B, value & ~B_UIE)
            else:
                self._store(s.index, value)
            self._start()
            self._arm()

    def deadline_ns(self) -> int | None:
        """Return the machine time of the next enabled interrupt, None while one waits or none is enabled."""
        return self._deadline

    def catch_up(self) -> None:
        """Raise IRQ8 if an enabled interrupt is due."""
        if self._deadline is not None and self._clock.now_ns >= self._deadline:
            self._settle()
            self._arm()

    def drive(self) -> None:
        """Drive IRQ8 with the level it has."""
        self._irq8(self._irqf)

    def save(self) -> RtcState:
        """Return a copy of the state."""
        return copy.copy(self._state)

    def restore(self, state: RtcState) -> None:
        """Replace the state; `drive` then drives IRQ8."""
        self._state = copy.copy(state)
        self._deadline = self._next_interrupt()

    def _store(self, index: int, value: int) -> None:
        memory = bytearray(self._state.memory)
        memory[index] = value
        self._state.memory = bytes(memory)

    # -- the calendar -------------------------------------------------------------------------------------

    @property
    def _divider_runs(self) -> bool:
        return self._state.memory[REGISTER_A] & A_DIVIDER == A_DIVIDER_RUNS

    @property
    def _is_running(self) -> bool:
        return self._divider_runs and not self._state.memory[REGISTER_B] & B_SET

    def _updates(self, ns: int) -> int:
        """Return the number of updates up to machine time *ns*, from an arbitrary zero."""
        return (ns - self._state.phase_ns) // SECOND_NS

    def _is_about_to_update(self) -> bool:
        into_second = (self._clock.now_ns - self._state.phase_ns) % SECOND_NS
        return self._is_running and into_second >= SECOND_NS - UIP_NS

    def _write_a(self, value: int) -> None:
        divider_ran = self._divider_runs
        self._store(REGISTER_A, value)
        if self._divider_runs and not divider_ran:
            # Datasheet, "Divider control": the first update follows half a second after the divider is let
            # go.
            self._state.phase_ns = (self._clock.now_ns + HALF_SECOND_NS) % SECOND_NS

    def _stop(self) -> None:
        """Put the time into the calendar registers, for a write to find it there."""
        if self._is_running:
            memory = bytearray(self._state.memory)
            for index, value in zip(CALENDAR, self._calendar(), strict=True):
                memory[index] = value
            self._state.memory = bytes(memory)

    def _start(self) -> None:
        """Let time go on from the calendar registers, if nothing stops the clock."""
        if not self._is_running:
            return
        s = self._state
        second, minute, hour, weekday, day, month, year, century = (s.memory[index] for index in CALENDAR)
        carry, month_index = divmod(self._decode(month) - 1, 12)
        years = self._decode(century) * 100 + self._decode(year) + carry - _DAY_ZERO.year
        cycle, year_of_cycle = divmod(years, 400)
        first = date(_DAY_ZERO.year + year_of_cycle, month_index + 1, 1)
        days = cycle * _CYCLE + (first - _DAY_ZERO).days + self._decode(day) - 1
        time = self._decode_hour(hour) * 3600 + self._decode(minute) * 60 + self._decode(second)
        s.origin = days * DAY + time - self._updates(self._clock.now_ns)
        # The chip counts days of the week without knowing the date: it may be set to any.
        s.weekday_shift = (self._decode(weekday) - 1 - (days + time // DAY + 6)) % 7

    def _calendar(self) -> tuple[int, ...]:
        """Return the calendar registers of a running clock, in the order of `CALENDAR`."""
        s = self._state
        days, time = divmod(s.origin + self._updates(self._clock.now_ns), DAY)
        cycle, day_of_cycle = divmod(days, _CYCLE)
        today = date.fromordinal(_DAY_ZERO.toordinal() + day_of_cycle)
        century, year = divmod(today.year + 400 * cycle, 100)
        # The first of January 2000 was a Saturday; Sunday is 1.
        weekday = (days + 6 + s.weekday_shift) % 7 + 1
        encode = self._encode
        return (
            encode(time % 60),
            encode(time // 60 % 60),
            self._encode_hour(time // 3600),
            encode(weekday),
            encode(today.day),
            encode(today.month),
            encode(year),
            encode(century % 100),
        )

    def _encode(self, value: int) -> int:
        if self._state.memory[REGISTER_B] & B_BINARY:
            return value
        return value // 10 << 4 | value % 10

    def _decode(self, byte: int) -> int:
        if self._state.memory[REGISTER_B] & B_BINARY:
            return byte
        return (byte >> 4) * 10 + (byte & 15)

    def _encode_hour(self, hour: int) -> int:
        if self._state.memory[REGISTER_B] & B_24_HOURS:
            return self._encode(hour)
        return self._encode((hour - 1) % 12 + 1) | (HOURS_PM if hour >= 12 else 0)

    def _decode_hour(self, byte: int) -> int:
        if self._state.memory[REGISTER_B] & B_24_HOURS:
            return self._decode(byte)
        return self._decode(byte & ~HOURS_PM) % 12 + (12 if byte & HOURS_PM else 0)

    # -- interrupts ---------------------------------------------------------------------------------------

    @property
    def _irqf(self) -> bool:
        memory = self._state.memory
        return bool(memory[REGISTER_C] & memory[REGISTER_B] & (C_PF | C_AF | C_UF))

    def _settle(self) -> None:
        """Set the flags of everything that happened since this was last done."""
        now_ns = self._clock.now_ns
        flags = self._state.memory[REGISTER_C]
        for flag, next_ns in self._next_events():
            if next_ns <= now_ns:
                flags |= flag
        self._store(REGISTER_C, flags)
        self._state.flags_ns = now_ns

    def _arm(self) -> None:
        """Drive IRQ8 and find the next deadline, after flags or what they depend on have changed."""
        self.drive()
        deadline = self._next_interrupt()
        if deadline != self._deadline:
            self._deadline = deadline
            self._reschedule()

    def _next_interrupt(self) -> int | None:
        if self._irqf:
            return None
        enabled = self._state.memory[REGISTER_B]
        return min((ns for flag, ns in self._next_events() if flag & enabled), default=None)

    def _next_events(self) -> list[tuple[int, int]]:
        """Return the flags that time will set, with the time of the first event after ``flags_ns``."""
        s = self._state
        events: list[tuple[int, int]] = []
        period = _period(s.memory[REGISTER_A] & A_RATE)
        if period and self._divider_runs:
            ticks = (s.flags_ns - s.phase_ns) * CRYSTAL // SECOND_NS // period + 1
            events.append((C_PF, s.phase_ns - (-ticks * period * SECOND_NS // CRYSTAL)))
        if self._is_running:
            updates = self._updates(s.flags_ns)
            events.append((C_UF, s.phase_ns + (updates + 1) * SECOND_NS))
            alarm = self._next_alarm(s.origin + updates)
            if alarm is not None:
                events.append((C_AF, s.phase_ns + (alarm - s.origin) * SECOND_NS))
        return events

    def _next_alarm(self, second: int) -> int | None:
        """Return the first second after *second* that the alarm registers match, None if none can."""
        alarm: list[tuple[int, int, int]] = []
        for index, unit, modulus in (
            (HOURS_ALARM, 3600, 24),
            (MINUTES_ALARM, 60, 60),
            (SECONDS_ALARM, 1, 60),
        ):
            byte = self._state.memory[index]
            if byte < ALARM_ANY:
                wanted = self._decode_hour(byte) if index == HOURS_ALARM else self._decode(byte)
                if wanted >= modulus:
                    return None
                alarm.append((wanted, unit, modulus))
        second += 1
        while ahead := _to_match(second, alarm):
            second += ahead
        return second


def _to_match(second: int, alarm: list[tuple[int, int, int]]) -> int:
    """Return how many seconds off the first part of *alarm* is that *second* does not match, else 0."""
    for wanted, unit, modulus in alarm:
        units = (wanted - second // unit) % modulus
        if units:
            return units * unit - second % unit
    return 0


def _period(rate: int) -> int:
    """Return the period in 1/32768 s that rate bits RS select, 0 for none (datasheet, "RS3-RS0")."""
    if rate == 0:
        return 0
    # The two fastest taps of a 32768 Hz divider do not exist: 1 and 2 select the same rates as 8 and 9.
    return 1 << (rate + 6 if rate <= 2 else rate - 1)


def _firmware_memory(memory_size: int) -> bytes:
    """Return the memory as firmware leaves it on a machine with *memory_size* bytes of RAM."""
    memory = bytearray(128)

    def store_word(index: int, value: int) -> None:
        memory[index : index + 2] = min(max(value, 0), 0xFFFF).to_bytes(2, "little")

    memory[REGISTER_A] = A_DIVIDER_RUNS | 6
    memory[REGISTER_B] = B_24_HOURS
    memory[REGISTER_D] = D_VRT
    memory[EQUIPMENT] = EQUIPMENT_FPU
    store_word(BASE_MEMORY, min(memory_size >> 10, 640))
    for index in EXTENDED_MEMORY:
        store_word(index, min((memory_size >> 10) - 1024, 63 << 10))
    store_word(HIGH_MEMORY, (memory_size - (16 << 20)) >> 16)
    memory[CHECKSUM : CHECKSUM + 2] = sum(memory[0x10:CHECKSUM]).to_bytes(2, "big")
    return bytes(memory)
