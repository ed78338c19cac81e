"""Moves on a timeline, made by chance before anything moves: so that a walk can be done again without some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from revirt.log.events import Kind
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession
from revirt.timeline import (
    Access,
    AddressSpace,
    Condition,
    ConsoleText,
    EventKind,
    Execute,
    Interrupt,
    Privilege,
    Read,
    SystemCall,
    Timeline,
    When,
    Write,
)

_PLACES, _LINE = 24, 40
"""At how many branches code and memory to search for are looked up, and how many instructions of each."""
_POINTERS = ("rsp", "rbp", "rsi", "rdi", "rbx", "rax")
_SIZES = (1, 2, 4, 8, 8, 64)


@dataclass(frozen=True, slots=True)
class Move:
    """A call of a method of `Timeline`; prints as one."""

    name: str
    arguments: tuple[Any, ...] = ()

    def do(self, timeline: Timeline) -> object:
        """Do it to *timeline*; return what the method does."""
        return getattr(timeline, self.name)(*self.arguments)

    def __str__(self) -> str:
        return f"timeline.{self.name}({', '.join(map(repr, self.arguments))})"


@dataclass(frozen=True, slots=True)
class PcIs:
    """A predicate: whether the program counter, divided by *divisor*, leaves *rest*."""

    divisor: int
    rest: int

    def __call__(self, timeline: Timeline) -> bool:
        return self.holds(timeline.machine.core.pc)

    def holds(self, pc: int) -> bool:
        """Return whether it is true for this program counter."""
        return pc % self.divisor == self.rest


@dataclass(frozen=True, slots=True)
class Terrain:
    """What there is to go to in a recording: branches where something happens, code that is run, memory that is used.

    ``first`` and ``last`` are its outermost branches, ``event_end`` and ``seconds`` what is behind its end.
    """

    first: int
    last: int
    event_end: int
    end_ns: int
    branches: Sequence[int]
    code: Sequence[int]
    memory: Sequence[int]


def survey(recording: Recording, rng: Random) -> Terrain:
    """Return the terrain of *recording*, as a replay that goes straight ahead finds it."""
    session = ReplaySession(recording)
    core = session.machine.core
    first = session.info.branches + session.info.halted
    events = list(recording.events(recording.manifest.start.event))
    code, memory = set[int](), set[int]()
    for branches in sorted(rng.randint(first, recording.end_branches) for _ in range(_PLACES)):
        session.run(branches)
        mark = session.mark()
        for _ in range(rng.randrange(_LINE)):
            registers = core.registers()
            code.add(registers["rip"] + registers["cs.base"])
            pointers = (core.translate(registers[name]) for name in _POINTERS)
            memory.update(each for each in pointers if each is not None and each < len(core.ram))
            if not session.machine.step(1):
                break
        session.return_to(mark)
    session.run(recording.end_branches)
    near = [info.branches for info in recording.checkpoints] + [event.branches for event in events]
    return Terrain(
        first,
        recording.end_branches,
        recording.event_end,
        session.machine.clock.now_ns,
        [each for each in near if each >= first],
        sorted(code),
        sorted(memory),
    )


def random_walk(rng: Random, terrain: Terrain, count: int) -> list[Move]:
    """Return *count* moves."""
    return [rng.choice(_MOVES)(rng, terrain) for _ in range(count)]


def _branches(rng: Random, terrain: Terrain) -> int:
    match rng.randrange(4):
        case 0:
            return rng.choice(terrain.branches) + rng.randint(-2, 2)
        case 1:
            return rng.choice((terrain.first, terrain.last)) + rng.randint(-3, 3)
    return rng.randint(terrain.first, terrain.last)


def _position(rng: Random, terrain: Terrain) -> Position:
    return Position(max(0, _branches(rng, terrain)), rng.choice((0, 0, 0, 1, 2, rng.randrange(40))))


def _seek(rng: Random, terrain: Terrain) -> Move:
    match rng.randrange(8):
        case 0:
            return Move("seek_end")
        case 1:
            return Move("seek_fraction", (rng.random(),))
        case 2:
            return Move("seek_event", (rng.randrange(terrain.event_end + 1),))
        case 3:
            return Move("seek_time", (rng.randrange(terrain.end_ns + 2),))
    return Move("seek", (_position(rng, terrain),))


def _step(rng: Random, _terrain: Terrain) -> Move:
    return Move(rng.choice(("step", "step_back")), (rng.choice((1, 1, 2, 3, rng.randrange(60))),))


def _search(rng: Random, terrain: Terrain) -> Move:
    conditions = tuple(_condition(rng, terrain) for _ in range(rng.choice((1, 1, 1, 2, 5))))
    until = _position(rng, terrain) if rng.random() < 0.4 else None
    return Move(rng.choice(("run", "run_back")), (conditions, until))


def _condition(rng: Random, terrain: Terrain) -> Condition:
    match rng.randrange(12):
        case 0:
            return EventKind(rng.choice(list(Kind)))
        case 1 | 2 | 3:
            return Execute(rng.choice(terrain.code))
        case 4:
            return ConsoleText(rng.choice((b".", b"[0-9]$", b"er", b"nobody says this")))
        case 5:
            return Interrupt(rng.choice((None, 0x20, 0x24, 8, 13, 14)))
        case 6:
            return rng.choice((SystemCall(), AddressSpace(), Privilege(), Privilege(0)))
        case 7:
            # Asked at every branch of a Debian boot, it would be minutes.
            every = 1 + terrain.last // 20_000
            return When(
                PcIs(rng.randint(2, 9), 1), rng.choice((None, Execute(rng.choice(terrain.code)))), every
            )
    kind = rng.choice((Write, Write, Read, Access))
    address = rng.choice(terrain.memory) + rng.randint(-16, 16)
    return kind(max(0, address), rng.choice(_SIZES), physical=rng.random() < 0.8)


def _mark(rng: Random, _terrain: Terrain) -> Move:
    match rng.randrange(4):
        case 0 | 1:
            return Move("checkpoint")
        case 2:
            return Move("delete_checkpoint", (rng.randrange(1, 5),))
    return Move("restart", (rng.randrange(1, 5),))


_MOVES: Sequence[Callable[[Random, Terrain], Move]] = (
    *(_seek, _seek, _step, _step, _step, _search, _search),
    *(_mark, lambda rng, _terrain: Move("restart", (rng.randrange(1, 5),))),
)
