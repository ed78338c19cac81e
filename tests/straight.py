"""What a timeline is compared with: replays that go straight ahead, and walks that look at every instruction."""

from __future__ import annotations

import random
from dataclasses import dataclass

from revirt.machine.machine import Digest
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession
from revirt.timeline import Timeline


def straight_digest(recording: Recording, position: Position) -> Digest:
    """Return the digest at *position* of a new replay that goes nowhere else."""
    session = ReplaySession(recording)
    session.run(position.branches)
    assert session.machine.core.branches == position.branches
    if position.steps:
        assert session.machine.step(position.steps) == position.steps
    return session.machine.digest()


def random_positions(timeline: Timeline, chance: random.Random, count: int) -> list[Position]:
    """Return *count* positions that *timeline* has, at random branches and a random way behind them."""
    found = []
    while len(found) < count:
        timeline.seek(Position(chance.randint(timeline.start.branches, timeline.end.branches)))
        for _ in range(chance.randrange(6)):
            timeline.forward()
        found.append(timeline.position)
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """A position that was walked over: where code ran, and what some word of memory held."""

    position: Position
    pc: int
    word: bytes


def walk(timeline: Timeline, start: Position, count: int, address: int = 0, size: int = 0) -> list[Place]:
    """Go over *count* positions from *start* on, one by one; ``word`` is the *size* bytes at physical *address*."""
    timeline.seek(start)
    found = []
    for _ in range(count):
        core = timeline.machine.core
        found.append(Place(timeline.position, core.pc, timeline.read_physical(address, size)))
        if not timeline.forward():
            break
    return found
