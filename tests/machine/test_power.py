"""The ways out; expectations are from Intel's 82371SB datasheet, ACPI 6, and the ports QEMU's guests use."""

import pytest

from revirt.machine.bus import Bus
from revirt.machine.power import EXIT, POWER_OFF, RESET, Power


@pytest.fixture
def ends():
    return []


@pytest.fixture
def power(ends):
    return Power(lambda reason, code: ends.append((reason, code)))


@pytest.fixture
def ports(power):
    ports = Bus()
    ports.map(0xCF9, 1, power, 0)
    ports.map(0x92, 1, power, 1)
    ports.map(0x604, 2, power, 2)
    ports.map(0xB004, 2, power, 2)
    ports.map(0xF4, 1, power, 4)
    return ports


def test_linux_reboots_through_the_reset_control_register(ports, ends):
    # native_machine_emergency_restart(), BOOT_CF9_FORCE: announce a hard reset, then do it.
    control = ports.read(0xCF9, 1) & ~0x0E
    ports.write(0xCF9, 1, control | 0x02)
    assert ends == []

    ports.write(0xCF9, 1, control | 0x0E)

    assert ends == [(RESET, None)]


def test_a_reset_bit_that_is_set_already_does_not_reset_again(ports, ends):
    ports.write(0xCF9, 1, 0x06)
    ports.write(0xCF9, 1, 0x06)

    assert len(ends) == 1


def test_port_92_resets_when_bit_0_rises(ports, ends):
    assert ports.read(0x92, 1) == 0x02
    ports.write(0x92, 1, 0x00)
    assert ends == []

    ports.write(0x92, 1, 0x03)

    assert ends == [(RESET, None)]
    assert ports.read(0x92, 1) == 0x03


@pytest.mark.parametrize("port", [0x604, 0xB004])
def test_power_goes_off_by_sleep_enable(ports, ends, port):
    ports.write(port, 2, 0x2000)

    assert ends == [(POWER_OFF, None)]


def test_other_sleep_types_do_not_power_off(ports, ends):
    ports.write(0x604, 2, 0x3C00)
    ports.write(0x604, 2, 0x0001)

    assert ends == []


def test_sleep_enable_reads_zero(ports):
    ports.write(0x604, 2, 0x3401)

    assert ports.read(0x604, 2) == 0x1401


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_debug_exit_gives_its_code_once(ports, ends, size):
    ports.write(0xF4, size, 0x2A)

    assert ends == [(EXIT, 0x2A)]


def test_the_debug_exit_cannot_be_read(ports):
    assert ports.read(0xF4, 1) == 0xFF


def test_a_restored_register_remembers_its_bits(ports, power, ends, through_bytes):
    ports.write(0xCF9, 1, 0x04)
    ports.write(0x604, 2, 0x1C02)
    other = Power(lambda reason, code: ends.append((reason, code)))

    other.restore(through_bytes(power.save()))

    other.write(0, 1, 0x04)
    assert len(ends) == 1
    assert other.save() == power.save()


def test_no_guest_can_upset_it(attack):
    attack(lambda _: Power(lambda *_: None), 5)
