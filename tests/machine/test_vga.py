"""The registers of a VGA; expectations are from the IBM PS/2 Hardware Interface Technical Reference and FreeVGA."""

import pytest

from revirt.machine.bus import Bus
from revirt.machine.vga import Vga

FRAME_NS = 14_268_000
"""Of mode 3: 449 lines of 900 dots at 28.322 MHz."""
LINE_NS = 31_777


@pytest.fixture
def vga(clock):
    return Vga(clock)


@pytest.fixture
def ports(vga):
    ports = Bus()
    ports.map(0x3B4, 2, vga, 0x04)
    ports.map(0x3BA, 1, vga, 0x0A)
    ports.map(0x3C0, 0x10, vga, 0x10)
    ports.map(0x3D4, 2, vga, 0x24)
    ports.map(0x3DA, 1, vga, 0x2A)
    return ports


def read_indexed(ports, port, index):
    ports.write(port, 1, index)
    return ports.read(port + 1, 1)


def test_it_is_in_mode_3_as_a_video_bios_leaves_it(ports):
    columns = read_indexed(ports, 0x3D4, 0x01) + 1
    lines = read_indexed(ports, 0x3D4, 0x12) | (read_indexed(ports, 0x3D4, 0x07) & 0x02) << 7
    height = (read_indexed(ports, 0x3D4, 0x09) & 0x1F) + 1

    assert (columns, (lines + 1) // height, height) == (80, 25, 16)
    assert ports.read(0x3CC, 1) & 0x01
    assert read_indexed(ports, 0x3CE, 0x06) == 0x0E  # text, at 0xB8000


def test_a_word_written_to_an_index_is_index_and_data(ports):
    ports.write(0x3D4, 2, 0x120E)

    assert ports.read(0x3D4, 1) == 0x0E
    assert ports.read(0x3D5, 1) == 0x12


@pytest.mark.parametrize(
    ("port", "index", "shown"),
    [
        (0x3C4, 0, 0x03), (0x3C4, 1, 0x3D), (0x3C4, 2, 0x0F), (0x3C4, 3, 0x3F), (0x3C4, 4, 0x0E), (0x3C4, 5, 0),
        (0x3CE, 0, 0x0F), (0x3CE, 4, 0x03), (0x3CE, 5, 0x7B), (0x3CE, 8, 0xFF), (0x3CE, 9, 0),
        (0x3D4, 0x08, 0x7F), (0x3D4, 0x0A, 0x3F), (0x3D4, 0x0B, 0x7F), (0x3D4, 0x0E, 0xFF), (0x3D4, 0x17, 0xEF),
        (0x3D4, 0x19, 0), (0x3D4, 0xFF, 0),
    ],
)  # fmt: skip
def test_reserved_bits_and_registers_read_as_zero(ports, port, index, shown):
    ports.write(port, 2, 0xFF00 | index)

    assert read_indexed(ports, port, index) == shown


def test_the_crt_controller_moves_to_3b4_for_a_monochrome_monitor(ports):
    ports.write(0x3C2, 1, 0x66)

    ports.write(0x3B4, 2, 0x340E)
    ports.write(0x3D4, 2, 0x990E)

    assert ports.read(0x3B5, 1) == 0x34
    assert ports.read(0x3D5, 1) == 0xFF
    assert ports.read(0x3DA, 1) == 0xFF
    assert ports.read(0x3BA, 1) != 0xFF


def test_protected_timing_registers_keep_all_but_line_compare(ports):
    ports.write(0x3D4, 2, 0x0000)
    ports.write(0x3D4, 2, 0x0007)

    assert read_indexed(ports, 0x3D4, 0x00) == 0x5F
    assert read_indexed(ports, 0x3D4, 0x07) == 0x0F

    ports.write(0x3D4, 2, 0x0E11)
    ports.write(0x3D4, 2, 0x6000)

    assert read_indexed(ports, 0x3D4, 0x00) == 0x60


def test_the_attribute_controller_takes_index_and_data_by_turns(ports):
    ports.read(0x3DA, 1)
    ports.write(0x3C0, 1, 0x10)
    ports.write(0x3C0, 1, 0x41)
    ports.write(0x3C0, 1, 0x20)

    ports.read(0x3DA, 1)
    ports.write(0x3C0, 1, 0x30)

    assert ports.read(0x3C0, 1) == 0x30
    assert ports.read(0x3C1, 1) == 0x41


def test_reading_input_status_1_makes_the_next_byte_an_index(ports):
    ports.read(0x3DA, 1)
    ports.write(0x3C0, 1, 0x11)

    ports.read(0x3DA, 1)
    ports.write(0x3C0, 1, 0x12)

    assert ports.read(0x3C0, 1) == 0x12
    assert ports.read(0x3C1, 1) == 0x0F  # nothing was written to it


def test_the_palette_cannot_be_written_while_it_is_shown(ports):
    ports.read(0x3DA, 1)
    ports.write(0x3C0, 1, 0x21)
    ports.write(0x3C0, 1, 0x3F)
    assert ports.read(0x3C1, 1) == 0x01

    ports.write(0x3C0, 1, 0x01)
    ports.write(0x3C0, 1, 0x3F)
    assert ports.read(0x3C1, 1) == 0x3F


def test_the_dac_takes_colours_in_a_row(ports):
    ports.write(0x3C8, 1, 255)
    for component in (1, 2, 3, 4, 5, 0xFF):
        ports.write(0x3C9, 1, component)

    ports.write(0x3C7, 1, 255)
    assert [ports.read(0x3C9, 1) for _ in range(6)] == [1, 2, 3, 4, 5, 0x3F]
    assert ports.read(0x3C7, 1) == 0x03
    ports.write(0x3C8, 1, 7)
    assert ports.read(0x3C7, 1) == 0x00


def test_brown_is_not_dark_yellow(ports):
    # Attribute 6 goes through palette entry 6 to colour 0x14: red in full, green at a third.
    ports.write(0x3C7, 1, 0x14)

    assert [ports.read(0x3C9, 1) for _ in range(3)] == [0x2A, 0x15, 0x00]


def test_a_guest_that_waits_for_the_retrace_sees_it_come_and_go(ports, clock):
    seen = []
    for line in range(449):
        clock.now_ns = 10 * FRAME_NS + line * LINE_NS + LINE_NS // 4
        seen.append(ports.read(0x3DA, 1) & 0x08)

    # Vertical retrace takes two lines of 449 (CRTC 10 and 11: from 412 until 414).
    assert 1 <= sum(map(bool, seen)) <= 3
    assert not seen[100]


def test_bit_0_of_input_status_1_is_off_only_while_dots_are_shown(ports, clock):
    shown = 0
    for moment in range(20_000):
        clock.now_ns = moment * FRAME_NS // 20_000
        shown += not ports.read(0x3DA, 1) & 0x01

    # 80 of 100 columns and 400 of 449 lines.
    assert shown / 20_000 == pytest.approx(0.8 * 400 / 449, abs=0.01)


def test_whatever_totals_a_guest_sets_the_beam_is_somewhere(ports, clock):
    ports.write(0x3D4, 2, 0x0011)
    for index in (0, 6, 7):
        ports.write(0x3D4, 2, index)

    for now in (0, 1, 10**6, 1 << 62):
        clock.now_ns = now
        assert ports.read(0x3DA, 1) & ~0x09 == 0


def test_its_state_survives_a_file(vga, ports, through_bytes):
    ports.write(0x3D4, 2, 0x120E)
    ports.write(0x3C8, 1, 9)
    ports.write(0x3C9, 1, 9)

    assert through_bytes(vga.save()) == vga.save()


def test_hostile_guest(attack):
    attack(Vga, offsets=0x30)
