"""The PCI-to-ISA bridge; expectations are from Intel's 82371SB data sheet (290550)."""

from types import SimpleNamespace

import pytest

from revirt.machine.pic import Pic
from revirt.machine.piix3 import ROUTABLE, Piix3

PIRQRC = 0x60
DISABLED = 0x80


@pytest.fixture
def board():
    """A bridge, and the level of every request line that it drives."""
    levels = {}
    bridge = Piix3({irq: lambda level, irq=irq: levels.__setitem__(irq, level) for irq in ROUTABLE})
    bridge.drive()
    return SimpleNamespace(
        bridge=bridge, levels=levels, high=lambda: {irq for irq, level in levels.items() if level}
    )


def test_it_is_the_isa_bridge_of_a_piix3(board):
    assert board.bridge.read_config(0, 4) == 0x7000_8086
    assert board.bridge.read_config(10, 2) == 0x0601
    assert board.bridge.read_config(4, 2) == 7


def test_interrupts_are_routed_as_firmware_leaves_them(board):
    assert board.bridge.read_config(PIRQRC, 4) == 0x0B0B_0A0A
    assert [board.bridge.irq_of(slot) for slot in (1, 2, 3, 4, 5)] == [10, 10, 11, 11, 10]
    assert [board.bridge.irq_of(3, pin) for pin in (1, 2, 3, 4)] == [11, 11, 10, 10]


@pytest.mark.parametrize(("slot", "irq"), [(3, 11), (4, 11), (5, 10), (6, 10)])
def test_a_slot_interrupts_on_its_line(board, slot, irq):
    line = board.bridge.intx(slot)

    line(True)
    assert board.high() == {irq}
    line(False)
    assert board.high() == set()


def test_a_line_is_high_while_any_of_its_slots_is(board):
    third, fourth, seventh = (board.bridge.intx(slot) for slot in (3, 4, 7))

    third(True)
    fourth(True)
    seventh(True)
    third(False)
    assert board.high() == {11}
    seventh(False)
    assert board.high() == {11}
    fourth(False)
    assert board.high() == set()


def test_rerouting_moves_what_is_asserted(board):
    board.bridge.intx(3)(True)

    board.bridge.write_config(PIRQRC + 2, 1, 5)
    assert board.high() == {5}
    assert board.bridge.irq_of(3) == 5
    board.bridge.write_config(PIRQRC + 2, 1, DISABLED | 5)
    assert board.high() == set()
    assert board.bridge.irq_of(3) == 255


@pytest.mark.parametrize("reserved", [0, 1, 2, 8, 13])
def test_a_reserved_request_is_none(board, reserved):
    board.bridge.intx(3)(True)

    board.bridge.write_config(PIRQRC + 2, 1, reserved)

    assert board.high() == set()
    assert board.bridge.read_config(PIRQRC + 2, 1) == reserved


def test_a_request_that_the_isa_bus_shares_is_a_wired_or(board):
    uart = board.bridge.isa(4)
    board.bridge.write_config(PIRQRC + 2, 1, 4)
    slot = board.bridge.intx(3)

    uart(True)
    slot(True)
    slot(False)
    assert board.high() == {4}
    slot(True)
    uart(False)
    assert board.high() == {4}
    slot(False)
    assert board.high() == set()


@pytest.mark.parametrize("irq", [0, 1, 2, 8, 13, 16])
def test_a_request_that_is_not_routed_does_not_pass_through_here(board, irq):
    with pytest.raises(KeyError):
        board.bridge.isa(irq)


def test_a_slot_interrupts_the_cpu_until_it_is_served():
    intr = []
    pic = Pic(intr.append)
    for chip, base, icw3 in ((0, 0x20, 0x04), (2, 0x28, 0x02)):
        pic.write(chip, 1, 0x11)
        for word in (base, icw3, 0x01):
            pic.write(chip + 1, 1, word)
    bridge = Piix3({irq: pic.line(irq) for irq in ROUTABLE})
    for offset, bits in enumerate(bridge.level_triggered, 4):
        pic.write(offset, 1, bits)
    line = bridge.intx(3)

    line(True)
    assert pic.acknowledge() == 0x2B
    for chip in (2, 0):
        pic.write(chip, 1, 0x20)
    assert intr[-1] is True
    line(False)
    assert intr[-1] is False


def test_firmware_finds_again_what_it_wrote(board):
    for register in (0x4C, 0x4E, 0x69, 0x82):
        board.bridge.write_config(register, 1, 0x5A)
        assert board.bridge.read_config(register, 1) == 0x5A

    board.bridge.write_config(0, 4, 0)
    assert board.bridge.read_config(0, 4) == 0x7000_8086


def test_a_restored_bridge_drives_what_it_drove(board, through_bytes):
    board.bridge.write_config(PIRQRC + 2, 1, 5)
    board.bridge.intx(3)(True)
    board.bridge.intx(7)(True)
    board.bridge.isa(12)(True)
    levels = {}
    twin = Piix3({irq: lambda level, irq=irq: levels.__setitem__(irq, level) for irq in ROUTABLE})

    twin.restore(through_bytes(board.bridge.save()))

    assert levels == {}
    assert twin.save() == board.bridge.save()
    twin.drive()
    assert levels == board.levels
    twin.intx(3)(False)
    assert levels[5]
    twin.intx(7)(False)
    assert not levels[5]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_no_guest_can_upset_it(attack, size):
    class Space(Piix3):
        """The configuration space as a device, with interrupts asserted."""

        read = Piix3.read_config
        write = Piix3.write_config

    def make(_clock):
        bridge = Space({irq: lambda _: None for irq in ROUTABLE})
        bridge.intx(3)(True)
        return bridge

    attack(make, 256, sizes=(size,))
