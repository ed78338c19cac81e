"""A walk: moves on a new timeline, what there is where each ends, and what of that is wrong."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from revirt.errors import UsageError
from revirt.machine.modes import program_counter
from revirt.position import Position
from revirt.recording import Recording
from revirt.timeline import Execute, Stopped, StopReason, Timeline
from walking.moves import Move
from walking.straight import Found, straight


@dataclass(frozen=True, slots=True)
class Stop:
    """Where move number ``move`` ended, and what there was."""

    move: int
    position: Position
    found: Found


@dataclass(slots=True)
class Walk:
    """What became of moves: their stops, and what went wrong with the last of them, in words."""

    stops: list[Stop]
    problem: str | None = None


def walk(recording: Recording, moves: Sequence[Move]) -> Walk:
    """Do *moves* on a new timeline of *recording*."""
    timeline = Timeline(recording)
    done = Walk([Stop(-1, timeline.position, _found(timeline))])
    for number, move in enumerate(moves):
        try:
            done.problem = _do(move, timeline, done.stops[-1])
        except Exception:
            done.problem = traceback.format_exc()
        if done.problem is not None:
            break
        done.stops.append(Stop(number, timeline.position, _found(timeline)))
    return done


def _do(move: Move, timeline: Timeline, before: Stop) -> str | None:
    """Do *move*; return what is wrong about where that led, but for the state of the machine there."""
    try:
        came = move.do(timeline)
    except UsageError:
        # What there is not is refused, and nothing moves.
        if timeline.position != before.position:
            return f"refused, and left at {timeline.position}"
        return None if _found(timeline) == before.found else "refused, and the machine is another"
    if isinstance(came, Position) and came != timeline.position:
        return f"returned {came}, and stands at {timeline.position}"
    return _wrong(came, timeline, before.position, move) if isinstance(came, Stopped) else None


def _wrong(came: Stopped, timeline: Timeline, before: Position, move: Move) -> str | None:
    if came.position != timeline.position:
        return f"stopped at {came.position}, and stands at {timeline.position}"
    if (came.position < before) if move.name in ("step", "run") else (came.position > before):
        return f"went from {before} to {came.position}"
    if came.reason is StopReason.BREAKPOINT:
        assert isinstance(came.condition, Execute)
        pc = program_counter(timeline.registers())
        if pc != came.condition.address:
            return f"stopped before {came.condition.address:#x}, and the CPU is at {pc:#x}"
    return None


def _found(timeline: Timeline) -> Found:
    return Found(timeline.machine.digest(), timeline.machine.core.pc, timeline.next_event)


def check(recording: Recording, walks: Sequence[Walk]) -> list[str | None]:
    """Return for each of *walks* what is wrong with it, None if nothing is: one straight replay tells for all."""
    expected = straight(recording, (stop.position for each in walks for stop in each.stops))
    return [_check(each, expected) for each in walks]


def _check(walk: Walk, expected: Mapping[Position, Found | None]) -> str | None:
    for stop in walk.stops:
        there = expected[stop.position]
        if there is None:
            return f"move {stop.move} ended at {stop.position}, which a straight replay has not"
        if there != stop.found:
            return f"move {stop.move} ended at {stop.position}: found {stop.found}, a straight replay {there}"
    return walk.problem and f"move {walk.stops[-1].move + 1}: {walk.problem}"


def shrink(recording: Recording, moves: Sequence[Move]) -> list[Move]:
    """Return as few of *moves*, which go wrong, as still do; each is tried without, the last ones first."""
    left = list(moves)
    for place in range(len(left) - 1, -1, -1):
        fewer = left[:place] + left[place + 1 :]
        if check(recording, [walk(recording, fewer)])[0] is not None:
            left = fewer
    return left
