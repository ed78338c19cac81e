"""Traps: the lines on which memory is accessed, found by the host's page protection, without a change to the guest."""

from __future__ import annotations

import faulthandler
import subprocess
import sys
import threading

import pytest
from small_guests import CODE, FOREVER, STACK, protected, put, real, set_vector
from test_counting import GUESTS, Guest

from revirt.core import (
    STOP_HALT,
    STOP_WATCH,
    WATCH_BLOCK,
    WATCH_EXECUTE,
    WATCH_PRIVILEGE,
    WATCH_READ,
    WATCH_WRITE,
    Core,
)

DATA = 0x5000
MANY = 1 << 40
guests = pytest.mark.parametrize("make", GUESTS.values(), ids=GUESTS.keys())


def lines(core: Core, kind: int) -> set[int]:
    """Return the lines with hits of *kind*."""
    return {hit[1] for hit in core.take_hits() if hit[0] & kind}


@guests
@pytest.mark.parametrize("place", [0x5000, 0x2590, STACK - 16, 0x1000, 0x600])
def test_traps_miss_no_line_that_hooks_tell_and_change_nothing(make: Guest, place: int) -> None:
    plain, hooked, trapped = make(), make(), make()
    ranges = [(place, 16)]
    hooked.set_watches([], ranges, ranges)
    trapped.set_watches([], ranges, ranges, traps=MANY)
    assert trapped.traps

    assert trapped.run(FOREVER) == hooked.run(FOREVER) == plain.run(FOREVER)

    seen, told = trapped.take_hits(), hooked.take_hits()
    for kind in (WATCH_WRITE, WATCH_READ):
        assert {hit[1] for hit in seen if hit[0] & kind} >= {hit[1] for hit in told if hit[0] & kind}
    assert trapped.fault == plain.fault
    assert trapped.digest_input() == plain.digest_input()
    assert bytes(trapped.ram) == bytes(plain.ram)


def test_a_store_that_changes_its_own_block_is_told_where_it_is_made() -> None:
    """Hooks tell it twice, for its instruction begins twice."""
    core = protected("mov byte ptr [spot], 0x40\n spot: nop\n hlt")
    core.set_watches([], [(CODE + 7, 1)], [], traps=MANY)

    core.run(FOREVER)

    assert core.branches == 2
    assert lines(core, WATCH_WRITE) == {2}


def test_a_trap_tells_the_line_and_the_address() -> None:
    core = protected("jmp on\n nop\n on: mov dword ptr [0x5008], 5\n mov eax, [0x500c]\n hlt")
    core.set_watches([], [(DATA + 8, 4)], [(DATA + 12, 4)], traps=MANY)

    core.run(FOREVER)

    assert [(hit[0], hit[1], hit[4]) for hit in core.take_hits()] == [
        (WATCH_WRITE | WATCH_BLOCK, 2, DATA + 8),
        (WATCH_READ | WATCH_BLOCK, 2, DATA + 12),
    ]


def test_what_else_is_watched_is_not_taken_for_an_access() -> None:
    """Seen: looking whether watched memory had changed, at every block, was trapped, and told of lines without one."""
    core = protected("mov ecx, 9\n again: loop again\n mov eax, [0x5008]\n mov [0x5008], eax\n hlt")
    core.set_watches([CODE + 5], [(DATA + 8, 4)], [(DATA + 8, 4)], system=WATCH_PRIVILEGE, traps=MANY)

    core.run(FOREVER)

    hits = core.take_hits()
    assert [hit[1] for hit in hits if hit[0] == WATCH_EXECUTE] == list(range(1, 10))
    assert [hit[:2] for hit in hits if hit[0] != WATCH_EXECUTE] == [
        (WATCH_READ | WATCH_BLOCK, 9),
        (WATCH_WRITE | WATCH_BLOCK, 9),
    ]
    assert MANY - core.traps_left == 2


def test_what_stands_behind_in_the_page_is_not_told() -> None:
    core = protected("mov dword ptr [0x500c], 5\n mov dword ptr [0x5800], 5\n hlt")
    core.set_watches([], [(DATA + 8, 4)], [], traps=MANY)

    core.run(FOREVER)

    assert core.hits_noted == 0
    assert MANY - core.traps_left == 2


def test_an_access_across_pages_is_told_by_what_it_does_in_the_second() -> None:
    core = protected("mov dword ptr [0x4ffe], 5\n hlt")
    core.set_watches([], [(DATA, 1)], [], traps=MANY)

    core.run(FOREVER)

    assert lines(core, WATCH_WRITE) == {1}


def test_a_frame_that_is_pushed_for_an_interrupt_from_outside_is_told() -> None:
    core = real("sti\n hlt")
    put(core, 0x8000, "iret", 16)
    set_vector(core, 0x20, 0x8000)
    core.set_watches([], [(STACK - 6, 2)], [], traps=MANY)
    core.run(FOREVER)

    core.interrupt(0x20)

    assert lines(core, WATCH_WRITE) == {1}


def test_what_a_device_writes_is_told() -> None:
    core = protected("mov al, 1\n out 0x60, al\n hlt")

    def dma(*_: int) -> None:
        core.ram[0x4800:0x5800] = b"\x77" * 0x1000
        core.written(0x4800, 0x1000)

    core.set_callbacks(lambda *_: 0, dma, lambda *_: 0, lambda *_: None)
    core.set_watches([], [(DATA + 0x10, 4)], [], traps=MANY)

    assert core.run(FOREVER) == STOP_HALT

    assert lines(core, WATCH_WRITE) == {1}
    assert bytes(core.ram[DATA : DATA + 4]) == b"\x77" * 4


def test_between_runs_memory_is_open() -> None:
    core = protected("mov dword ptr [0x5000], 5\n hlt")
    core.set_watches([], [(DATA, 8)], [(DATA, 8)], traps=MANY)

    core.ram[DATA : DATA + 4] = b"\1\2\3\4"
    core.run(FOREVER)
    core.ram[DATA : DATA + 4] = bytes(4)

    assert core.hits_noted == 1


def test_when_there_were_enough_the_guest_is_stopped_and_not_trapped_any_more() -> None:
    core = protected("mov ecx, 1000\n again: mov [0x5000], ecx\n dec ecx\n jnz again\n hlt")
    core.set_watches([], [(DATA, 4)], [], traps=10)

    assert core.run(FOREVER) == STOP_WATCH
    assert (core.branches, core.traps_left, core.hits_noted) == (11, 0, 10)
    assert core.run(FOREVER) == STOP_WATCH
    assert (core.branches, core.hits_noted) == (12, 10)

    core.set_watches([], [], [])
    assert core.run(FOREVER) == STOP_HALT


def test_when_there_were_enough_while_an_interrupt_was_delivered_the_guest_stops_behind_that() -> None:
    """Seen: it stopped at once, between two taken branches, on a line that nobody can come to again like that."""
    core = real("again: jmp again\n handler: hlt")
    set_vector(core, 0x20, CODE + 2)
    core.set_watches([], [(STACK - 8, 8)], [], traps=1)
    core.run(core.branches + 3)
    before = core.branches

    core.interrupt(0x20)

    assert core.traps_left == 0
    assert core.run(FOREVER) == STOP_WATCH
    assert core.branches == before + 1
    assert core.pc == CODE + 2


def test_a_hit_stops_the_guest_if_it_is_to() -> None:
    core = protected("mov ecx, 3\n again: mov [0x5000], ecx\n dec ecx\n jnz again\n hlt")
    core.set_watches([], [(DATA, 4)], [], traps=MANY)
    core.stop_at_hits = True

    assert [core.run(FOREVER) for _ in range(3)] == [STOP_WATCH, STOP_WATCH, STOP_HALT]


def test_machines_on_several_threads_do_not_notice_each_other() -> None:
    source = "mov ecx, 300\n again: mov [0x5000], ecx\n dec ecx\n jnz again\n hlt"
    cores = [protected(source) for _ in range(4)]
    for core in cores:
        core.set_watches([], [(DATA, 4)], [], traps=MANY)
    threads = [threading.Thread(target=core.run, args=(FOREVER,)) for core in cores]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [core.hits_noted for core in cores] == [300] * 4


def test_a_handler_that_was_installed_meanwhile_is_put_aside() -> None:
    core = protected("mov dword ptr [0x5000], 5\n jmp on\n nop\n on: mov dword ptr [0x5000], 6\n hlt")
    core.set_watches([], [(DATA, 4)], [], traps=MANY)
    core.run(2)

    faulthandler.enable()
    core.run(FOREVER)

    assert core.hits_noted == 2


def test_faults_that_are_not_the_guest_s_kill_the_process_as_ever() -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from small_guests import protected, FOREVER\n"
        "import ctypes\n"
        "core = protected('mov dword ptr [0x5000], 5\\n hlt')\n"
        "core.set_watches([], [(0x5000, 4)], [], traps=9)\n"
        "core.run(FOREVER)\n"
        "ctypes.string_at(8)\n"
    )

    done = subprocess.run([sys.executable, "-c", script, *sys.path], capture_output=True, check=False)

    assert done.returncode == -11
