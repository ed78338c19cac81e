"""The MC146818; expectations are from Motorola's datasheet, dates from `datetime`."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.machine.rtc import Rtc

SECOND = 10**9
MIB = 1 << 20
EPOCH = 1_700_000_000  # Tuesday, 14 November 2023, 22:13:20 UTC

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR, A, B, C, D = range(6, 14)
CENTURY = 0x32

SET, PIE, AIE, UIE, BINARY, HOURS_24 = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10


def build(clock, *, epoch=EPOCH, memory_size=256 * MIB):
    irq8, reschedules = [], []
    rtc = Rtc(
        clock,
        irq8.append,
        lambda: reschedules.append(clock.now_ns),
        epoch=epoch,
        memory_size=memory_size,
    )
    return SimpleNamespace(rtc=rtc, clock=clock, irq8=irq8, reschedules=reschedules)


@pytest.fixture
def pc(clock):
    return build(clock)


def read(pc, index):
    pc.rtc.write(0, 1, index)
    return pc.rtc.read(1, 1)


def write(pc, index, value):
    pc.rtc.write(0, 1, index)
    pc.rtc.write(1, 1, value)


def calendar(pc):
    """Century, year, month, day, hour, minute and second, in hexadecimal as BCD reads."""
    return "".join(f"{read(pc, index):02x}" for index in (CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS))


def events(pc, until_ns):
    """The times up to *until_ns* at which IRQ8 rose, and register C as its handler read it."""
    seen = []
    while (deadline := pc.rtc.deadline_ns()) is not None and deadline <= until_ns:
        pc.clock.now_ns = deadline
        pc.rtc.catch_up()
        assert pc.irq8[-1] is True
        seen.append((deadline, read(pc, C)))
        assert pc.irq8[-1] is False
    return seen


def test_it_shows_the_epoch_plus_the_time_of_the_machine(pc):
    assert calendar(pc) == "20231114221320"

    pc.clock.now_ns = 3600 * SECOND + SECOND - 1
    assert calendar(pc) == "20231114231320"


@given(seconds=st.integers(0, 8_000 * 365 * 86_400))
def test_it_knows_the_calendar(seconds):
    pc = build(SimpleNamespace(now_ns=0), epoch=seconds)

    shown = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)

    assert calendar(pc) == f"{shown.year:04}{shown:%m%d%H%M%S}"
    assert read(pc, WEEKDAY) == shown.isoweekday() % 7 + 1


def test_binary_mode_shows_the_same_time_in_binary(pc):
    write(pc, B, BINARY | HOURS_24 | SET)
    for index, value in ((HOURS, 22), (MINUTES, 13), (SECONDS, 20)):
        write(pc, index, value)
    write(pc, B, BINARY | HOURS_24)

    assert [read(pc, index) for index in (HOURS, MINUTES, SECONDS)] == [22, 13, 20]


@pytest.mark.parametrize(
    ("hour", "register"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)]
)
def test_12_hour_mode_marks_the_afternoon(clock, hour, register):
    pc = build(clock, epoch=hour * 3600)
    write(pc, B, SET)
    write(pc, HOURS, register)
    write(pc, B, 0)

    assert read(pc, HOURS) == register
    clock.now_ns = 24 * 3600 * SECOND
    assert read(pc, HOURS) == register


def test_linux_sets_the_clock(pc):
    # mc146818_set_time: SET, divider reset, the registers, then both back.
    control, rate = read(pc, B), read(pc, A)
    write(pc, B, control | SET)
    write(pc, A, rate | 0x70)
    for index, value in (
        (YEAR, 0x99),
        (MONTH, 0x12),
        (DAY, 0x31),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ):
        write(pc, index, value)
    write(pc, CENTURY, 0x19)
    pc.clock.now_ns = 5 * SECOND + 1
    write(pc, B, control)
    write(pc, A, rate)

    assert calendar(pc) == "19991231235959"
    # The first update comes half a second after the divider is let go.
    pc.clock.now_ns += SECOND // 2 - 1
    assert calendar(pc) == "19991231235959"
    pc.clock.now_ns += 1
    assert calendar(pc) == "20000101000000"


def test_time_stands_still_while_set_is_on(pc):
    write(pc, B, HOURS_24 | SET)
    pc.clock.now_ns = 100 * SECOND

    assert calendar(pc) == "20231114221320"
    write(pc, B, HOURS_24)
    assert calendar(pc) == "20231114221320"
    pc.clock.now_ns = 101 * SECOND
    assert calendar(pc) == "20231114221321"


def test_a_register_may_be_set_while_the_clock_runs(pc):
    write(pc, MINUTES, 0x59)

    assert calendar(pc) == "20231114225920"
    pc.clock.now_ns = 60 * SECOND
    assert calendar(pc) == "20231114230020"


def test_a_date_that_does_not_exist_is_carried_over(pc):
    write(pc, B, HOURS_24 | SET)
    write(pc, MONTH, 0x02)
    write(pc, DAY, 0x30)
    assert calendar(pc)[4:8] == "0230"

    write(pc, B, HOURS_24)

    assert calendar(pc)[4:8] == "0302"


def test_the_day_of_the_week_is_counted_from_what_was_set(pc):
    write(pc, WEEKDAY, 7)
    assert read(pc, WEEKDAY) == 7

    pc.clock.now_ns = 86_400 * SECOND

    assert read(pc, WEEKDAY) == 1


def test_the_century_turns(clock):
    pc = build(clock, epoch=int(datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()))

    clock.now_ns = SECOND

    assert calendar(pc) == "21000101000000"


def test_update_in_progress_warns_244_microseconds_before(pc):
    pc.clock.now_ns = SECOND - 244_001
    assert read(pc, A) == 0x26

    pc.clock.now_ns = SECOND - 244_000
    assert read(pc, A) == 0xA6

    pc.clock.now_ns = SECOND
    assert read(pc, A) == 0x26


@pytest.mark.parametrize("stop", [(B, SET | HOURS_24), (A, 0x76)])
def test_no_update_is_announced_while_the_clock_is_stopped(pc, stop):
    write(pc, *stop)

    pc.clock.now_ns = SECOND - 1

    assert not read(pc, A) & 0x80


@pytest.mark.parametrize(
    ("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (8, 256), (9, 128), (15, 2)]
)
def test_periodic_interrupts_come_at_the_rate_of_the_datasheet(pc, rate, hertz):
    write(pc, A, 0x20 | rate)
    write(pc, B, PIE | HOURS_24)

    period = -(-SECOND // hertz)

    assert events(pc, period) == [(period, IRQF | PF)]


def test_rate_zero_is_no_periodic_interrupt(pc):
    write(pc, A, 0x20)
    write(pc, B, PIE | HOURS_24)

    assert pc.rtc.deadline_ns() is None


def test_update_ended_interrupts_come_every_second(pc):
    read(pc, C)
    write(pc, A, 0x20)
    write(pc, B, UIE | HOURS_24)

    assert events(pc, 2 * SECOND) == [(SECOND, IRQF | UF), (2 * SECOND, IRQF | UF)]


def test_setting_set_disables_the_update_interrupt(pc):
    write(pc, B, UIE | HOURS_24)

    write(pc, B, UIE | SET | HOURS_24)

    assert read(pc, B) == SET | HOURS_24
    assert pc.rtc.deadline_ns() is None


def arm_alarm(pc, hour, minute, second):
    write(pc, A, 0x20)
    for index, value in ((HOURS_ALARM, hour), (MINUTES_ALARM, minute), (SECONDS_ALARM, second)):
        write(pc, index, value)
    write(pc, B, AIE | HOURS_24)


@pytest.mark.parametrize(
    ("alarm", "seconds"),
    [
        ((0x22, 0x13, 0x21), 1),
        ((0x22, 0x13, 0x20), 86_400),
        ((0x00, 0x00, 0x00), 6_400),
        ((0xFF, 0x13, 0x10), 3_590),
        ((0xFF, 0xFF, 0x19), 59),
        ((0xC0, 0xC0, 0xC0), 1),
        ((0x23, 0xFF, 0xFF), 2_800),
        ((0x21, 0xFF, 0x05), 82_005),
    ],
)
def test_alarms_come_at_the_next_time_that_matches(pc, alarm, seconds):
    arm_alarm(pc, *alarm)

    [(time, flags)] = events(pc, seconds * SECOND)

    assert (time, flags) == (seconds * SECOND, IRQF | AF | UF)


@pytest.mark.parametrize("alarm", [(0x24, 0, 0), (0, 0x60, 0), (0, 0, 0x7A)])
def test_an_alarm_at_no_time_of_day_never_comes(pc, alarm):
    arm_alarm(pc, *alarm)

    assert pc.rtc.deadline_ns() is None


def test_flags_are_set_although_no_interrupt_is_enabled(pc):
    pc.clock.now_ns = SECOND

    assert read(pc, C) == PF | UF
    assert read(pc, C) == 0
    assert True not in pc.irq8


def test_enabling_an_interrupt_whose_flag_waits_raises_it_at_once(pc):
    pc.clock.now_ns = SECOND

    write(pc, B, UIE | HOURS_24)

    assert pc.irq8[-1] is True
    assert pc.rtc.deadline_ns() is None


def test_an_interrupt_missed_many_times_is_one(pc):
    write(pc, B, PIE | HOURS_24)
    pc.clock.now_ns = 10 * SECOND

    pc.rtc.catch_up()
    pc.rtc.catch_up()

    assert read(pc, C) == IRQF | PF | UF
    assert pc.rtc.deadline_ns() == 10 * SECOND + -(-SECOND // 1024)


def test_a_changed_deadline_asks_to_be_rescheduled(pc):
    write(pc, B, PIE | HOURS_24)
    assert len(pc.reschedules) == 1

    write(pc, 0x40, 1)
    read(pc, SECONDS)
    assert len(pc.reschedules) == 1


def test_memory_keeps_what_is_written(pc):
    write(pc, 0x0F, 0x05)
    write(pc, 0x7F, 0xA5)

    assert (read(pc, 0x0F), read(pc, 0x7F)) == (0x05, 0xA5)


def test_registers_c_and_d_cannot_be_written(pc):
    write(pc, C, 0xFF)
    write(pc, D, 0)

    assert read(pc, C) == 0
    assert read(pc, D) == 0x80


def test_bit_7_of_the_index_is_not_part_of_it(pc):
    pc.rtc.write(0, 1, 0x80 | D)

    assert pc.rtc.read(1, 1) == 0x80
    assert pc.rtc.read(0, 1) == 0xFF


@pytest.mark.parametrize(
    ("memory_size", "base", "extended", "high"),
    [
        (512 << 10, 512, 0, 0),
        (8 * MIB, 640, 7 << 10, 0),
        (256 * MIB, 640, 63 << 10, 240 * 16),
        (3072 * MIB, 640, 63 << 10, 3056 * 16),
    ],
)
def test_firmware_left_the_memory_size(clock, memory_size, base, extended, high):
    pc = build(clock, memory_size=memory_size)

    words = [read(pc, index) | read(pc, index + 1) << 8 for index in (0x15, 0x17, 0x30, 0x34)]

    assert words == [base, extended, extended, high]
    assert sum(read(pc, index) for index in range(0x10, 0x2E)) == read(pc, 0x2E) << 8 | read(pc, 0x2F)


def test_a_restored_clock_goes_on_where_it_was(pc, through_bytes):
    write(pc, B, PIE | UIE | HOURS_24)
    write(pc, WEEKDAY, 5)
    write(pc, A, 0x70)
    pc.clock.now_ns = 3 * SECOND + 12_345
    write(pc, A, 0x2A)
    pc.clock.now_ns = pc.rtc.deadline_ns()
    pc.rtc.catch_up()
    other = build(pc.clock, epoch=0, memory_size=MIB)

    other.rtc.restore(through_bytes(pc.rtc.save()))

    assert other.irq8 == []
    other.rtc.drive()
    assert other.irq8 == [True]
    assert calendar(other) == calendar(pc)
    assert read(other, C) == read(pc, C)
    assert other.rtc.deadline_ns() == pc.rtc.deadline_ns()
    assert other.rtc.save() == pc.rtc.save()


def test_no_guest_can_upset_it(attack):
    attack(lambda clock: build(clock).rtc, 2)
