"""Instruction counts of positions: the nearest one that the index knows, and from there a replay that counts.

The count of a position is that of the instructions executed before it, from the oldest checkpoint on, each iteration
of a repeated string instruction being one.  From one position of a line to the next it grows by one.  It does not
where nothing is executed: where an interrupt is taken, and where a halted CPU is woken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from revirt.index import Index
from revirt.position import Position
from revirt.timeline.walker import Walker


class InstructionCounter:
    """Counts instructions with *walker*, which is left anywhere."""

    def __init__(self, walker: Walker) -> None:
        self._walker = walker

    def count(self, position: Position, index: Index) -> int:
        """Return the count of *position*, which there is; raises UsageError if *index* does not go so far."""
        known = index.count_before(position.branches)
        self._walker.stand_at(known.branches)
        with self._counting():
            return known.instructions + self._run(position.branches) + position.steps

    def find(self, instructions: int, end: int, index: Index) -> Position:
        """Return the last position that has the count *instructions*, not behind branch number *end*.

        Where there is none, the line that it names ends before it.  Raises UsageError if *index* does not go so far.
        """
        known = index.count_up_to(instructions)
        missing, branches = instructions - known.instructions, known.branches
        self._walker.stand_at(branches)
        with self._counting():
            # The next count that is known is above, so what is looked for is less than a stride away.
            for step in (1 << bit for bit in reversed(range(known.stride.bit_length()))):
                target = min(branches + step, end)
                before = self._walker.snapshots.take()
                done = self._run(target)
                if done <= missing:
                    missing, branches = missing - done, target
                else:
                    self._walker.restore(before)
        return Position(branches, missing)

    def _run(self, branches: int) -> int:
        """Run to *branches*; return how many instructions that were."""
        core = self._walker.machine.core
        before = core.instructions
        self._walker.run(branches)
        return core.instructions - before

    @contextmanager
    def _counting(self) -> Iterator[None]:
        core = self._walker.machine.core
        core.counting = True
        try:
            yield
        finally:
            core.counting = False
