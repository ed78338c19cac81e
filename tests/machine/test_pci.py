"""PCI configuration; expectations are from PCI 2.1 and Intel's 82441FX datasheet (290549)."""

import pytest

from revirt.machine.bus import Bus
from revirt.machine.pci import ADDRESS_SIZES, DATA_SIZES, ConfigSpace, Pci

ADDRESS, DATA = 0xCF8, 0xCFC


@pytest.fixture
def pci():
    return Pci()


@pytest.fixture
def ports(pci):
    ports = Bus()
    ports.map(ADDRESS, 4, pci, sizes=ADDRESS_SIZES)
    ports.map(DATA, 4, pci, 4, sizes=DATA_SIZES)
    return ports


def select(ports, device, register, *, bus=0, function=0):
    ports.write(ADDRESS, 4, 0x8000_0000 | bus << 16 | device << 11 | function << 8 | register)


def test_linux_finds_configuration_mechanism_1(ports):
    # pci_check_type1(): a byte to 0xCFB is not for us, then the address register keeps its enable bit.
    ports.write(0xCFB, 1, 0x01)
    before = ports.read(ADDRESS, 4)
    ports.write(ADDRESS, 4, 0x8000_0000)

    assert before == 0
    assert ports.read(ADDRESS, 4) == 0x8000_0000


def test_the_reserved_bits_of_the_address_read_zero(ports):
    ports.write(ADDRESS, 4, 0xFFFF_FFFF)

    assert ports.read(ADDRESS, 4) == 0x80FF_FFFC


@pytest.mark.parametrize("size", [1, 2])
def test_small_accesses_to_the_address_pass_the_bridge_by(ports, size):
    ports.write(ADDRESS, 4, 0x8000_0000)

    ports.write(ADDRESS, size, 0x55)

    assert ports.read(ADDRESS, size) == (1 << 8 * size) - 1
    assert ports.read(ADDRESS, 4) == 0x8000_0000


def test_the_host_bridge_is_an_i440fx(ports):
    select(ports, 0, 0)
    assert ports.read(DATA, 4) == 0x1237_8086

    select(ports, 0, 8)
    assert ports.read(DATA, 4) == 0x0600_0002
    assert ports.read(DATA + 2, 2) == 0x0600
    assert ports.read(DATA + 3, 1) == 0x06


@pytest.mark.parametrize(
    ("device", "bus", "function"), [(1, 0, 0), (31, 0, 0), (0, 1, 0), (0, 0, 1), (31, 255, 7)]
)
def test_absent_functions_read_all_ones(ports, device, bus, function):
    select(ports, device, 0, bus=bus, function=function)
    ports.write(DATA, 4, 0)

    assert ports.read(DATA, 4) == 0xFFFF_FFFF
    assert ports.read(DATA + 1, 1) == 0xFF


def test_without_the_enable_bit_there_is_no_configuration_cycle(ports):
    ports.write(ADDRESS, 4, 0)

    assert ports.read(DATA, 4) == 0xFFFF_FFFF


def test_identity_and_command_cannot_be_written(ports):
    for register in range(0, 0x40, 4):
        select(ports, 0, register)
        before = ports.read(DATA, 4)
        ports.write(DATA, 4, ~before & 0xFFFF_FFFF)

        changed = ports.read(DATA, 4) ^ before
        assert changed == (0xF800 if register == 0x0C else 0)


def test_attribute_registers_keep_what_firmware_writes(ports):
    select(ports, 0, 0x58)

    ports.write(DATA + 1, 1, 0x30)
    ports.write(DATA + 2, 2, 0x3333)

    assert ports.read(DATA, 4) == 0x3333_3000


def test_a_plugged_function_answers(pci, ports):
    pci.plug(3, ConfigSpace(b"\xf4\x1a" + bytes(254), bytes(256)))

    select(ports, 3, 0)

    assert ports.read(DATA, 2) == 0x1AF4


@pytest.mark.parametrize("device", [-1, 0, 32])
def test_a_place_that_is_taken_or_does_not_exist_is_refused(pci, device):
    with pytest.raises(ValueError, match=f"device {device} "):
        pci.plug(device, ConfigSpace(bytes(256), bytes(256)))


def test_a_restored_bridge_goes_on_where_it_was(pci, ports, through_bytes):
    select(ports, 0, 0x58)
    ports.write(DATA, 4, 0x1234_5678)
    other = Pci()

    other.restore(through_bytes(pci.save()))

    assert other.read(4, 4) == ports.read(DATA, 4)
    assert other.save() == pci.save()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_no_guest_can_upset_it(attack, size):
    attack(lambda _: Pci(), 8, sizes=(size,))
