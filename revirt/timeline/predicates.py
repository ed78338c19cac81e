"""Looking at one branch after the other for a predicate: it may hold now and then, so there is no way around that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from revirt.errors import UsageError
from revirt.position import Position
from revirt.timeline.conditions import When
from revirt.timeline.walker import APART, Walker

_FIRST_STRETCH = 1_000
"""Branches that are looked at first, going backwards; then ever more."""

Holds = Callable[[When], bool]
"""Evaluates a predicate where the walker stands."""


def check(conditions: Sequence[When]) -> None:
    """Raise UsageError if one of *conditions* cannot be looked for."""
    for each in conditions:
        if each.every < 1:
            raise UsageError(f"a predicate cannot be looked at every {each.every} branches")


def first_true(
    walker: Walker, conditions: Sequence[When], holds: Holds, limit: Position
) -> tuple[int, When] | None:
    """Return the first branch behind here and before *limit* at which one of *conditions* holds, and which."""
    branches = walker.position.branches
    walker.stand_at(branches)
    while (coming := _next(conditions, branches)) < limit.branches or Position(coming) < limit:
        _go(walker, coming)
        for each in conditions:
            if coming % each.every == 0 and holds(each):
                return coming, each
        branches = coming
    return None


def last_true(
    walker: Walker, conditions: Sequence[When], holds: Holds, here: Position, limit: Position
) -> tuple[int, When] | None:
    """Return the last branch before *here* and not before *limit* at which one of *conditions* holds, and which."""
    size = _FIRST_STRETCH * min((each.every for each in conditions), default=1)
    end = here.branches + (here.steps > 0)
    begin = limit.branches + (limit.steps > 0)
    while end > begin:
        start = max(begin, end - size)
        found = None
        walker.stand_at(start)
        branches = start - 1
        while (coming := _next(conditions, branches)) < end:
            _go(walker, coming)
            for each in conditions:
                if coming % each.every == 0 and holds(each):
                    found = coming, each
            branches = coming
        if found is not None:
            return found
        end, size = start, min(2 * size, APART)
    return None


def _next(conditions: Sequence[When], branches: int) -> int:
    """Return the next branch behind *branches* that one of *conditions* is looked at."""
    return min((branches // each.every + 1) * each.every for each in conditions)


def _go(walker: Walker, branches: int) -> None:
    """Run to *branches*, leaving snapshots only where it is far."""
    if branches - walker.machine.core.branches > APART:
        walker.stand_at(branches)
    else:
        walker.run(branches)
