"""States of a whole machine that come back from a file."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest

from revirt.machine.config import MachineConfig
from revirt.machine.machine import STATE_LIMIT, Machine
from revirt.machine.uart import BACKLOG_SIZE
from revirt.monitor.console import NullConsole
from revirt.monitor.live import Live


@pytest.fixture
def machine() -> Machine:
    live = Live(NullConsole(), "virtual", until=None, progress=None)
    machine = Machine(MachineConfig(1 << 20, "virtual", 0, 10), live)
    live.attach(machine)
    return machine


def test_the_largest_state_comes_back_as_it_was(machine: Machine) -> None:
    machine.board.uart.receive(b"x" * (BACKLOG_SIZE + 100))
    state = machine.save()

    machine.restore(state)

    assert BACKLOG_SIZE < len(state) < STATE_LIMIT
    assert machine.save() == state


@pytest.mark.parametrize("item", [b"\x80", b"\x90", b"\x01"])
def test_a_state_larger_than_any_is_not_unpacked(machine: Machine, item: bytes) -> None:
    """What was seen: 64 MiB of empty maps, of which a file of 256 KiB can be unpacked, took gigabytes."""
    size = 8 << 20
    state = b"\xdd" + size.to_bytes(4, "big") + item * size

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a machine state: 8388613 bytes"):
            machine.restore(state)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "plain", [None, [], {}, {"cpu": b""}, {"cpu": 1, "clock": 2, "run": 3, "devices": 4}]
)
def test_what_is_no_state_is_refused(machine: Machine, plain: object) -> None:
    with pytest.raises(ValueError, match=r"not a (machine|CPU) state"):
        machine.restore(msgpack.packb(plain))
