"""Searches compared with a replay that goes straight ahead, line by line, and looks at everything.

A *sighting* is a position before an instruction, and a condition that holds there or is about what that does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from revirt.core import STOP_HALT
from revirt.log.events import LINE_LIMIT, Kind
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession
from revirt.replay.session import Mark
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
    Stopped,
    StopReason,
    SystemCall,
    Timeline,
    When,
    Write,
)
from revirt.timeline.conditions import is_behind
from revirt.timeline.watch import Watch
from walking.moves import PcIs, Terrain

_LINES, _CONDITIONS, _MOST_FINDS = 400, 12, 40
"""Lines that are looked at, conditions that are looked for there, and finds each way that are compared."""
_ENDLESS = 1 << 60


@dataclass(slots=True)
class Sightings:
    """What was seen: for each condition the positions, in order; and which position follows which on another line."""

    of: dict[Condition, list[Position]]
    lengths: dict[int, int] = field(default_factory=dict)

    def add(self, condition: Condition, position: Position) -> None:
        """Note that *condition* was seen at *position*."""
        if position not in self.of[condition]:
            self.of[condition].append(position)

    def stops(self, conditions: Sequence[Condition], *, is_forward: bool) -> list[Position]:
        """Return where searches for *conditions* have to stop that go this way, in their order."""
        found = {
            self._behind(position) if is_forward and is_behind(condition) else position
            for condition in conditions
            for position in self.of[condition]
        }
        return sorted(found, reverse=not is_forward)

    def _behind(self, position: Position) -> Position:
        is_last = position.steps + 1 > self.lengths[position.branches]
        return Position(position.branches + 1) if is_last else Position(position.branches, position.steps + 1)


def draw_conditions(rng: Random, terrain: Terrain, console: bytes) -> list[Condition]:
    """Return conditions of all kinds, of which most hold somewhere."""
    return list(dict.fromkeys(_draw(rng, terrain, console) for _ in range(_CONDITIONS)))


def _draw(rng: Random, terrain: Terrain, console: bytes) -> Condition:
    address = max(0, rng.choice(terrain.memory) + rng.randint(-16, 16))
    size = rng.choice((1, 2, 4, 8, 64, 5000))
    place = rng.randrange(max(1, len(console)))
    text = re.escape(console[place : place + rng.randint(1, 3)] or b"x")
    predicate = PcIs(rng.randint(2, 30), 1)
    code = Execute(rng.choice(terrain.code))
    makers: Sequence[Callable[[], Condition]] = (
        lambda: code,
        lambda: Write(address, size, physical=True),
        lambda: Read(address, size, physical=True),
        lambda: Access(address, size, physical=True),
        lambda: EventKind(rng.choice(list(Kind))),
        lambda: ConsoleText(text),
        lambda: Interrupt(rng.choice((None, None, 0x20, 0x24, 8, 13, 14))),
        lambda: SystemCall(rng.choice((None, 1))),
        lambda: AddressSpace(),
        lambda: Privilege(rng.choice((None, 0, 3))),
        lambda: When(predicate, every=rng.choice((1, 1, 7))),
        lambda: When(predicate, at=code),
    )
    return rng.choice(makers)()


class _Straight:
    """A replay of *recording* that looks for *conditions* on every line from *start* to before *end*."""

    def __init__(self, recording: Recording, conditions: Sequence[Condition], start: int, end: int) -> None:
        self._session = ReplaySession(recording, output=self._hear)
        self._core = self._session.machine.core
        self._range = range(start, end)
        self._watch = Watch(conditions, self._core.translate)
        self._text = _Text([each for each in conditions if isinstance(each, ConsoleText)])
        self._heard: list[tuple[int, bytes]] = []
        self._conditions = conditions
        self._events: dict[int, list[tuple[int, Kind]]] = {}
        first = recording.manifest.start.event
        for ordinal, event in enumerate(recording.events(first), first):
            self._events.setdefault(event.branches, []).append((ordinal, event.kind))
        self.sightings = Sightings({each: [] for each in conditions})

    def look(self) -> Sightings:
        """Go there, and along."""
        self._session.run(self._range.start)
        for _, byte in self._heard:
            self._text.grow(byte)
        for branches in self._range:
            self._look_along(branches)
            self._session.run(branches + 1)
        return self.sightings

    def _hear(self, byte: bytes) -> None:
        self._heard.append((self._core.instructions, byte))

    def _look_along(self, branches: int) -> None:
        session, core = self._session, self._core
        mark, first, stop = session.mark(), core.instructions, STOP_HALT
        for each in self._conditions:
            if isinstance(each, When) and each.at is None and branches % each.every == 0:
                self._see(each, Position(branches), core.pc)
        self._heard.clear()
        self._watch.put_on(core, stops=False)
        if not session.replayer.is_interrupted_at(session.machine.moment()):
            stop = core.step(_ENDLESS, branches + 1)
        length = max(0, core.instructions - first - (stop != STOP_HALT))
        noted = [(each, max(0, each[2] - first - 1)) for each in core.take_hits() if each[1] == branches]
        for instructions, byte in self._heard:
            for text in self._text.grow(byte):
                self.sightings.add(text, Position(branches, instructions - first - 1))
        session.return_to(mark)
        if stop == STOP_HALT:
            # And what happens on the way into the handler.
            self._watch.put_on(core, stops=False)
            session.run(branches + 1)
            more = [each for each in core.take_hits() if each[1] == branches]
            noted += [(each, length) for each in more[len(noted) :]]
        core.set_watches((), (), ())
        session.return_to(mark)
        self.sightings.lengths[branches] = length
        for note, steps in noted:
            for hit in self._watch.hits(note, steps):
                self._see(hit.condition, hit.position, note[3])
        self._look_at_events(branches, length)
        session.return_to(mark)

    def _see(self, condition: Condition, position: Position, pc: int) -> None:
        if isinstance(condition, When):
            assert isinstance(condition.predicate, PcIs)
            if not condition.predicate.holds(pc):
                return
        self.sightings.add(condition, position)

    def _look_at_events(self, branches: int, length: int) -> None:
        """An event has its place where it has come first, or at the end of its line."""
        session = self._session
        wanted = [each for each in self._conditions if isinstance(each, EventKind)]
        mark = session.mark()
        for ordinal, kind in self._events.get(branches, ()):
            for condition in wanted:
                if condition.kind == kind:
                    self.sightings.add(condition, Position(branches, self._place_of(ordinal, length, mark)))

    def _place_of(self, ordinal: int, length: int, mark: Mark) -> int:
        for steps in range(length):
            self._session.return_to(mark)
            if steps:
                self._session.machine.step(steps)
            if self._session.replayer.next_event > ordinal:
                return steps
        return length


class _Text:
    """The line that the console shows, as it grows, and which of *conditions* it has matched."""

    def __init__(self, conditions: Sequence[ConsoleText]) -> None:
        self._conditions = conditions
        self._line = bytearray()
        self._matched: set[ConsoleText] = set()

    def grow(self, byte: bytes) -> list[ConsoleText]:
        """Return the conditions that match with this *byte*, and did not before."""
        self._line += byte
        found = [
            each
            for each in self._conditions
            if each not in self._matched and re.search(each.pattern, self._line)
        ]
        self._matched.update(found)
        if byte == b"\n" or len(self._line) >= LINE_LIMIT:
            self._line.clear()
            self._matched.clear()
        return found


def compare(recording: Recording, terrain: Terrain, rng: Random) -> list[str]:
    """Look for some conditions in a part of *recording*, both ways; return what is not as a straight replay sees it."""
    console = b"".join(each.data for each in recording.events() if each.kind is Kind.TRANSMITTED)
    conditions = draw_conditions(rng, terrain, console)
    last = max(terrain.first, terrain.last - _LINES - 1)
    near = rng.choice(terrain.branches) - rng.randrange(_LINES)
    start = min(max(terrain.first, rng.choice((near, near, rng.randint(terrain.first, last)))), last)
    end = min(start + _LINES, terrain.last - 1)
    sightings = _Straight(recording, conditions, start, end).look()
    groups = [[each] for each in conditions] + [
        rng.sample(conditions, min(3, len(conditions))) for _ in range(3)
    ]
    timeline = Timeline(recording)
    problems = []
    for group in groups:
        for is_forward in (True, False):
            expected = _expected(sightings, group, start, end, is_forward=is_forward)
            found = _found(timeline, group, start, end, is_forward=is_forward)
            if found != expected:
                way = "on" if is_forward else "back"
                problems.append(
                    f"{way} between {start} and {end} for {group}: expected {_text(expected)}, found {_text(found)}"
                )
    return problems


def _expected(
    sightings: Sightings, group: Sequence[Condition], start: int, end: int, *, is_forward: bool
) -> list[Position]:
    low, high = Position(start, 1 if is_forward else 0), Position(end)
    stops = sightings.stops(group, is_forward=is_forward)
    return [each for each in stops if low <= each < high][:_MOST_FINDS]


def _found(
    timeline: Timeline, group: Sequence[Condition], start: int, end: int, *, is_forward: bool
) -> list[Position]:
    begin, until = (Position(start), Position(end)) if is_forward else (Position(end), Position(start))
    timeline.seek(begin)
    found: list[Position] = []
    while len(found) < _MOST_FINDS:
        stopped: Stopped = timeline.run(group, until) if is_forward else timeline.run_back(group, until)
        if stopped.reason in (StopReason.UNTIL, StopReason.START, StopReason.END):
            break
        if not is_forward or stopped.position < until:
            found.append(stopped.position)
    return found


def _text(positions: Sequence[Position]) -> str:
    return ", ".join(map(str, positions)) or "none"
