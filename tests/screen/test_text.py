"""Screens of characters.  `debian.window` is what Debian's kernel left at 0xB8000, compressed, when it had booted."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revirt.machine.vga import VgaState
from revirt.screen import PixelScreen, TextScreen, draw, in_colour, png, read_screen

WINDOW = 0xB8000
MIB = 1 << 20
GREY, BLACK, BLUE, WHITE = (170, 170, 170), (0, 0, 0), (0, 0, 170), (255, 255, 255)
FONT = 0xA0000


@pytest.fixture
def ram() -> memoryview:
    return memoryview(bytearray(MIB))


def screen_of(ram: memoryview, **changes: dict[int, int]) -> TextScreen:
    """Return the screen of mode 3 with some registers changed: ``crtc={0x0C: 1}``."""
    state = VgaState()
    for registers, values in changes.items():
        for index, value in values.items():
            getattr(state, registers)[index] = value
    screen = read_screen(ram, state)
    assert isinstance(screen, TextScreen)
    return screen


def write(ram: memoryview, place: int, text: str, attribute: int = 7) -> None:
    """Write *text* at character *place* of the window."""
    cells = b"".join(bytes((char, attribute)) for char in text.encode("cp437"))
    ram[WINDOW + 2 * place : WINDOW + 2 * place + len(cells)] = cells


def dots(screen: PixelScreen, x: int, y: int, width: int, height: int) -> list[str]:
    """Return what is black as a dot and all else as a hash."""
    rows = (screen.row(y + line)[4 * x : 4 * (x + width)] for line in range(height))
    return ["".join(".#"[any(row[at : at + 4])] for at in range(0, len(row), 4)) for row in rows]


def test_a_machine_without_vga_and_framebuffer_has_no_screen(ram):
    assert read_screen(ram, None) is None


def test_what_debian_leaves_on_the_screen_is_read(ram):
    ram[WINDOW : WINDOW + 0x8000] = zlib.decompress(Path(__file__).with_name("debian.window").read_bytes())

    # As its kernel had set them: it scrolls by the start address.
    screen = screen_of(ram, crtc={0x0C: 21, 0x0D: 64, 0x0E: 28, 0x0F: 192})

    lines = screen.text().splitlines()
    assert lines[14] == "revirt: shell ready"
    assert lines[17].startswith("BusyBox v1.35.0 (Debian")
    assert (screen.columns, screen.lines, len(lines)) == (80, 25, 25)
    assert (screen.cursor.column, screen.cursor.line) == (0, 24)


def test_characters_of_the_code_page_become_unicode_and_never_control_characters(ram):
    for number in range(256):
        ram[WINDOW + 2 * number] = number

    shown = screen_of(ram).line(0) + screen_of(ram).line(1) + screen_of(ram).line(2) + screen_of(ram).line(3)

    assert shown[:4] == " ☺☻♥"
    assert shown[0x7F:0x83] == "⌂Çüé"
    assert shown[0xB0:0xB4] == "░▒▓│"
    assert shown[:256].isprintable()
    assert len(shown) == 320


def test_the_start_address_scrolls_and_wraps_in_the_window(ram):
    write(ram, 0x3FFF, "X")
    write(ram, 0, "Y")

    assert screen_of(ram, crtc={0x0C: 0x3F, 0x0D: 0xFF}).line(0).startswith("XY")


def test_lines_below_the_line_compare_come_from_the_beginning(ram):
    write(ram, 0, "status")
    write(ram, 8000, "text")

    # 24 lines of 16 dots, then the split.
    screen = screen_of(ram, crtc={0x0C: 8000 >> 8, 0x0D: 8000 & 0xFF, 0x18: 0x7F, 0x07: 0x1F, 0x09: 0x0F})

    assert screen.line(0).startswith("text")
    assert screen.line(24).startswith("status")


def test_a_cursor_that_is_off_or_elsewhere_is_not_shown(ram):
    assert screen_of(ram, crtc={0x0E: 0x00, 0x0F: 81}).cursor is not None
    assert screen_of(ram, crtc={0x0A: 0x2D}).cursor is None
    assert screen_of(ram, crtc={0x0E: 0x20}).cursor is None
    assert screen_of(ram, crtc={0x0A: 0x0E, 0x0B: 0x0D}).cursor is None


def test_attributes_have_16_backgrounds_or_eight_and_blink(ram):
    blinking = screen_of(ram)
    steady = screen_of(ram, attribute={0x10: 0x04})

    assert blinking.colours(0x97) == (GREY, BLUE)
    assert steady.colours(0x97) == (GREY, (85, 85, 255))
    assert blinking.colours(0x0F) == (WHITE, BLACK)


def test_colours_go_through_palette_and_dac(ram):
    state = VgaState()
    state.attribute[7] = 0x3F
    state.dac[3 * 0x3F : 3 * 0x3F + 3] = [63, 0, 1]

    screen = read_screen(ram, state)

    assert screen.colours(0x07)[0] == (255, 0, 4)


def test_a_letter_is_drawn_in_the_shape_of_the_code_page_font(ram):
    write(ram, 81, "L")

    drawn = draw(screen_of(ram))

    assert (drawn.width, drawn.height) == (720, 400)
    assert dots(drawn, 9, 16, 9, 16) == [
        ".........", ".........", "####.....", ".##......", ".##......", ".##......", ".##......", ".##......",
        ".##......", ".##...#..", ".##..##..", "#######..", ".........", ".........", ".........", ".........",
    ]  # fmt: skip


def test_line_graphics_go_on_in_the_ninth_column(ram):
    write(ram, 0, "═A")

    assert dots(draw(screen_of(ram)), 0, 5, 9, 1) == ["#########"]
    assert dots(draw(screen_of(ram, attribute={0x10: 0x08})), 0, 5, 9, 1) == ["########."]


def test_a_font_that_the_guest_has_loaded_is_used(ram):
    for letter in range(ord("A"), ord("Z") + 1):
        ram[FONT + 32 * letter] = 0x81
    write(ram, 80, "A")

    assert dots(draw(screen_of(ram)), 0, 16, 9, 2) == ["#......#.", "........."]


def test_of_two_fonts_bit_3_of_the_attribute_chooses(ram):
    for number, row in ((0, 0x80), (1, 0x01)):
        for letter in range(ord("A"), ord("Z") + 1):
            ram[FONT + 0x4000 * number + 32 * letter] = row
    write(ram, 80, "A", 0x07)
    write(ram, 81, "A", 0x0F)

    screen = draw(screen_of(ram, sequencer={3: 0x04}))

    assert dots(screen, 0, 16, 18, 1) == ["#...............#."]


def test_the_cursor_covers_its_scan_lines(ram):
    # In the colour of its character, which is black at first.
    write(ram, 0, " ")

    assert dots(draw(screen_of(ram)), 0, 12, 9, 4) == [".........", "#########", "#########", "........."]


def test_a_screen_that_is_off_is_black_but_can_be_read(ram):
    write(ram, 0, "hidden")

    screen = screen_of(ram, sequencer={1: 0x20})

    assert screen.line(0).startswith("hidden")
    drawn = draw(screen)
    assert drawn.note
    assert not any(drawn.pixels)


def test_a_picture_is_a_png_that_holds_every_dot(ram):
    write(ram, 0, "A")
    drawn = draw(screen_of(ram))

    data = png(drawn)

    assert data.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (720).to_bytes(4) + (400).to_bytes(4))
    start = data.index(b"IDAT") + 4
    rows = zlib.decompress(data[start : data.index(b"IEND") - 8])
    assert len(rows) == 400 * (1 + 3 * 720)
    assert rows[2161 * 5 + 1 :][: 3 * 720] == drawn.rgb()[2160 * 5 :][: 3 * 720]


def test_a_terminal_gets_the_characters_and_nothing_beyond_its_edges(ram):
    write(ram, 0, "A" * 80)
    write(ram, 80, "\x1b[2J", 0x1F)

    shown = in_colour(screen_of(ram), 40, 10)

    lines = shown.plain.split("\n")
    assert len(lines) == 10, "also those that are empty"
    assert lines[0] == "A" * 40
    assert lines[1].startswith("←[2J")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_guest_writes_into_registers_there_is_a_screen(data):
    state = VgaState()
    for registers in (state.crtc, state.sequencer, state.graphics, state.attribute):
        registers[:] = data.draw(
            st.lists(st.integers(0, 255), min_size=len(registers), max_size=len(registers))
        )
    size = data.draw(st.sampled_from([0x10000, 0xA1000, 0xB8010, MIB]))
    ram = memoryview(bytearray(data.draw(st.binary(min_size=256, max_size=256)) * (size // 256)).ljust(size))

    screen = read_screen(ram, state)

    drawn = draw(screen)
    assert len(drawn.pixels) == 4 * drawn.width * drawn.height <= 4 * 2304 * 2048
    if isinstance(screen, TextScreen):
        assert len(screen.cells) == 2 * screen.columns * screen.lines
        assert screen.text().isprintable() or "\n" in screen.text()
    in_colour(screen, 80, 25)
