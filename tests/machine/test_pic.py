"""The 8259A pair; expectations are from Intel's datasheet 231468."""

from types import SimpleNamespace

import pytest

from revirt.machine.pic import Pic

MASTER, SLAVE, ELCR = 0, 2, 4
COMMAND, DATA = 0, 1

EOI = 0x20
SPECIFIC_EOI = 0x60
READ_IRR, READ_ISR = 0x0A, 0x0B
POLL = 0x0C
SET_SPECIAL_MASK, CLEAR_SPECIAL_MASK = 0x68, 0x48


def initialise(pic, *, icw1=0x11, icw4=0x01, slave_icw4=0x01):
    for chip, base, icw3, last in ((MASTER, 0x20, 0x04, icw4), (SLAVE, 0x28, 0x02, slave_icw4)):
        pic.write(chip + COMMAND, 1, icw1)
        pic.write(chip + DATA, 1, base)
        pic.write(chip + DATA, 1, icw3)
        pic.write(chip + DATA, 1, last)


@pytest.fixture
def pc():
    """An initialised pair with its INTR line and the sixteen request lines."""
    intr = []
    pic = Pic(intr.append)
    initialise(pic)
    lines = [pic.line(irq) if irq != 2 else None for irq in range(16)]
    return SimpleNamespace(pic=pic, intr=intr, lines=lines)


def read(pic, chip, what):
    pic.write(chip + COMMAND, 1, what)
    return pic.read(chip + COMMAND, 1)


def pulse(line):
    line(True)
    line(False)


def test_a_request_raises_intr_and_its_acknowledge_lowers_it(pc):
    pc.lines[4](True)

    assert pc.intr[-1] is True
    assert pc.pic.output is True
    assert pc.pic.acknowledge() == 0x24
    assert pc.intr[-1] is False
    assert read(pc.pic, MASTER, READ_ISR) == 0x10


def test_an_edge_interrupts_once_however_long_the_line_stays_high(pc):
    pc.lines[4](True)
    pc.pic.acknowledge()
    pc.pic.write(MASTER, 1, EOI)

    pc.lines[4](True)

    assert not pc.pic.output


def test_an_edge_is_kept_although_the_line_falls_before_the_acknowledge(pc):
    pulse(pc.lines[0])

    assert pc.pic.acknowledge() == 0x20


def test_a_level_triggered_request_lasts_as_long_as_its_line(pc):
    pc.pic.write(ELCR + 1, 1, 0x08)
    pc.lines[11](True)

    assert pc.pic.acknowledge() == 0x2B
    pc.pic.write(SLAVE, 1, EOI)
    pc.pic.write(MASTER, 1, EOI)
    assert pc.pic.output

    pc.lines[11](False)
    assert not pc.pic.output


def test_level_mode_of_icw1_makes_every_line_level_triggered(pc):
    initialise(pc.pic, icw1=0x19)
    pc.lines[3](True)
    pc.pic.acknowledge()

    pc.pic.write(MASTER, 1, EOI)

    assert pc.pic.acknowledge() == 0x23


def test_system_lines_cannot_be_made_level_triggered(pc):
    pc.pic.write(ELCR, 1, 0xFF)
    pc.pic.write(ELCR + 1, 1, 0xFF)

    assert pc.pic.read(ELCR, 1) == 0xF8
    assert pc.pic.read(ELCR + 1, 1) == 0xDE


def test_a_request_that_went_away_is_acknowledged_as_level_7(pc):
    pc.pic.write(ELCR, 1, 0x10)
    pc.lines[4](True)
    pc.lines[4](False)

    assert pc.pic.acknowledge() == 0x27
    assert read(pc.pic, MASTER, READ_ISR) == 0


def test_a_slave_that_lost_its_request_is_acknowledged_as_level_15(pc):
    pc.lines[11](True)
    state = pc.pic.save()
    state.slave.irr = 0
    pc.pic.restore(state)

    assert pc.pic.acknowledge() == 0x2F
    # Software must know: the master serves the cascade, the slave serves nothing.
    assert read(pc.pic, MASTER, READ_ISR) == 0x04
    assert read(pc.pic, SLAVE, READ_ISR) == 0


def test_the_slave_interrupts_through_the_cascade(pc):
    pc.lines[8](True)

    assert read(pc.pic, MASTER, READ_IRR) == 0x04
    assert pc.pic.acknowledge() == 0x28
    assert read(pc.pic, MASTER, READ_ISR) == 0x04
    assert read(pc.pic, SLAVE, READ_ISR) == 0x01


def test_a_lower_priority_waits_for_the_end_of_interrupt(pc):
    pulse(pc.lines[1])
    pulse(pc.lines[3])
    assert pc.pic.acknowledge() == 0x21
    assert not pc.pic.output

    pc.pic.write(MASTER, 1, EOI)

    assert pc.pic.acknowledge() == 0x23


def test_a_higher_priority_interrupts_one_in_service(pc):
    pulse(pc.lines[3])
    pc.pic.acknowledge()

    pulse(pc.lines[1])

    assert pc.pic.acknowledge() == 0x21
    assert read(pc.pic, MASTER, READ_ISR) == 0x0A


def test_masked_requests_wait_in_irr(pc):
    pc.pic.write(MASTER + DATA, 1, 0x10)
    pulse(pc.lines[4])

    assert not pc.pic.output
    assert pc.pic.read(MASTER + DATA, 1) == 0x10
    assert read(pc.pic, MASTER, READ_IRR) == 0x10

    pc.pic.write(MASTER + DATA, 1, 0)
    assert pc.pic.acknowledge() == 0x24


def test_a_specific_end_of_interrupt_ends_the_level_it_names(pc):
    pulse(pc.lines[3])
    pc.pic.acknowledge()
    pulse(pc.lines[1])
    pc.pic.acknowledge()

    pc.pic.write(MASTER, 1, SPECIFIC_EOI | 3)

    assert read(pc.pic, MASTER, READ_ISR) == 0x02


def test_rotation_on_end_of_interrupt_makes_the_served_level_lowest(pc):
    # Datasheet, figure "Rotation on non-specific EOI": after IR4 is served, IR5 is highest.
    pulse(pc.lines[4])
    pc.pic.acknowledge()
    pc.pic.write(MASTER, 1, 0xA0)
    for irq in (0, 4, 5):
        pulse(pc.lines[irq])

    assert pc.pic.acknowledge() == 0x25
    pc.pic.write(MASTER, 1, EOI)
    assert pc.pic.acknowledge() == 0x20
    pc.pic.write(MASTER, 1, EOI)
    assert pc.pic.acknowledge() == 0x24


def test_set_priority_names_the_lowest_level(pc):
    pc.pic.write(MASTER, 1, 0xC5)
    for irq in (0, 5, 6):
        pulse(pc.lines[irq])

    assert pc.pic.acknowledge() == 0x26


def test_automatic_end_of_interrupt_leaves_nothing_in_service(pc):
    initialise(pc.pic, icw4=0x03)
    pulse(pc.lines[4])

    pc.pic.acknowledge()

    assert read(pc.pic, MASTER, READ_ISR) == 0


def test_rotation_in_automatic_end_of_interrupt_mode(pc):
    initialise(pc.pic, icw4=0x03)
    pc.pic.write(MASTER, 1, 0x80)
    pulse(pc.lines[3])
    pc.pic.acknowledge()
    for irq in (1, 4):
        pulse(pc.lines[irq])

    assert pc.pic.acknowledge() == 0x24


def test_special_mask_mode_lets_lower_priorities_through(pc):
    pulse(pc.lines[1])
    pc.pic.acknowledge()
    pc.pic.write(MASTER + DATA, 1, 0x02)
    pulse(pc.lines[6])
    assert not pc.pic.output

    pc.pic.write(MASTER, 1, SET_SPECIAL_MASK)

    assert pc.pic.acknowledge() == 0x26
    # A non-specific EOI does not see the level that special mask mode hides.
    pc.pic.write(MASTER, 1, EOI)
    assert read(pc.pic, MASTER, READ_ISR) == 0x02
    pc.pic.write(MASTER, 1, CLEAR_SPECIAL_MASK)
    pc.pic.write(MASTER, 1, EOI)
    assert read(pc.pic, MASTER, READ_ISR) == 0


def test_in_fully_nested_mode_a_slave_in_service_bars_its_own_higher_requests(pc):
    pulse(pc.lines[12])
    pc.pic.acknowledge()

    pulse(pc.lines[9])

    assert not pc.pic.output


def test_special_fully_nested_mode_lets_a_slave_interrupt_itself(pc):
    initialise(pc.pic, icw4=0x11)
    pulse(pc.lines[12])
    pc.pic.acknowledge()

    pulse(pc.lines[9])
    pulse(pc.lines[5])

    assert pc.pic.acknowledge() == 0x29
    assert not pc.pic.output


def test_poll_acknowledges_and_names_the_level(pc):
    pulse(pc.lines[6])

    pc.pic.write(MASTER, 1, POLL)

    assert pc.pic.read(MASTER, 1) == 0x86
    assert read(pc.pic, MASTER, READ_ISR) == 0x40
    assert not pc.pic.output


def test_poll_without_a_request_reads_zero(pc):
    pc.pic.write(SLAVE, 1, POLL)

    assert pc.pic.read(SLAVE + DATA, 1) == 0


def test_icw1_clears_the_mask_and_waits_for_new_edges(pc):
    pc.pic.write(MASTER + DATA, 1, 0xFF)
    pc.lines[4](True)

    initialise(pc.pic)

    assert pc.pic.read(MASTER + DATA, 1) == 0
    assert not pc.pic.output
    pc.lines[4](False)
    pc.lines[4](True)
    assert pc.pic.acknowledge() == 0x24


def test_a_single_8259a_takes_no_icw3(pc):
    pc.pic.write(MASTER, 1, 0x13)
    pc.pic.write(MASTER + DATA, 1, 0x40)
    pc.pic.write(MASTER + DATA, 1, 0x01)
    pc.pic.write(MASTER + DATA, 1, 0xFE)

    assert pc.pic.read(MASTER + DATA, 1) == 0xFE
    pulse(pc.lines[0])
    assert pc.pic.acknowledge() == 0x40


def test_without_ic4_no_icw4_is_awaited(pc):
    initialise(pc.pic, icw4=0x03)
    pc.pic.write(MASTER, 1, 0x10)
    pc.pic.write(MASTER + DATA, 1, 0x40)
    pc.pic.write(MASTER + DATA, 1, 0x04)
    pc.pic.write(MASTER + DATA, 1, 0x5A)

    assert pc.pic.read(MASTER + DATA, 1) == 0x5A


@pytest.mark.parametrize("irq", [-1, 2, 16])
def test_lines_that_no_device_can_have_are_refused(irq):
    with pytest.raises(ValueError, match=str(irq)):
        Pic(lambda _: None).line(irq)


def test_a_restored_pair_goes_on_where_it_was(pc, through_bytes):
    initialise(pc.pic, icw4=0x11)
    pulse(pc.lines[12])
    pc.pic.acknowledge()
    pulse(pc.lines[9])
    pc.pic.write(MASTER, 1, 0xC3)
    intr = []
    other = Pic(intr.append)

    other.restore(through_bytes(pc.pic.save()))

    assert intr == []
    other.drive()
    assert intr == [True]
    assert other.save() == pc.pic.save()
    assert other.acknowledge() == pc.pic.acknowledge() == 0x29


def test_no_guest_can_upset_it(attack):
    def make(_clock):
        pic = Pic(lambda _: None)
        initialise(pic)
        for irq in (0, 4, 9, 12):
            pic.line(irq)(True)
        return pic

    attack(make, 6)
