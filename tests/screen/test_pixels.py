"""Screens of pixels: framebuffers and mode 13h."""

from __future__ import annotations

import pytest

from revirt.image.display import Framebuffer
from revirt.machine.vga import VgaState
from revirt.screen import PixelScreen, draw, in_colour, read_screen

MIB = 1 << 20
RED, BLUE = b"\0\0\xff\0", b"\xff\0\0\0"


@pytest.fixture
def ram() -> memoryview:
    return memoryview(bytearray(8 * MIB))


def mode_13h() -> VgaState:
    """Return the registers of 320x200 pixels, a byte each, as the PS/2 BIOS sets them."""
    state = VgaState()
    state.misc = 0x63
    state.sequencer[:] = bytes.fromhex("03 01 0f 00 0e")
    state.crtc[:] = bytes.fromhex(
        "5f 4f 50 82 54 80 bf 1f 00 41 00 00 00 00 00 00 9c 8e 8f 28 40 96 b9 a3 ff"
    )
    state.graphics[:] = bytes.fromhex("00 00 00 00 00 40 05 0f ff")
    state.attribute[0x10:] = bytes.fromhex("41 00 0f 00 00")
    return state


def test_a_framebuffer_is_shown_as_it_lies_in_memory(ram):
    framebuffer = Framebuffer.at_top(8 * MIB, 640, 480)
    ram[framebuffer.base + 4 : framebuffer.base + 8] = RED
    ram[framebuffer.base + framebuffer.stride : framebuffer.base + framebuffer.stride + 4] = BLUE

    screen = read_screen(ram, None, framebuffer)

    assert (screen.width, screen.height) == (640, 480)
    assert screen.row(0)[:12] == bytes(4) + RED + bytes(4)
    assert screen.row(1)[:4] == BLUE
    assert screen.rgb()[:9] == b"\0\0\0\xff\0\0\0\0\0"
    assert draw(screen) is screen


def test_a_framebuffer_goes_before_the_vga(ram):
    framebuffer = Framebuffer.at_top(8 * MIB, 640, 480)

    assert isinstance(read_screen(ram, VgaState(), framebuffer), PixelScreen)


def test_mode_13h_shows_bytes_in_the_colours_of_the_dac(ram):
    state = mode_13h()
    state.dac[3 * 200 : 3 * 200 + 3] = [63, 0, 0]
    ram[0xA0000 + 320 * 199 + 319] = 200

    screen = read_screen(ram, state)

    assert (screen.width, screen.height) == (320, 200)
    assert screen.row(199)[-8:] == bytes(4) + RED


def test_graphics_with_planes_are_said_to_be_lost(ram):
    state = mode_13h()
    state.sequencer[4] = 0x06

    screen = read_screen(ram, state)

    assert "planes" in screen.note
    assert not any(screen.pixels)


def test_a_terminal_gets_half_blocks_that_fit(ram):
    framebuffer = Framebuffer.at_top(8 * MIB, 640, 480)
    ram[framebuffer.base : framebuffer.base + framebuffer.size // 2] = RED * (320 * 480)
    screen = read_screen(ram, None, framebuffer)

    shown = in_colour(screen, 80, 24)

    lines = shown.plain.split("\n")
    assert len(lines) == 24
    assert {len(line) for line in lines} == {64}
    colours = [span.style.color.triplet.hex for span in shown.spans]
    assert colours[0] == "#ff0000"
    assert colours[-1] == "#000000"


def test_a_terminal_without_room_gets_nothing(ram):
    screen = read_screen(ram, None, Framebuffer.at_top(8 * MIB, 640, 480))

    assert in_colour(screen, 0, 0).plain == ""
