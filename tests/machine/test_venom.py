"""Overruns as that of VENOM (CVE-2015-3456): a command is followed by more data than its buffer holds.

There a floppy controller put the bytes behind some commands into a buffer, one behind the other, without ever looking
whether it was full.  Here no buffer takes more than it has room for, and what is lost harms nobody.
"""

from __future__ import annotations

import pytest
from fuzzing.bench import LONG_FILE, Bench

from revirt.machine import uart
from revirt.machine.i8042 import PRESSES, REPLIES
from revirt.machine.inputs import Keys, Received
from revirt.machine.state import encode
from revirt.machine.virtio.console import BACKLOG_SIZE

COMMAND, DATA = 0x64, 0x60
OUTPUT_FULL, ECHO = 0x01, 0xEE
MANY = 300
LONGEST_ITEM = len(LONG_FILE)

PAIRS = {
    "keyboard controller": (0x64, 0x60),
    "keyboard": (0x60, 0x60),
    "timer": (0x43, 0x40),
    "interrupt controller": (0x20, 0x21),
    "clock": (0x70, 0x71),
    "UART, FIFO control": (0x3FA, 0x3F8),
    "UART, modem control": (0x3FC, 0x3F8),
    "VGA, attributes": (0x3C0, 0x3C0),
    "VGA, sequencer": (0x3C4, 0x3C5),
    "VGA, graphics": (0x3CE, 0x3CF),
    "VGA, CRT controller": (0x3D4, 0x3D5),
    "VGA, colours written": (0x3C8, 0x3C9),
    "VGA, colours read": (0x3C7, 0x3C9),
    "firmware configuration": (0x510, 0x511),
}
"""Where each device takes commands or indices, and where what belongs to them."""


@pytest.fixture
def bench():
    return Bench(at_once=True)


def out(bench, port, *values, size=1):
    for value in values:
        bench.board.ports.write(port, size, value)


def drain(bench, port, status_port, bit):
    """Return what is read at *port* while *bit* of the status says that there is something."""
    read = []
    while bench.board.ports.read(status_port, 1) & bit:
        read.append(bench.board.ports.read(port, 1))
        assert len(read) <= 5000
    return read


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_no_command_takes_more_data_than_it_has_room_for(bench, pair):
    command_port, data_port = pair
    ports, width = bench.board.ports, 2 if command_port == 0x510 else 1
    largest = len(encode(bench.board.save())) + 64

    for command in range(256):
        ports.write(command_port, width, command)
        for value in range(MANY):
            ports.write(data_port, 1, value & 0xFF)
        for _ in range(MANY):
            assert 0 <= ports.read(data_port, 1) <= 0xFF
        assert len(encode(bench.board.save())) <= largest

    bench.save()  # raises if a field is out of its range
    bench.check()


@pytest.mark.parametrize(
    "asked",
    [[(COMMAND, 0x20)], [(COMMAND, 0xD2), (DATA, 0x41)], [(DATA, 0xFF)]],
    ids=["of the controller", "put there as data", "to resets of the keyboard"],
)
def test_answers_that_nobody_reads_are_lost(bench, asked):
    for port, value in asked * 1000:
        out(bench, port, value)

    assert len(bench.board.i8042.save().replies) == REPLIES
    assert len(drain(bench, DATA, COMMAND, OUTPUT_FULL)) == REPLIES + 1
    out(bench, DATA, ECHO)
    assert drain(bench, DATA, COMMAND, OUTPUT_FULL) == [ECHO]


def test_keys_that_nobody_reads_are_lost(bench):
    for _ in range(10):
        bench.board.accept(Keys(b"\x1c" * 1000))

    assert len(bench.board.i8042.save().presses) <= PRESSES
    assert len(drain(bench, DATA, COMMAND, OUTPUT_FULL)) == PRESSES + 1


@pytest.mark.parametrize(("fifo_control", "room"), [(0x01, uart.FIFO_SIZE), (0x00, 1)])
def test_a_uart_that_sends_to_itself_loses_what_does_not_fit(bench, fifo_control, room):
    out(bench, 0x3FA, fifo_control)
    out(bench, 0x3FC, uart.MCR_LOOP)

    out(bench, 0x3F8, *(value & 0xFF for value in range(5000)))

    assert bench.board.ports.read(0x3FD, 1) & uart.LSR_OE
    assert len(drain(bench, 0x3F8, 0x3FD, uart.LSR_DR)) == room


@pytest.mark.parametrize(("port", "most"), [(0, uart.BACKLOG_SIZE + 1), (1, BACKLOG_SIZE)])
def test_what_a_console_cannot_hold_back_is_lost(bench, port, most):
    for _ in range(40):
        bench.board.accept(Received(bytes(1 << 16), port))

    state = bench.board.save()["uart" if port == 0 else "console"]
    assert len(state.backlog) + len(getattr(state, "fifo", b"")) == most
    bench.save()


def test_no_item_of_the_firmware_configuration_is_read_behind_its_end(bench):
    for key in (*range(0x40), 0x8000, 0xFFFF):
        out(bench, 0x510, key, size=2)
        read = bytes(bench.board.ports.read(0x511, 1) for _ in range(10_000))
        out(bench, 0x511, *range(64))

        assert not any(read[LONGEST_ITEM:])
        assert bench.board.save()["fw_cfg"].offset <= LONGEST_ITEM
