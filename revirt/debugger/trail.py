"""What the guest executed on the way to where it stands, and what it will execute next.

A stretch of the way is walked once, instruction by instruction, and kept for as long as the moments that are looked at
lie well inside of it: to step along it costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

from revirt.machine.modes import program_counter
from revirt.position import Position
from revirt.timeline import Timeline

BEHIND, AHEAD = 24, 16
"""Taken branches to walk before a position, and behind it."""
MOST = 2000
"""Most instructions to walk: between two branches there may be any number."""

ENTERED = (Position(0), Position(1))
"""The way to the guest's first instruction, which is none itself."""


@dataclass(frozen=True, slots=True)
class Trail:
    """Addresses of instructions: those executed ``before``, the latest last, and those that come ``after``.

    ``after`` begins with the one about to be executed.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class Walk:
    """The stretch of *timeline* that was walked last."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._places: list[tuple[Position, int]] = []
        self._index: dict[Position, int] = {}
        self._is_from_start = self._is_to_end = False

    def trail(self) -> Trail:
        """Return the trail of where the timeline stands, which it is left on."""
        here = self._timeline.position
        if not self._has_around(here):
            self._walk(here)
        place = self._index[here]
        addresses = [address for _, address in self._places]
        return Trail(tuple(addresses[:place]), tuple(addresses[place:]))

    def _has_around(self, here: Position) -> bool:
        """Return whether half of what is walked on either side of *here* is known."""
        if here not in self._index:
            return False
        first, last = self._places[0][0], self._places[-1][0]
        is_begun = self._is_from_start or here.branches - first.branches >= BEHIND // 2
        return is_begun and (self._is_to_end or last.branches - here.branches >= AHEAD // 2)

    def _walk(self, here: Position) -> None:
        for behind in (BEHIND, BEHIND // 4, 1, 0):
            first = Position(max(self._timeline.start.branches, here.branches - behind))
            if not behind and here.steps > MOST // 2:
                first = Position(here.branches, here.steps - MOST // 2)
            if self._walk_from(first, here):
                break
        self._is_from_start = first == self._timeline.start
        self._timeline.seek(here)
        self._index = {position: number for number, (position, _) in enumerate(self._places)}

    def _walk_from(self, first: Position, here: Position) -> bool:
        """Walk from *first* on; return whether that came past *here* before it had been too much."""
        timeline, core = self._timeline, self._timeline.machine.core
        timeline.seek(first)
        self._places, self._is_to_end = [], False
        base, left = 0, MOST
        while left and timeline.position.branches <= here.branches + AHEAD:
            position = timeline.position
            if not self._places or not position.steps:
                # Only what branches can change the segment.
                base = program_counter(timeline.registers()) - core.pc
            # The way into the guest has two positions before its first instruction.
            if position != ENTERED[here == ENTERED[0]]:
                self._places.append((position, core.pc + base))
            left -= 1
            if not timeline.forward():
                self._is_to_end = True
                break
        return self._places[-1][0] >= here
