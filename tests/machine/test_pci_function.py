"""PCI functions with windows, interrupts and capabilities; expectations are from PCI 3.0, chapter 6."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from revirt.machine.bus import Bus, MmioBus
from revirt.machine.pci import ADDRESS_SIZES, CONFIG_ADDRESS, CONFIG_DATA, DATA_SIZES, Pci
from revirt.machine.pci_function import Bar, Capability, Endpoint, Identity, preset
from revirt.machine.state import State

COMMAND, STATUS, BAR0, BAR1, CAPABILITIES, LINE, PIN = 4, 6, 0x10, 0x14, 0x34, 0x3C, 0x3D
IO, MEMORY, MASTER, INTX_DISABLE = 1, 2, 4, 0x400
IDENTITY = Identity(0x1AF4, 0x1234, 0x020000, 0x1AF4, 7, revision=3)


class Registers:
    """Bytes that are read as written; an access that leaves them fails the test."""

    name = "registers"

    def __init__(self, size):
        self.bytes = bytearray(size)

    def read(self, offset, size):
        assert offset + size <= len(self.bytes)
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset, size, value):
        assert offset + size <= len(self.bytes)
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")


def make(**more):
    ports, memory = Registers(32), Registers(4096)
    bars = {0: Bar(32, True, ports), 1: Bar(4096, False, memory)}
    return SimpleNamespace(function=Endpoint(IDENTITY, bars=bars, **more), ports=ports, memory=memory)


@pytest.fixture
def board():
    """A bus with two such functions, in slots 3 and 4."""
    pci, ports, mmio = Pci(), Bus(), MmioBus()
    first, second = make(), make()
    pci.plug(4, second.function)
    pci.plug(3, first.function)
    ports.map(0xCF8, 4, pci, CONFIG_ADDRESS, sizes=ADDRESS_SIZES)
    ports.map(0xCFC, 4, pci, CONFIG_DATA, sizes=DATA_SIZES)
    ports.ask_elsewhere(pci.find_port)
    mmio.ask_elsewhere(pci.find_memory)
    return SimpleNamespace(pci=pci, ports=ports, mmio=mmio, first=first, second=second)


def enable(function, *, port=0xC000, memory=0xFEB0_0000, command=IO | MEMORY):
    function.write_config(BAR0, 4, port)
    function.write_config(BAR1, 4, memory)
    function.write_config(COMMAND, 2, command)


def test_a_function_says_what_it_is():
    function = make().function

    assert function.read_config(0, 4) == 0x1234_1AF4
    assert function.read_config(8, 4) == 0x0200_0003
    assert function.read_config(0x0E, 1) == 0
    assert function.read_config(0x2C, 4) == 0x0007_1AF4
    assert function.read_config(PIN, 1) == 0


@pytest.mark.parametrize(("register", "answer"), [(BAR0, 0xFFFF_FFE1), (BAR1, 0xFFFF_F000), (0x18, 0)])
def test_the_size_of_a_window_is_found_by_writing_ones(register, answer):
    # 6.2.5.1
    function = make().function

    function.write_config(register, 4, 0xFFFF_FFFF)

    assert function.read_config(register, 4) == answer


def test_a_window_is_aligned_to_its_size():
    function = make().function

    function.write_config(BAR0, 4, 0xC01F)
    function.write_config(BAR1, 4, 0xFEB0_0FFF)

    assert function.read_config(BAR0, 4) == 0xC001
    assert function.read_config(BAR1, 4) == 0xFEB0_0000


def test_windows_answer_only_while_the_command_register_allows_their_kind(board):
    function = board.first.function
    board.first.ports.bytes[0] = board.first.memory.bytes[0] = 0x5A

    for command, port, memory in (
        (0, 0xFF, 0xFF),
        (IO, 0x5A, 0xFF),
        (MEMORY, 0xFF, 0x5A),
        (IO | MEMORY, 0x5A, 0x5A),
    ):
        enable(function, command=command)
        assert board.ports.read(0xC000, 1) == port
        assert board.mmio.read(0xFEB0_0000, 1) == memory


def test_a_window_answers_where_it_was_moved_to_and_nowhere_else(board):
    enable(board.first.function)
    board.ports.write(0xC01C, 4, 0x1234_5678)

    board.first.function.write_config(BAR0, 4, 0xD000)

    assert board.ports.read(0xD01C, 4) == 0x1234_5678
    assert board.ports.read(0xC01C, 4) == 0xFFFF_FFFF


def test_an_access_across_the_end_of_a_window_is_split(board):
    enable(board.first.function)
    board.first.memory.bytes[-2:] = b"\x34\x12"
    board.first.ports.bytes[-1] = 0x56

    assert board.mmio.read(0xFEB0_0FFE, 4) == 0xFFFF_1234
    assert board.mmio.read(0xFEB0_0FFC, 8) == 0xFFFF_FFFF_1234_0000
    assert board.ports.read(0xC01F, 2) == 0xFF56


def test_an_access_of_8_bytes_is_two_of_4(board):
    enable(board.first.function)

    board.mmio.write(0xFEB0_0010, 8, 0x8877_6655_4433_2211)

    assert board.first.memory.bytes[0x10:0x18] == bytes.fromhex("1122334455667788")


def test_where_windows_overlap_the_lowest_slot_answers(board):
    enable(board.first.function)
    enable(board.second.function)
    board.first.ports.bytes[0], board.second.ports.bytes[0] = 1, 2

    assert board.ports.read(0xC000, 1) == 1
    board.first.function.write_config(COMMAND, 2, 0)
    assert board.ports.read(0xC000, 1) == 2


def test_what_is_wired_answers_before_a_window(board):
    uart = Registers(8)
    board.ports.map(0x3F8, 8, uart)
    enable(board.first.function, port=0x3E0)
    board.first.ports.bytes[:] = b"\x77" * 32

    board.ports.write(0x3F8, 4, 0x4433_2211)

    assert board.ports.read(0x3F8, 4) == 0x4433_2211
    assert uart.bytes[:4] == b"\x11\x22\x33\x44"
    assert board.ports.read(0x3F4, 4) == 0x7777_7777


def test_a_window_of_memory_behind_one_that_is_wired_is_found(board):
    wired = Registers(0x20)
    board.mmio.map(0xFEC0_0000, 0x20, wired)
    enable(board.first.function, memory=0xFEC0_0000)
    board.first.memory.bytes[0x20] = 0x5A

    assert board.mmio.read(0xFEC0_0000, 1) == 0
    assert board.mmio.read(0xFEC0_0020, 1) == 0x5A


def test_a_window_of_ports_beyond_the_last_port_is_out_of_reach(board):
    enable(board.first.function, port=0x1_C000)

    assert board.ports.read(0xC000, 1) == 0xFF


# -- interrupts ---------------------------------------------------------------------------------------------------


def test_the_interrupt_pin_reaches_its_line_unless_that_is_disabled():
    # 6.2.2 and 6.2.3
    levels = []
    function = make(irq=levels.append).function
    assert function.read_config(PIN, 1) == 1

    function.set_pin(True)
    assert levels[-1] is True
    assert function.read_config(STATUS, 2) & 8
    assert function.read_config(COMMAND, 4) & 8 << 16

    function.write_config(COMMAND, 2, INTX_DISABLE)
    assert levels[-1] is False
    assert function.read_config(STATUS, 2) & 8

    function.write_config(COMMAND, 2, 0)
    assert levels[-1] is True
    function.set_pin(False)
    assert levels[-1] is False
    assert not function.read_config(STATUS, 2) & 8


# -- capabilities -------------------------------------------------------------------------------------------------


def test_capabilities_are_a_list():
    # 6.7
    entries = [Capability(b"\x09\x00\x07abcd"), Capability(b"\x09\x00\x04e", b"\x00\xff\x00\xff")]
    function = make(capabilities=entries).function
    assert function.read_config(STATUS, 2) & 0x10

    first = function.read_config(CAPABILITIES, 1)
    second = function.read_config(first + 1, 1)

    assert [function.read_config(first + place, 1) for place in (0, 2, 3, 6)] == [9, 7, ord("a"), ord("d")]
    assert second % 4 == 0
    assert function.read_config(second + 1, 1) == 0
    assert function.capability_places == [first, second]


def test_software_changes_only_what_it_may_of_a_capability():
    entries = [Capability(b"\x09\x00\x08\x00abcd", bytes(4) + b"\xff\x0f")]
    function = make(capabilities=entries).function
    place = function.capability_places[0]

    for register in (place, place + 4):
        function.write_config(register, 4, 0)

    assert function.read_config(place, 4) == 0x0008_0009
    assert function.read_config(place + 4, 4) == int.from_bytes(b"\x00\x60cd", "little")


def test_a_function_without_capabilities_says_so():
    function = make().function

    assert not function.read_config(STATUS, 2) & 0x10
    assert function.read_config(CAPABILITIES, 1) == 0


# -- firmware and state -------------------------------------------------------------------------------------------


def test_functions_are_left_as_by_firmware():
    first, second = make(irq=lambda _: None).function, make().function

    preset([(3, first), (4, second)], lambda slot: 8 + slot)

    assert [each.read_config(BAR0, 4) for each in (first, second)] == [0xC001, 0xC021]
    assert [each.read_config(BAR1, 4) for each in (first, second)] == [0xFEB0_0000, 0xFEB0_1000]
    assert first.read_config(COMMAND, 2) == IO | MEMORY | MASTER
    assert (first.read_config(LINE, 1), second.read_config(LINE, 1)) == (11, 0)


def test_a_restored_function_answers_where_it_was(board):
    enable(board.first.function, port=0xD000, command=IO)
    saved = board.first.function.save_config()
    enable(board.first.function, command=0)

    board.first.function.restore_config(saved, pin=True)

    assert board.ports.read(0xD000, 1) == 0
    assert board.first.function.read_config(STATUS, 2) & 8
    assert board.first.function.save_config() == saved


def test_a_state_cannot_make_another_function_of_it():
    function = make().function

    function.restore_config(bytes(range(256)), pin=False)

    assert function.read_config(0, 4) == 0x1234_1AF4
    assert function.read_config(BAR0, 4) & 0x1F == 1


@dataclass
class SpaceState(State):
    """A configuration space."""

    config: bytes


@pytest.mark.parametrize("size", [1, 2, 4])
def test_no_guest_can_upset_it(attack, size):
    class Space:
        """The configuration space as a device, with one window behind it."""

        def __init__(self):
            self.function = make(irq=lambda _: None, capabilities=[Capability(b"\x09\x00\x04\x00")]).function

        def read(self, offset, size):
            return self.function.read_config(offset, size)

        def write(self, offset, size, value):
            self.function.write_config(offset, size, value)

        def save(self):
            return SpaceState(self.function.save_config())

        def restore(self, state):
            self.function.restore_config(state.config, pin=False)

    attack(lambda _: Space(), 256, sizes=(size,))
