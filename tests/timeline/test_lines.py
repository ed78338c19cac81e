"""Straight lines that are long, and lines whose code is changed by what is executed on them."""

from __future__ import annotations

import pytest
from sources import RecordSource
from straight import straight_digest, walk

from revirt.log.events import Kind
from revirt.position import Position
from revirt.timeline import Execute, StopReason, Timeline, Write
from revirt.timeline.line import LONGEST_BLOCK, MARKS_APART

FORGETFUL = """
        cli
        xor     ax, ax
        mov     ds, ax
again:  nop
        nop
        mov     byte ptr [again], 0x90
        nop
        inc     word ptr [0x600]
        mov     byte ptr [later], 0x40
        nop
later:  inc     ax
        jmp     again
"""
"""Code that writes to the block that it is in, to what is behind it already and to what is to come."""
NOPS = MARKS_APART + 9_000
LONG = f"""
        cli
        xor     ax, ax
        mov     ds, ax
again:  .fill   {NOPS // 2}, 1, 0x90
        inc     word ptr [0x600]
        .fill   {NOPS // 2}, 1, 0x90
        jmp     again
"""
TALKATIVE = LONG.replace("inc     word ptr [0x600]", "mov al, 10\n mov dx, 0x3f8\n out dx, al")


def test_single_steps_go_where_seeks_go_in_code_that_changes_its_own_block(
    record_source: RecordSource,
) -> None:
    """Seen: positions that there are not, for a step began another block that left out what was written to."""
    recording = record_source(FORGETFUL, 200)
    places = walk(Timeline(recording), Position(20), 90)

    timeline = Timeline(recording)
    assert len(places) == 90
    for place in reversed(places):
        assert timeline.seek(place.position) == place.position
        assert timeline.machine.core.pc == place.pc
        assert timeline.machine.digest() == straight_digest(recording, place.position)


def test_a_step_back_on_a_long_line_does_not_begin_at_its_begin(record_source: RecordSource) -> None:
    timeline = Timeline(record_source(LONG, 4))
    timeline.seek(Position(2))
    timeline.back()
    end = timeline.position
    assert end.steps >= NOPS
    before = timeline.machine.core.instructions

    for steps in range(1, 20):
        assert timeline.back()
        assert timeline.position == Position(end.branches, end.steps - steps)
    for _ in range(20):
        timeline.forward()

    assert timeline.position == Position(end.branches + 1)
    assert timeline.machine.core.instructions - before < 40 * 4 * LONGEST_BLOCK < 3 * NOPS


@pytest.mark.parametrize("steps", [1, NOPS // 2, NOPS // 2 + 1, MARKS_APART - 1, MARKS_APART + 1_500, NOPS])
def test_a_place_on_a_long_line_is_the_same_whichever_way_one_comes(
    record_source: RecordSource, steps: int
) -> None:
    recording = record_source(LONG, 4)
    timeline = Timeline(recording)
    place = Position(1, steps)
    expected = straight_digest(recording, place)

    for start in (
        Position(0),
        Position(1, NOPS),
        Position(1, steps // 2),
        Position(2),
        Position(1, steps - 1),
    ):
        timeline.seek(start)
        timeline.seek(place)
        assert timeline.machine.digest() == expected
    timeline.seek(Position(1, NOPS))
    assert timeline.step_back(NOPS - steps).position == place
    assert timeline.machine.digest() == expected
    timeline.seek(Position(1))
    assert timeline.step(steps).position == place
    assert timeline.machine.digest() == expected


def test_what_is_looked_for_on_a_long_line_is_found_there(record_source: RecordSource) -> None:
    timeline = Timeline(record_source(LONG, 4))
    writing = Position(1, NOPS // 2 + 3)
    timeline.seek(writing)
    address = timeline.machine.core.pc

    timeline.seek_end()
    found = timeline.run_back([Write(0x600, 2)], Position(1))
    while found.position.branches > 1:
        found = timeline.run_back([Write(0x600, 2)], Position(1))

    assert (found.reason, found.position) == (StopReason.WATCHPOINT, writing)
    timeline.seek(Position(1))
    assert timeline.run([Execute(address)]).position == writing


def test_an_event_on_a_long_line_is_gone_to_without_going_there_step_by_step(
    record_source: RecordSource,
) -> None:
    timeline = Timeline(record_source(TALKATIVE, 6))
    said = [number for number, event in enumerate(timeline.events.after(0)) if event.kind is Kind.TRANSMITTED]
    before = timeline.machine.core.instructions

    places = [timeline.seek_event(number) for number in said[1:4]]

    assert places == [Position(line, NOPS // 2 + 3) for line in (2, 3, 4)]
    assert timeline.machine.core.instructions - before < 40 * NOPS
