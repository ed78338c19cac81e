"""Out of functions, to both sides, as somebody gets there who counts calls and returns."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from calling import calling_in
from library import DEBIAN_SCRIPT, RecordingOf, RecordWith

from revirt.monitor.console import NullConsole
from revirt.position import Position
from revirt.timeline import StopReason, Timeline

CALLS = {0xE8, 0x9A}
RETURNS = {0xC3, 0xC2, 0xCB, 0xCA}
IRET = 0xCF


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction that was walked over: what it does to the depth of calls."""

    position: Position
    is_call: bool = False
    is_return: bool = False
    is_iret: bool = False
    is_interrupted: bool = False


def walk_calls(timeline: Timeline, start: Position, count: int) -> list[Step]:
    """Go over *count* positions from *start* on."""
    timeline.seek(start)
    found = []
    for _ in range(count):
        at = timeline.registers()
        code = timeline.read(at["cs.base"] + at["rip"], 4).lstrip(b"\x66\xf3\x48") + bytes(2)
        opcode, extension = code[0], code[1] >> 3 & 7
        replayer = timeline._session.replayer
        found.append(
            Step(
                timeline.position,
                is_call=opcode in CALLS or (opcode == 0xFF and extension in (2, 3)),
                is_return=opcode in RETURNS,
                is_iret=opcode == IRET,
                is_interrupted=replayer.is_interrupted_at(timeline.machine.moment()),
            )
        )
        if not timeline.forward():
            break
    return found


def finished(steps: list[Step], place: int) -> Position | None:
    """Return where the function of *steps* number *place* has returned, None if not there."""
    open_calls: list[str] = []
    for at in range(place, len(steps) - 1):
        step = steps[at]
        if step.is_interrupted:
            open_calls.append("interrupt")
        elif step.is_call:
            open_calls.append("call")
        elif step.is_iret:
            assert open_calls.pop() == "interrupt"
        elif step.is_return:
            if not open_calls:
                return steps[at + 1].position
            assert open_calls.pop() == "call"
    return None


def called(steps: list[Step], place: int) -> Position | None:
    """Return where the function of *steps* number *place* was called, None if not there."""
    open_returns: list[str] = []
    for step in reversed(steps[:place]):
        if step.is_return:
            open_returns.append("call")
        elif step.is_iret:
            open_returns.append("interrupt")
        elif step.is_interrupted:
            assert open_returns.pop() == "interrupt"
        elif step.is_call:
            if not open_returns:
                return step.position
            assert open_returns.pop() == "call"
    return None


def in_handlers(steps: list[Step]) -> list[bool]:
    """Return for each of *steps* whether it is in the handler of an interrupt."""
    inside, found = False, []
    for step in steps:
        found.append(inside)
        inside = (inside or step.is_interrupted) and not step.is_iret
    return found


def check_both_ways(timeline: Timeline, steps: list[Step], places: list[int]) -> None:
    checked = 0
    for place in places:
        behind, before = finished(steps, place), called(steps, place)
        if behind is not None:
            timeline.seek(steps[place].position)
            stopped = timeline.finish()
            assert (stopped.reason, stopped.position) == (StopReason.RETURN, behind), steps[place]
            checked += 1
        if before is not None:
            timeline.seek(steps[place].position)
            stopped = timeline.back_out()
            assert (stopped.reason, stopped.position) == (StopReason.CALL, before), steps[place]
            assert timeline.position == before
            checked += 1
    assert checked > 4


def test_recursion_and_interrupts_that_call_do_not_confuse(record_with: RecordWith, tmp_path: Path) -> None:
    recording = record_with(
        calling_in(tmp_path), NullConsole(), "virtual", until=Position(20_000), checkpoint_every=4_000
    )
    timeline = Timeline(recording)
    steps = walk_calls(timeline, Position(7_000), 900)
    assert any(step.is_interrupted for step in steps)
    assert any(step.is_iret for step in steps)
    handled = in_handlers(steps)

    chance = random.Random(5)
    check_both_ways(timeline, steps, [place for place in chance.sample(range(900), 40) if not handled[place]])


@pytest.mark.parametrize(("name", "start"), [("vuln", 1_000), ("race", 9_000), ("hello", 0)])
def test_functions_are_left_on_both_sides(name: str, start: int, recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of(name, "host"))
    steps = walk_calls(timeline, Position(start), 500)
    handled = in_handlers(steps)

    check_both_ways(timeline, steps, [place for place in range(5, len(steps), 20) if not handled[place]])


def test_a_function_that_does_not_return_ends_with_the_recording(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("idle", "virtual"))
    timeline.seek(Position(0))

    assert timeline.finish().reason is StopReason.END
    assert timeline.position >= timeline.end
    timeline.seek(Position(1))
    assert timeline.back_out().reason is StopReason.START
    assert timeline.position == timeline.start


def test_debian_s_functions_are_left_on_both_sides(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("debian", "host", script=DEBIAN_SCRIPT))
    chance = random.Random(9)

    for _ in range(3):
        here = timeline.seek(Position(chance.randrange(20_000_000, 90_000_000)))
        called_at = timeline.back_out()
        assert called_at.reason is StopReason.CALL
        caller = timeline.registers()
        slot = caller["rsp"]
        timeline.forward()
        inside = timeline.registers()
        if inside["hflags"] & 3 != caller["hflags"] & 3:
            continue
        # Back at the first instruction of the function; its return leads behind the call.
        assert inside["rsp"] == slot - 8
        expected = int.from_bytes(timeline.read(inside["rsp"], 8), "little")
        stopped = timeline.finish()
        if stopped.reason is StopReason.RETURN:
            assert stopped.position > here
            assert (timeline.machine.core.pc, timeline.registers()["rsp"]) == (expected, slot)


def test_branches_are_gone_to_both_ways(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))
    timeline.seek(Position(5_000, 1))

    assert timeline.previous_branch().position == Position(5_000)
    assert timeline.previous_branch().position == Position(4_999)
    assert timeline.next_branch().position == Position(5_000)
    timeline.seek(timeline.start)
    assert timeline.previous_branch().reason is StopReason.START
    timeline.seek_end()
    assert timeline.next_branch().reason is StopReason.END
