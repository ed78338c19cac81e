"""The 8254; expectations are the waveforms of Intel's datasheet 231164, in pulses of CLK."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.machine.pic import Pic
from revirt.machine.pit import FREQUENCY, Pit

CONTROL, PORT_B = 3, 4
LATCH_COUNT, LATCH_STATUS = 0xD0, 0xE0


def time_of(pulse):
    """The first nanosecond of *pulse*."""
    return -(-pulse * 10**9 // FREQUENCY)


@pytest.fixture
def pc(clock):
    """A timer, the levels its IRQ0 was driven to, and how often it asked to be rescheduled."""
    irq0, reschedules = [], []
    pit = Pit(clock, irq0.append, lambda: reschedules.append(clock.now_ns))
    return SimpleNamespace(pit=pit, clock=clock, irq0=irq0, reschedules=reschedules)


def program(pit, counter, mode, count, *, bcd=False):
    pit.write(CONTROL, 1, counter << 6 | 0x30 | mode << 1 | bcd)
    pit.write(counter, 1, count & 0xFF)
    pit.write(counter, 1, count >> 8)


def out(pit, counter):
    pit.write(CONTROL, 1, LATCH_STATUS | 2 << counter)
    return pit.read(counter, 1) >> 7


def count(pit, counter):
    pit.write(CONTROL, 1, LATCH_COUNT | 2 << counter)
    return pit.read(counter, 1) | pit.read(counter, 1) << 8


def waveform(pc, counter, first, last):
    """OUT and the count at each pulse from *first* to *last*, written as in the datasheet's figures."""
    levels, counts = "", []
    for pulse in range(first, last + 1):
        pc.clock.now_ns = time_of(pulse)
        levels += "_-"[out(pc.pit, counter)]
        counts.append(count(pc.pit, counter))
    return levels, counts


def interrupts(pc, until_pulse):
    """The pulses up to *until_pulse* at which IRQ0 rose, running from deadline to deadline."""
    pulses = []
    while (deadline := pc.pit.deadline_ns()) is not None and deadline <= time_of(until_pulse):
        pc.clock.now_ns = deadline
        pc.irq0.clear()
        pc.pit.catch_up()
        assert pc.irq0 == [False, True]
        pulses.append(deadline * FREQUENCY // 10**9)
    return pulses


def test_mode_0_raises_out_one_pulse_after_the_count(pc):
    program(pc.pit, 0, 0, 4)

    # Figure "Mode 0": CW, LSB = 4, then 4 3 2 1 0 FFFF FFFE with OUT high from 0 on.
    assert waveform(pc, 0, 1, 7) == ("____---", [4, 3, 2, 1, 0, 0xFFFF, 0xFFFE])


def test_mode_0_interrupts_once(pc):
    program(pc.pit, 0, 0, 4)

    assert interrupts(pc, 100_000) == [5]


def test_mode_0_stops_counting_between_the_bytes_of_a_new_count(pc):
    program(pc.pit, 0, 0, 4)
    pc.clock.now_ns = time_of(3)
    pc.pit.write(0, 1, 3)

    assert waveform(pc, 0, 4, 6) == ("___", [2, 2, 2])

    pc.pit.write(0, 1, 0)
    assert waveform(pc, 0, 7, 10) == ("___-", [3, 2, 1, 0])


def test_mode_0_holds_while_its_gate_is_low(pc):
    pc.pit.write(PORT_B, 1, 1)
    program(pc.pit, 2, 0, 4)
    pc.clock.now_ns = time_of(3)
    pc.pit.write(PORT_B, 1, 0)

    assert waveform(pc, 2, 4, 6) == ("___", [2, 2, 2])

    pc.pit.write(PORT_B, 1, 1)
    assert waveform(pc, 2, 7, 8) == ("_-", [1, 0])


def test_mode_1_is_a_one_shot_started_and_restarted_by_its_gate(pc):
    program(pc.pit, 2, 1, 3)
    assert waveform(pc, 2, 1, 2)[0] == "--"

    pc.pit.write(PORT_B, 1, 1)
    assert waveform(pc, 2, 3, 4) == ("__", [3, 2])

    pc.pit.write(PORT_B, 1, 0)
    pc.pit.write(PORT_B, 1, 1)
    assert waveform(pc, 2, 5, 9) == ("___--", [3, 2, 1, 0, 0xFFFF])


def test_mode_2_divides_by_its_count(pc):
    program(pc.pit, 0, 2, 3)

    # Figure "Mode 2": 3 2 1 3 2 1, OUT low while the count is 1.
    assert waveform(pc, 0, 1, 7) == ("--_--_-", [3, 2, 1, 3, 2, 1, 3])


def test_mode_2_takes_a_new_count_at_the_end_of_its_period(pc):
    program(pc.pit, 0, 2, 4)
    pc.clock.now_ns = time_of(2)
    pc.pit.write(0, 1, 5)
    pc.pit.write(0, 1, 0)

    assert waveform(pc, 0, 3, 10) == ("-_----_-", [2, 1, 5, 4, 3, 2, 1, 5])


def test_mode_2_sets_out_high_and_starts_anew_when_its_gate_rises(pc):
    pc.pit.write(PORT_B, 1, 1)
    program(pc.pit, 2, 2, 3)
    pc.clock.now_ns = time_of(3)
    assert out(pc.pit, 2) == 0

    pc.pit.write(PORT_B, 1, 0)
    assert waveform(pc, 2, 3, 5)[0] == "---"

    pc.pit.write(PORT_B, 1, 1)
    assert waveform(pc, 2, 6, 8) == ("--_", [3, 2, 1])


def test_mode_3_is_a_square_wave(pc):
    program(pc.pit, 0, 3, 4)

    # Figure "Mode 3", even count: 4 2 4 2.
    assert waveform(pc, 0, 1, 8) == ("--__--__", [4, 2, 4, 2, 4, 2, 4, 2])


def test_mode_3_with_an_odd_count_is_high_one_pulse_longer(pc):
    program(pc.pit, 0, 3, 5)

    # Figure "Mode 3", odd count: 4 2 0 4 2.
    assert waveform(pc, 0, 1, 10) == ("---__---__", [4, 2, 0, 4, 2, 4, 2, 0, 4, 2])


def test_mode_3_takes_a_new_count_at_the_end_of_its_half_period(pc):
    program(pc.pit, 0, 3, 8)
    pc.clock.now_ns = time_of(2)
    pc.pit.write(0, 1, 4)
    pc.pit.write(0, 1, 0)

    assert waveform(pc, 0, 3, 10) == ("--__--__", [4, 2, 4, 2, 4, 2, 4, 2])


def test_mode_4_strobes_once(pc):
    program(pc.pit, 0, 4, 3)

    # Figure "Mode 4": OUT is low for the one pulse at which the count is 0.
    assert waveform(pc, 0, 1, 6) == ("---_--", [3, 2, 1, 0, 0xFFFF, 0xFFFE])


def test_mode_4_interrupts_once_when_its_strobe_ends(pc):
    # Linux's one-shot clock event.
    program(pc.pit, 0, 4, 3)

    assert interrupts(pc, 100_000) == [5]


def test_mode_5_strobes_after_its_trigger(pc):
    program(pc.pit, 2, 5, 2)
    assert waveform(pc, 2, 1, 9)[0] == "-" * 9

    pc.pit.write(PORT_B, 1, 1)

    assert waveform(pc, 2, 10, 13) == ("--_-", [2, 1, 0, 0xFFFF])


@pytest.mark.parametrize("mode", [6, 7])
def test_the_two_modes_that_do_not_exist_are_modes_2_and_3(pc, mode):
    program(pc.pit, 1, mode, 100)

    pc.pit.write(CONTROL, 1, LATCH_STATUS | 4)

    assert pc.pit.read(1, 1) >> 1 & 7 == mode - 4


def test_a_bcd_counter_counts_in_decimal(pc):
    program(pc.pit, 0, 0, 0x1000, bcd=True)

    assert waveform(pc, 0, 2, 3)[1] == [0x0999, 0x0998]
    assert interrupts(pc, 2000) == [1001]


@pytest.mark.parametrize(("bcd", "longest"), [(False, 65536), (True, 10000)])
def test_a_count_of_zero_is_the_longest(pc, bcd, longest):
    program(pc.pit, 0, 2, 0, bcd=bcd)

    assert interrupts(pc, 200_000)[:2] == [1 + longest, 1 + 2 * longest]


def test_a_latched_count_stands_still_until_it_is_read(pc):
    program(pc.pit, 0, 2, 0x1234)
    pc.clock.now_ns = time_of(5)
    pc.pit.write(CONTROL, 1, 0x00)
    pc.clock.now_ns = time_of(100)
    pc.pit.write(CONTROL, 1, 0x00)

    assert (pc.pit.read(0, 1), pc.pit.read(0, 1)) == (0x30, 0x12)
    assert (pc.pit.read(0, 1), pc.pit.read(0, 1)) == (0xD1, 0x11)


def test_read_back_latches_status_before_count_on_every_counter_named(pc):
    program(pc.pit, 0, 2, 0x1234)
    program(pc.pit, 1, 3, 0x0012, bcd=True)
    pc.clock.now_ns = time_of(1)

    pc.pit.write(CONTROL, 1, 0xC6)

    assert [pc.pit.read(0, 1) for _ in range(3)] == [0xB4, 0x34, 0x12]
    assert [pc.pit.read(1, 1) for _ in range(3)] == [0xB7, 0x12, 0x00]


def test_the_null_count_bit_tells_when_a_new_count_is_not_yet_counting(pc):
    # Datasheet, table "Null Count Operation".
    program(pc.pit, 0, 2, 10)
    pc.pit.write(CONTROL, 1, LATCH_STATUS | 2)
    assert pc.pit.read(0, 1) & 0x40

    pc.clock.now_ns = time_of(1)
    pc.pit.write(CONTROL, 1, LATCH_STATUS | 2)
    assert not pc.pit.read(0, 1) & 0x40

    pc.pit.write(0, 1, 20)
    pc.pit.write(0, 1, 0)
    pc.pit.write(CONTROL, 1, LATCH_STATUS | 2)
    assert pc.pit.read(0, 1) & 0x40


@pytest.mark.parametrize(("access", "written", "first"), [(1, 0x34, 0x34), (2, 0x12, 0x12)])
def test_one_byte_access_leaves_the_other_byte_zero(pc, access, written, first):
    pc.pit.write(CONTROL, 1, access << 4 | 4)
    pc.pit.write(0, 1, written)

    assert pc.pit.read(0, 1) == first
    assert pc.pit.save().counters[0].written == (written if access == 1 else written << 8)


def test_the_control_word_cannot_be_read(pc):
    assert pc.pit.read(CONTROL, 1) == 0xFF


def test_linux_programs_a_tick_of_250_hz(pc):
    # pit_set_periodic: mode 2, latch 4773.
    program(pc.pit, 0, 2, 4773)

    assert interrupts(pc, 15_000) == [4774, 9547, 14320]


def test_periods_missed_are_one_edge(pc):
    program(pc.pit, 0, 2, 1000)
    pc.irq0.clear()
    pc.clock.now_ns = time_of(5_500)

    pc.pit.catch_up()
    pc.pit.catch_up()

    assert pc.irq0 == [False, True]
    assert pc.pit.deadline_ns() == time_of(6_001)


def test_the_deadline_of_a_square_wave_is_its_rising_edge(pc):
    program(pc.pit, 0, 3, 1000)

    assert interrupts(pc, 3_500) == [1001, 2001, 3001]


def test_the_deadline_follows_a_count_that_takes_over_in_mid_wave(pc):
    program(pc.pit, 0, 3, 1000)
    pc.clock.now_ns = time_of(101)
    pc.pit.write(0, 1, 200)
    pc.pit.write(0, 1, 0)

    # The high half ends at 501, the low half takes 100 pulses.
    assert interrupts(pc, 900) == [601, 801]


def test_switching_from_a_low_output_to_a_high_one_is_an_edge(pc):
    program(pc.pit, 0, 0, 1000)
    assert pc.irq0[-1] is False
    pc.irq0.clear()

    pc.pit.write(CONTROL, 1, 0x34)

    assert pc.irq0 == [False, True]


@pytest.mark.parametrize("mode", [2, 3])
def test_the_illegal_count_of_one_does_not_flood_the_machine(pc, mode):
    program(pc.pit, 0, mode, 1)

    assert pc.pit.deadline_ns() is None
    assert out(pc.pit, 0) == 1


def test_a_changed_deadline_asks_to_be_rescheduled(pc):
    program(pc.pit, 0, 2, 1000)
    assert len(pc.reschedules) == 1

    pc.pit.read(0, 1)
    pc.pit.write(PORT_B, 1, 1)
    assert len(pc.reschedules) == 1


def test_port_b_shows_the_speaker_counter_and_the_refresh_toggle(pc):
    pc.pit.write(PORT_B, 1, 0xFF)
    program(pc.pit, 2, 0, 100)
    assert pc.pit.read(PORT_B, 1) & ~0x10 == 0x0F

    pc.clock.now_ns = time_of(101)
    assert pc.pit.read(PORT_B, 1) & ~0x10 == 0x2F

    toggles = set()
    for pulse in range(200, 240):
        pc.clock.now_ns = time_of(pulse)
        toggles.add(pc.pit.read(PORT_B, 1) & 0x10)
    assert toggles == {0, 0x10}


def test_linux_calibrates_its_tsc_with_counter_2(pc):
    # pit_calibrate_tsc: gate on, speaker off, mode 0, then OUT2 is polled; 50 ms are 59659 pulses.
    pc.pit.write(PORT_B, 1, 0x01)
    program(pc.pit, 2, 0, 59_659)

    pc.clock.now_ns = time_of(59_659)
    assert not pc.pit.read(PORT_B, 1) & 0x20
    pc.clock.now_ns = time_of(59_660)
    assert pc.pit.read(PORT_B, 1) & 0x20


def test_an_interrupt_controller_sees_each_period(pc):
    pic = Pic(lambda _: None)
    pit = Pit(pc.clock, pic.line(0), lambda: None)
    pic.write(0, 1, 0x13)
    pic.write(1, 1, 0x20)
    pic.write(1, 1, 0x03)
    program(pit, 0, 2, 1000)
    pic.acknowledge()

    for _ in range(3):
        pc.clock.now_ns = pit.deadline_ns()
        pit.catch_up()
        assert pic.acknowledge() == 0x20
        assert not pic.output


def test_a_restored_timer_goes_on_where_it_was(pc, through_bytes):
    program(pc.pit, 0, 3, 1000)
    program(pc.pit, 2, 2, 0x4321, bcd=True)
    pc.clock.now_ns = time_of(1200)
    pc.pit.catch_up()
    pc.pit.write(0, 1, 7)
    pc.pit.write(CONTROL, 1, 0xC8)
    irq0 = []
    other = Pit(pc.clock, irq0.append, lambda: None)

    other.restore(through_bytes(pc.pit.save()))

    assert irq0 == []
    other.drive()
    assert irq0 == [True]
    assert other.deadline_ns() == pc.pit.deadline_ns()
    assert [other.read(2, 1) for _ in range(3)] == [pc.pit.read(2, 1) for _ in range(3)]
    other.write(0, 1, 0)
    pc.pit.write(0, 1, 0)
    assert other.save() == pc.pit.save()


def test_a_saved_state_does_not_change_with_the_timer(pc):
    program(pc.pit, 0, 2, 1000)
    before = pc.pit.save()

    program(pc.pit, 0, 3, 77)

    assert before.counters[0].count == 1000


@given(
    count=st.integers(2, 65535),
    mode=st.sampled_from([2, 3]),
    naps=st.lists(st.integers(1, 10**9), max_size=20),
)
def test_extra_looks_at_the_timer_change_nothing(count, mode, naps):
    # A debugger may stop the machine anywhere: between two deadlines catching up must leave no trace.
    class Clock:
        now_ns = 0

    calm, nervous = (Pit(Clock, lambda _: None, lambda: None) for _ in range(2))
    for pit in (calm, nervous):
        program(pit, 0, mode, count)
    for nap in naps:
        deadline = nervous.deadline_ns()
        Clock.now_ns = min(Clock.now_ns + nap, deadline)
        nervous.catch_up()
        if Clock.now_ns == deadline:
            calm.catch_up()

    assert calm.save() == nervous.save()


def test_no_guest_can_upset_it(attack):
    attack(lambda clock: Pit(clock, lambda _: None, lambda: None), 5)
