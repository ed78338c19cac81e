"""Where a guest lets interrupts in for an instruction or two between two taken branches."""

from __future__ import annotations

import pytest
from small_guests import CODE, FOREVER, put, real

from revirt.core import STOP_HALT, STOP_LIMIT, Core

POLL = "again: sti\n nop\n here: inc ax\n cli\n jmp again"
"""What iPXE does instead of halting: with interrupts shut out but for the instruction behind the first NOP."""
HERE = CODE + 2
BRANCHES = 100


def polling(source: str = POLL) -> Core:
    core = real(source)
    core.sees_windows = True
    return core


def test_an_interrupt_that_waits_is_let_in_behind_the_shadow_of_sti() -> None:
    # Intel SDM volume 2, STI: interrupts are recognized after the instruction that follows.
    core = polling()
    core.intr = True

    assert (core.run(FOREVER), core.pc, core.registers()["rax"]) == (STOP_HALT, HERE, 0)


def test_an_interrupt_that_waits_is_let_in_behind_popf() -> None:
    core = polling("push 0x202\n popf\n here: inc ax\n cli\n hlt")
    core.intr = True

    core.run(FOREVER)

    assert (core.pc, core.registers()["rax"]) == (CODE + 4, 0)


def test_the_interrupt_finds_the_line_where_it_was_left() -> None:
    core = polling()
    core.intr = True
    core.run(FOREVER)
    put(core, 0x600, "iret", 16)
    core.ram[0x20:0x24] = bytes((0, 6, 0, 0))
    before = core.branches

    core.intr = False
    core.interrupt(8)
    core.run(before + 3)

    # To the handler, back, and round again.
    assert (core.pc, core.registers()["rax"]) == (CODE, 1)


def test_where_no_interrupt_waits_and_where_nobody_looks_the_guest_runs_on() -> None:
    quiet, unseen = polling(), real(POLL)
    unseen.intr = True

    assert quiet.run(BRANCHES) == unseen.run(BRANCHES) == STOP_LIMIT


def test_interrupts_that_stay_shut_out_open_nothing() -> None:
    core = polling("again: pushf\n popf\n nop\n cli\n nop\n jmp again")
    core.intr = True

    assert core.run(BRANCHES) == STOP_LIMIT


@pytest.mark.parametrize("stops", [1, 2, 3])
def test_stops_on_the_way_do_not_change_where_it_is(stops: int) -> None:
    core = polling("mov cx, 5\n turn: loop turn\n" + POLL)
    for branches in range(1, stops + 1):
        core.run(branches)
    core.intr = True

    core.run(FOREVER)

    assert (core.pc, core.branches) == (CODE + 7, 5)


def test_one_that_begins_to_wait_within_the_line_waits_for_the_next() -> None:
    # A block may be cut anywhere behind the OUT: what began to wait there must not depend on where.
    core = real("out 0x20, al\n" + POLL)
    core.sees_windows = True

    def raise_intr(_port: int, _size: int, _value: int) -> None:
        core.intr = True

    core.set_callbacks(lambda *_: 0, raise_intr, lambda *_: 0, lambda *_: None)

    core.run(FOREVER)

    assert (core.pc, core.registers()["rax"], core.branches) == (CODE + 4, 1, 2)


def test_a_core_that_is_restored_sees_the_same() -> None:
    core, other = polling(), polling()
    core.run(3)
    core.intr = other.intr = True

    other.restore(core.save())

    assert [core.run(FOREVER), core.branches, core.pc] == [other.run(FOREVER), other.branches, other.pc]


def test_counting_and_stepping_come_to_the_same_place() -> None:
    counted, stepped = polling(), polling()
    counted.counting = True
    counted.intr = stepped.intr = True

    stops = counted.run(FOREVER), stepped.step(1000, FOREVER)

    assert stops == (STOP_HALT, STOP_HALT)
    assert (counted.pc, counted.instructions) == (stepped.pc, stepped.instructions) == (HERE, 2)
