"""Looking for several conditions at once, each in the way that is right for it.

    events, console text     the log says where, and the place is found by a replay
    what the core watches    revirt.timeline.search
    predicates               one branch after the other

The cheapest first: what one finds is how far the next has to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from revirt.position import Position
from revirt.timeline.conditions import Condition, ConsoleText, EventKind, When, is_behind
from revirt.timeline.console import ConsoleSearch
from revirt.timeline.events import Events
from revirt.timeline.predicates import check, first_true, last_true
from revirt.timeline.search import Searcher
from revirt.timeline.walker import Walker
from revirt.timeline.watch import Watch


@dataclass(frozen=True, slots=True)
class Found:
    """The place before the instruction with which, or before which, ``condition`` holds."""

    position: Position
    condition: Condition
    address: int | None = None
    value: int | None = None


class Finder:
    """Finds conditions in a recording that begins at *start*; *walker* is where the search begins and left anywhere."""

    def __init__(self, walker: Walker, searcher: Searcher, events: Events, start: Position) -> None:
        self._walker = walker
        self._searcher = searcher
        self._events = events
        self._start = start
        self._console = ConsoleSearch(walker, events, start.branches)

    def first(self, conditions: Sequence[Condition], limit: Position) -> Found | None:
        """Return the first that holds behind here, and where a search ends before *limit*."""
        here = self._walker.position
        watch, predicates = self._prepare(conditions)
        found = [*self._events_after(conditions, here, limit), *self._texts_after(conditions, here)]
        found = [each for each in found if each.position < limit]
        if watch:
            self._walker.go_to(here)
            hit = self._searcher.first_hit(watch, _before(found, limit))
            if hit is not None:
                found.append(Found(hit.position, hit.condition, hit.address, hit.value))
        if predicates:
            self._walker.go_to(here)
            true = first_true(self._walker, predicates, self._searcher.holds, _before(found, limit))
            if true is not None:
                found.append(Found(Position(true[0]), true[1]))
        return min(found, key=_order, default=None)

    def last(self, conditions: Sequence[Condition], here: Position, limit: Position) -> Found | None:
        """Return the last that holds before *here*, and not before *limit*."""
        watch, predicates = self._prepare(conditions)
        found = [*self._events_before(conditions, here), *self._texts_before(conditions, here)]
        found = [each for each in found if each.position >= limit]
        if watch:
            self._walker.go_to(here)
            hit = self._searcher.last_hit(watch, here, _latest(found, limit))
            if hit is not None and hit.position >= limit:
                found.append(Found(hit.position, hit.condition, hit.address, hit.value))
        if predicates:
            after = _latest(found, limit)
            true = last_true(self._walker, predicates, self._searcher.holds, here, after)
            if true is not None:
                found.append(Found(Position(true[0]), true[1]))
        return max(found, key=_order, default=None)

    def _prepare(self, conditions: Sequence[Condition]) -> tuple[Watch, list[When]]:
        predicates = [each for each in conditions if isinstance(each, When) and each.at is None]
        check(predicates)
        return Watch(conditions, self._walker.machine.core.translate), predicates

    # -- in the log --------------------------------------------------------------------------------------------

    def _events_after(self, conditions: Sequence[Condition], here: Position, limit: Position) -> list[Found]:
        kinds = {each.kind for each in conditions if isinstance(each, EventKind)}
        first = self._walker.session.replayer.next_event
        for ordinal, event in enumerate(self._events.after(first) if kinds else (), first):
            if event.branches > limit.branches:
                break
            # An interrupt that is taken right here is the next event, and has its place here.
            if event.kind in kinds and (place := self._place_of(ordinal)) > here:
                return [Found(place, EventKind(event.kind))]
        return []

    def _events_before(self, conditions: Sequence[Condition], here: Position) -> list[Found]:
        kinds = {each.kind for each in conditions if isinstance(each, EventKind)}
        next_event = self._walker.session.replayer.next_event
        for ordinal, event in self._events.before(next_event) if kinds else ():
            if event.branches < self._start.branches:
                break
            if event.kind in kinds and (place := self._place_of(ordinal)) < here:
                return [Found(place, EventKind(event.kind))]
        return []

    def _place_of(self, ordinal: int) -> Position:
        branches = self._events[ordinal].branches
        return self._walker.go_to_event(ordinal, max(branches, self._start.branches))

    def _texts_after(self, conditions: Sequence[Condition], here: Position) -> list[Found]:
        found = []
        for each in (each for each in conditions if isinstance(each, ConsoleText)):
            self._walker.go_to(here)
            place = self._console.after(each.pattern)
            if place is not None:
                found.append(Found(self._console.locate(place), each))
        return found

    def _texts_before(self, conditions: Sequence[Condition], here: Position) -> list[Found]:
        found = []
        for each in (each for each in conditions if isinstance(each, ConsoleText)):
            self._walker.go_to(here)
            place = self._console.before(each.pattern)
            if place is not None:
                found.append(Found(self._console.locate(place), each))
        return found


def _order(found: Found) -> tuple[Position, bool]:
    """What holds before an instruction comes before what that does."""
    return found.position, is_behind(found.condition)


def _before(found: Sequence[Found], limit: Position) -> Position:
    """Return the place behind those that come before the first of *found*, or before *limit*."""
    first = min((each.position for each in found), default=limit)
    return min(limit, Position(first.branches, first.steps + 1))


def _latest(found: Sequence[Found], limit: Position) -> Position:
    return max((each.position for each in found), default=limit)
