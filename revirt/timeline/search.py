"""Searching a timeline, forwards and backwards.

The guest runs at nearly full speed while the core notes what is watched; what it notes names the straight line on
which it happened.  That line is then walked once more under the core's instruction hook, which tells the exact
positions.  Backwards, stretches between snapshots are run one after the other, the latest first, and the last
hit of the first stretch that has one is it.

Rules:
- A breakpoint is met before its instruction.  A watchpoint is met behind the access going forwards, before it going
  backwards: so that going on, either way, does not meet it again.
- The place where a search begins is not one where it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from revirt.core import STOP_HALT, WATCH_EXECUTE, WATCH_MAYBE, WATCH_READ, WATCH_WRITE
from revirt.errors import UsageError
from revirt.position import Position
from revirt.timeline.conditions import Access, Condition, EventKind, Execute, Read, StopReason, Write
from revirt.timeline.walker import APART, ENDLESS, InterruptedSearchError, Walker

PAGE_SIZE = 4096
MOST_BYTES = 1 << 16
"""Most bytes in a range that is watched, as `revirt.core` has it."""
_KINDS = WATCH_EXECUTE | WATCH_READ | WATCH_WRITE


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was watched, at the instruction ``steps`` of the line that begins at ``branches``."""

    branches: int
    steps: int
    condition: Condition
    address: int

    @property
    def position(self) -> Position:
        """Before the instruction."""
        return Position(self.branches, self.steps)


class Watch:
    """What to tell the core for *conditions*, and what its notes mean; *translate* gives physical addresses.

    Raises UsageError if a linear address is not mapped, or a range is none.
    """

    def __init__(self, conditions: Sequence[Condition], translate: Callable[[int], int | None]) -> None:
        self.code: list[int] = []
        self.writes: list[tuple[int, int]] = []
        self.reads: list[tuple[int, int]] = []
        self._of_code: dict[int, Condition] = {}
        self._of_memory: list[tuple[int, int, int, int, Condition]] = []
        # What is watched twice would be noted twice, or not, depending on how the guest is run.
        for condition in dict.fromkeys(conditions):
            match condition:
                case Execute(address):
                    self.code.append(address)
                    self._of_code[address] = condition
                case Write() | Read() | Access():
                    self._add_range(condition, translate)
                case EventKind():
                    pass

    def __bool__(self) -> bool:
        return bool(self.code or self.writes or self.reads)

    def hit(self, noted: tuple[int, ...], steps: int) -> Hit | None:
        """Return what the core *noted*, as the instruction *steps* of its line; None if nothing asked for that."""
        kind, branches, _, _, address, size, _ = noted
        if kind & _KINDS == WATCH_EXECUTE:
            condition = self._of_code.get(address)
            return Hit(branches, steps, condition, address) if condition is not None else None
        for kinds, start, end, offset, condition in self._of_memory:
            overlaps = address < end and start < address + size
            if kinds & kind and (overlaps or kind & WATCH_MAYBE):
                return Hit(branches, steps, condition, max(address, start) + offset)
        return None

    def _add_range(self, condition: Write | Read | Access, translate: Callable[[int], int | None]) -> None:
        if not 1 <= condition.size <= MOST_BYTES or condition.address < 0:
            raise UsageError(
                f"{condition.size} bytes at {condition.address:#x} cannot be watched",
                hint=f"watch 1 to {MOST_BYTES}",
            )
        kinds = {Write: WATCH_WRITE, Read: WATCH_READ, Access: WATCH_READ | WATCH_WRITE}[type(condition)]
        address, left = condition.address, condition.size
        while left > 0:
            piece = min(left, PAGE_SIZE - address % PAGE_SIZE)
            physical = address if condition.physical else translate(address)
            if physical is None:
                raise UsageError(
                    f"{address:#x} is not mapped here",
                    hint="go where it is, or watch a physical address",
                )
            if kinds & WATCH_WRITE:
                self.writes.append((physical, piece))
            if kinds & WATCH_READ:
                self.reads.append((physical, piece))
            self._of_memory.append((kinds, physical, physical + piece, address - physical, condition))
            address, left = address + piece, left - piece


class Searcher:
    """Finds hits on the way of *walker*, whose recording ends at branch *end*; it is left anywhere.

    Raises UsageError for more than the core can watch.
    """

    def __init__(self, walker: Walker, start: int, end: int) -> None:
        self._walker = walker
        self._start = start
        self._end = end

    def first_hit(self, watch: Watch, limit: Position) -> Hit | None:
        """Return the first hit behind here and before *limit*."""
        here = self._walker.position
        found = self._hits_on_line(watch, here.branches)
        for hit in found:
            # What an instruction accesses is behind the place before it.
            if hit.position > here or (hit.position == here and not isinstance(hit.condition, Execute)):
                return hit if hit.position < limit else None
        branches = here.branches + 1
        core = self._walker.machine.core
        last = min(limit.branches, self._end)
        while branches < last:
            self._walker.stand_at(branches)
            self._watch(watch, stops=True)
            end = min(branches + APART, last)
            self._walker.run(end)
            noted = core.take_hits()
            self._unwatch()
            if not noted:
                if core.branches == end:
                    self._walker.snapshots.keep(self._walker.snapshots.take())
                branches = end
                continue
            for line in dict.fromkeys(each[1] for each in noted):
                hits = self._hits_on_line(watch, line)
                if hits:
                    return hits[0] if hits[0].position < limit else None
            branches = max(each[1] for each in noted) + 1
        if here.branches < last and Position(last) < limit:
            return next((hit for hit in self._hits_on_line(watch, last) if hit.position < limit), None)
        return None

    def last_hit(self, watch: Watch, here: Position, limit: Position) -> Hit | None:
        """Return the last hit before *here*, not before *limit*."""
        found = [hit for hit in self._hits_on_line(watch, here.branches) if hit.position < here]
        if found:
            return found[-1]
        end = here.branches
        while end > limit.branches:
            start = max(limit.branches, self._walker.snapshots.start_before(end), self._start)
            self._walker.stand_at(start)
            lines: list[int] = []
            while (at := self._walker.machine.core.branches) < end:
                self._watch(watch, stops=False)
                self._walker.run(min(at + APART, end))
                lines.extend(dict.fromkeys(each[1] for each in self._walker.machine.core.take_hits()))
                self._unwatch()
                if self._walker.machine.core.branches < end:
                    self._walker.snapshots.keep(self._walker.snapshots.take())
            for line in reversed(lines):
                hits = self._hits_on_line(watch, line)
                if hits:
                    return hits[-1]
            end = start
        return None

    def _hits_on_line(self, watch: Watch, branches: int) -> list[Hit]:
        """Return all hits on the line that begins at *branches*, in order."""
        self._walker.stand_at(branches)
        core = self._walker.machine.core
        machine = self._walker.machine
        has_no_steps = (
            self._walker.session.replayer.is_interrupted_at(machine.moment()) or machine.ended is not None
        )
        self._walker.anchor = self._walker.begin
        self._watch(watch, stops=False)
        first = core.instructions
        try:
            stop = STOP_HALT if has_no_steps else self._walker.step_core(ENDLESS, branches + 1)
        except InterruptedSearchError:
            self._walker.return_to_anchor()
            raise
        done = core.instructions - first
        # An instruction that has begun is counted.
        noted = [(each, max(0, each[2] - first - 1)) for each in core.take_hits()]
        if stop == STOP_HALT and branches < self._end:
            # And what is written on the way into the handler.
            self._walker.return_to_anchor()
            self._walker.run(branches + 1)
            noted += [(each, done) for each in core.take_hits()[len(noted) :]]
        self._unwatch()
        self._walker.return_to_anchor()
        hits = (watch.hit(each, steps) for each, steps in noted if each[1] == branches)
        return [hit for hit in hits if hit is not None]

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Let `interrupt` end what is done meanwhile, and leave no watches."""
        self._walker.listen()
        self._walker.is_searching = True
        try:
            yield
        finally:
            self._walker.is_searching = False
            self._unwatch()

    def _watch(self, watch: Watch, *, stops: bool) -> None:
        core = self._walker.machine.core
        try:
            core.set_watches(watch.code, watch.writes, watch.reads)
        except ValueError as error:
            raise UsageError(f"so much cannot be watched: {error}", hint="watch less at a time") from error
        core.stop_at_hits = stops

    def _unwatch(self) -> None:
        self._walker.machine.core.stop_at_hits = False
        self._walker.machine.core.set_watches((), (), ())


def reason_of(condition: Condition) -> StopReason:
    """Return why a search ends that *condition* ends."""
    match condition:
        case Execute():
            return StopReason.BREAKPOINT
        case EventKind():
            return StopReason.EVENT
        case _:
            return StopReason.WATCHPOINT
