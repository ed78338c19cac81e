import pytest

from revirt.machine.bus import Bus, MmioBus


class Registers:
    """A device that keeps what is written and notes each access."""

    def __init__(self, name="registers"):
        self.name = name
        self.memory = bytearray(64)
        self.accesses = []

    def read(self, offset, size):
        self.accesses.append(("read", offset, size))
        return int.from_bytes(self.memory[offset : offset + size], "little")

    def write(self, offset, size, value):
        self.accesses.append(("write", offset, size))
        self.memory[offset : offset + size] = value.to_bytes(size, "little")


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF)])
def test_a_port_where_nobody_answers_reads_all_ones(size, ones):
    bus = Bus()

    bus.write(0x80, size, 0)

    assert bus.read(0x80, size) == ones


def test_the_device_sees_offsets_not_ports():
    bus, device = Bus(), Registers()
    bus.map(0x3F8, 8, device, 16)

    bus.write(0x3FB, 1, 0x5A)

    assert device.accesses == [("write", 19, 1)]
    assert bus.read(0x3FB, 1) == 0x5A


@pytest.mark.parametrize("size", [2, 4])
def test_a_wide_access_to_byte_registers_is_split_in_ascending_order(size):
    bus, device = Bus(), Registers()
    bus.map(0x3F8, 8, device)

    bus.write(0x3F8, size, 0x4433_2211 & (1 << 8 * size) - 1)

    assert device.accesses == [("write", offset, 1) for offset in range(size)]
    assert bus.read(0x3F8, size) == 0x4433_2211 & (1 << 8 * size) - 1


def test_an_access_across_the_end_of_a_device_reads_ones_beyond():
    bus, device = Bus(), Registers()
    bus.map(0x60, 1, device)
    device.memory[0] = 0x12

    assert bus.read(0x60, 4) == 0xFFFF_FF12


def test_an_access_at_the_last_port_does_not_wrap():
    bus, device = Bus(), Registers()
    bus.map(0, 1, device)

    bus.write(0xFFFF, 4, 0)

    assert bus.read(0xFFFF, 4) == 0xFFFF_FFFF
    assert device.accesses == []


def test_a_device_gets_whole_the_sizes_it_takes():
    bus, device = Bus(), Registers()
    bus.map(0xCFC, 4, device, 4, sizes=(1, 2, 4))

    bus.write(0xCFC, 4, 0x8765_4321)
    bus.read(0xCFE, 2)
    bus.read(0xCFD, 1)

    assert device.accesses == [("write", 4, 4), ("read", 6, 2), ("read", 5, 1)]


def test_a_misaligned_access_is_split_even_for_a_device_that_takes_wide_ones():
    bus, device = Bus(), Registers()
    bus.map(0xCFC, 4, device, sizes=(1, 2, 4))

    bus.read(0xCFD, 2)

    assert device.accesses == [("read", 1, 1), ("read", 2, 1)]


def test_a_byte_register_may_lie_inside_a_register_that_takes_dwords_only():
    bus, address, reset = Bus(), Registers("address"), Registers("reset")
    bus.map(0xCF8, 4, address, sizes=(4,))
    bus.map(0xCF9, 1, reset)

    bus.write(0xCF8, 4, 1)
    bus.write(0xCF9, 1, 2)
    bus.write(0xCF8, 2, 3)

    assert address.accesses == [("write", 0, 4)]
    assert reset.accesses == [("write", 0, 1), ("write", 0, 1)]


def test_overlapping_ports_are_refused_and_nothing_is_mapped():
    bus, first, second = Bus(), Registers("first"), Registers("second")
    bus.map(0x64, 1, first)

    with pytest.raises(ValueError, match=r"port 0x64 of second belongs to first"):
        bus.map(0x60, 8, second)

    bus.write(0x60, 1, 0)
    assert second.accesses == []


def test_memory_where_nobody_answers_reads_all_ones():
    bus = MmioBus()

    bus.write(0xFEE0_0000, 8, 0)

    assert bus.read(0xFEE0_0000, 8) == 0xFFFF_FFFF_FFFF_FFFF


def test_memory_mapped_devices_are_found_by_address():
    bus, low, high = MmioBus(), Registers("low"), Registers("high")
    bus.map(0xFEC0_0000, 0x20, high)
    bus.map(0xE000_0000, 0x1000_0000, low)

    bus.read(0xE000_0010, 4)
    bus.read(0xFEC0_001C, 4)
    bus.read(0xFEC0_0020, 4)

    assert low.accesses == [("read", 0x10, 4)]
    assert high.accesses == [("read", 0x1C, 4)]


def test_a_memory_access_wider_than_the_device_takes_is_split():
    bus, device = MmioBus(), Registers()
    bus.map(0xFEC0_0000, 0x10, device, sizes=(4,))

    bus.write(0xFEC0_0000, 8, 0x8877_6655_4433_2211)

    assert device.accesses == [("write", 0, 4), ("write", 4, 4)]
    assert bus.read(0xFEC0_0000, 8) == 0x8877_6655_4433_2211
    assert bus.read(0xFEC0_0000, 1) == 0xFF


@pytest.mark.parametrize("start", [0x0F00, 0x1000, 0x10FF])
def test_overlapping_memory_ranges_are_refused(start):
    bus = MmioBus()
    bus.map(0x1000, 0x100, Registers("first"))

    with pytest.raises(ValueError, match=r"second at \w+ overlaps first at 0x1000"):
        bus.map(start, 0x200, Registers("second"))


def test_memory_ranges_may_touch():
    bus = MmioBus()
    bus.map(0x1000, 0x100, Registers())

    bus.map(0x0F00, 0x100, Registers())
    bus.map(0x1100, 0x100, Registers())
