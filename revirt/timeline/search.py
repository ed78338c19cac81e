"""Searching a timeline for what the core can watch, forwards and backwards.

The guest runs at nearly full speed while the core notes what is watched; what it notes names the straight line on
which it happened.  That line is then walked once more under the core's instruction hook, which tells the exact
positions.  Backwards, stretches between snapshots are run one after the other, the latest first, and the last
hit of the first stretch that has one is it.

Rules:
- A condition that holds before an instruction is met there.  One about what an instruction does is met behind it going
  forwards, before it going backwards: so that going on, either way, does not meet it again.
- The place where a search begins is not one where it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from revirt.core import STOP_HALT, WATCH_READ, WATCH_WRITE, Core
from revirt.position import Position
from revirt.timeline.conditions import When, is_behind
from revirt.timeline.scouts import Piece, Scouts
from revirt.timeline.snapshots import Snapshot
from revirt.timeline.walker import APART, Walker
from revirt.timeline.watch import PAGE_SIZE, TRAPS, WORTH, Hit, Noted, Watch, entered_pages

_STRIDE = 4_000_000
"""Branches between two snapshots of a stretch that is searched backwards, and that hooks are used for at a time."""
_PIECE = 12_000_000
"""Branches that are searched backwards at once, or not much more."""
_WORTH_SCOUTS = 36_000_000
"""Branches to search that are worth other processes, which take half a second to start."""
_FALSE_LINES = 32
"""Lines that traps named for nothing before the stretch is run with hooks."""


@dataclass(slots=True)
class _Found:
    """The lines of a stretch that may have hits, from branch ``since`` on: before that there were too many."""

    since: int
    lines: list[int] = field(default_factory=list)
    are_trapped: bool = False


class Searcher:
    """Finds hits on the way of *walker*, whose recording is from branch *start* to *end*; it is left anywhere.

    *holds* evaluates the predicate of a condition that has one, where the walker stands.  *scouts*, if any, search
    ahead.
    """

    def __init__(
        self,
        walker: Walker,
        start: int,
        end: int,
        holds: Callable[[When], bool],
        scouts: Scouts | None = None,
    ) -> None:
        self._walker = walker
        self._start = start
        self._end = end
        self.holds = holds
        self._scouts = scouts

    # -- forwards ----------------------------------------------------------------------------------------------

    def first_hit(self, watch: Watch, limit: Position) -> Hit | None:
        """Return the first hit behind here and before *limit*."""
        here = self._walker.position
        for hit in self._hits_on_line(watch, here.branches):
            # What an instruction does is behind the place before it.
            if hit.position > here or (hit.position == here and is_behind(hit.condition)):
                if hit.position >= limit:
                    return None
                if self._is_true(hit):
                    return hit
        last = min(limit.branches, self._end)
        for start, end in self._parts(watch, here.branches + 1, last):
            first = self._first_in(watch, start, end)
            if first is not None:
                return first if first.position < limit else None
        if here.branches < last and Position(last) < limit:
            hits = (hit for hit in self._hits_on_line(watch, last) if hit.position < limit)
            return next((hit for hit in hits if self._is_true(hit)), None)
        return None

    def _first_in(self, watch: Watch, branches: int, last: int) -> Hit | None:
        """Return the first hit on the lines from *branches* to before *last*."""
        core = self._walker.machine.core
        hooks_until = 0
        self._walker.stand_at(branches)
        while branches < last:
            has_traps = branches >= hooks_until
            end = min(branches + (APART if has_traps else _STRIDE), last)
            watch.put_on(core, stops=True, traps=has_traps)
            self._walker.run(end)
            noted, has_traps, stood, unseen = self._taken(), core.traps, core.branches, _unseen(core)
            self._unwatch()
            lines = {*watch.lines(noted, trapped=has_traps), *unseen}
            if lines:
                lines.add(stood - 1)  # stopped at a hit, it has not heard what devices write here
            for line in sorted(lines):
                for hit in self._hits_on_line(watch, line):
                    if self._is_true(hit):
                        return hit
            if has_traps and (noted or unseen):
                hooks_until = stood + _STRIDE
            if stood == end and not (noted or unseen):
                self._walker.snapshots.keep(self._walker.snapshots.take())
            branches = stood
            self._walker.stand_at(branches)
        return None

    # -- backwards ---------------------------------------------------------------------------------------------

    def last_hit(self, watch: Watch, here: Position, limit: Position) -> Hit | None:
        """Return the last hit before *here*, not before *limit*."""
        hits = [hit for hit in self._hits_on_line(watch, here.branches) if hit.position < here]
        hit = self._last_true(hits)
        if hit is not None:
            return hit
        pieces = list(self._pieces(watch, max(limit.branches, self._start), here.branches))
        while pieces and hit is None:
            if self._scouts and not watch.has_predicates and self._is_for_scouts(pieces):
                return self._scouts.search(watch, pieces, self.last_hit_in, self._walker.look_up)
            hit = self.last_hit_in(watch, *pieces.pop(0))
        return hit

    def _pieces(self, watch: Watch, start: int, end: int) -> Iterator[Piece]:
        """Yield what `_parts` returns, backwards and in ever larger pieces, which begin where a replay can start."""
        size = 0
        for first, last in reversed(self._parts(watch, start, end)):
            while last > first:
                nearest = self._walker.snapshots.start_before(max(first + 1, last - size))
                begin = max(first, nearest)
                yield begin, last
                size, last = min(2 * max(size, last - begin), _PIECE), begin

    def _is_for_scouts(self, pieces: Sequence[Piece]) -> bool:
        """Return whether other processes are worth starting for *pieces*, and have where to start them from."""
        stored_before = self._walker.snapshots.stored_before
        return sum(end - start for start, end in pieces) >= _WORTH_SCOUTS and all(
            start - stored_before(start) <= _PIECE for start, _ in pieces
        )

    def last_hit_in(self, watch: Watch, start: int, end: int) -> Hit | None:
        """Return the last hit on the lines from *start* to before *end*."""
        traps = True
        while start < end:
            found = self._lines(watch, start, end, traps=traps)
            for count, line in enumerate(reversed(found.lines), 1):
                hit = self._last_true(self._hits_on_line(watch, line))
                if hit is not None:
                    return hit
                if found.are_trapped and count == _FALSE_LINES:
                    # Not what was written, but what stands beside it, and all the time.
                    traps, end = False, line
                    break
            else:
                end = found.since
        return None

    def _lines(self, watch: Watch, start: int, end: int, *, traps: bool) -> _Found:
        """Run from *start* to *end*; return the lines that may have hits, as far back as they are known."""
        core = self._walker.machine.core
        self._walker.stand_at(start)
        found = _Found(start)
        hooks_until = 0 if traps else end
        kept: list[Snapshot] = []
        while (at := core.branches) < end:
            watch.put_on(core, stops=False, traps=at >= hooks_until)
            self._walker.run(min(at + _STRIDE, end))
            noted, forgotten, is_trapped = self._taken(), core.hits_noted, core.traps
            unseen = _unseen(core)
            if unseen and core.branches - at < TRAPS * WORTH:
                hooks_until = core.branches + _STRIDE
            if forgotten > len(noted):
                found.lines.clear()
                found.since = noted[0][1]
            # What a trap names may also be the line that is stood before.
            lines = watch.lines(noted, trapped=is_trapped)
            found.lines += [line for line in dict.fromkeys([*lines, *unseen]) if line < end]
            found.are_trapped |= is_trapped
            if core.branches < end and core.branches - (kept[-1].branches if kept else start) >= _STRIDE:
                kept.append(self._walker.snapshots.take())
                self._walker.snapshots.keep(kept[-1])
        self._unwatch()
        if not found.lines:
            self._walker.snapshots.forget(kept)
        return found

    def _last_true(self, hits: Sequence[Hit]) -> Hit | None:
        return next((hit for hit in reversed(hits) if self._is_true(hit)), None)

    # -- both ways ---------------------------------------------------------------------------------------------

    def _parts(self, watch: Watch, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts, in order, of the lines from *start* to before *end* that can have hits."""
        pages = watch.pages
        if pages is None:
            return [(start, end)] if start < end else []
        parts: list[tuple[int, int]] = []
        for each in self._walker.snapshots.index.intervals_writing(pages):
            first, last = max(each.start, start), min(each.end, end)
            if first < last and parts and parts[-1][1] == first:
                parts[-1] = parts[-1][0], last
            elif first < last:
                parts.append((first, last))
        return parts

    def _is_true(self, hit: Hit) -> bool:
        """Return whether what is asked of the guest, besides the hit, holds."""
        condition = hit.condition
        if not isinstance(condition, When):
            return True
        self._walker.go_to(hit.position)
        if is_behind(condition):
            self._walker.forward(self._end)
        return self.holds(condition)

    def _hits_on_line(self, watch: Watch, branches: int) -> list[Hit]:
        """Return all hits on the line that begins at *branches*, in the order in which they end a search on."""
        self._walker.stand_at(branches)
        noted, _ = self._noted_on_line(watch, traps=False)
        entered = None
        if any(each[0] & (WATCH_READ | WATCH_WRITE) and _crosses(each) for each, _ in noted):
            trapped, are_all = self._noted_on_line(watch, traps=True)
            entered = entered_pages(trapped) if are_all else None
        hits = [hit for each, steps in noted for hit in watch.hits(each, steps, entered)]
        return sorted(hits, key=lambda hit: (hit.position, is_behind(hit.condition)))

    def _noted_on_line(self, watch: Watch, *, traps: bool) -> tuple[list[tuple[Noted, int]], bool]:
        """Go along the line that begins here, and come back.

        Return what is noted on it, each with its instruction, and whether that is by *traps*, and all.
        """
        core, begin = self._walker.machine.core, self._walker.begin
        first, stop = core.instructions, STOP_HALT
        noted: list[tuple[Noted, int]] = []
        are_trapped = True
        if not self._walker.has_no_steps:
            watch.put_on(core, stops=False, traps=traps)
            with self._walker.gone_along() as stop:
                # An instruction that has begun is counted.
                noted = [(each, max(0, each[2] - first - 1)) for each in self._taken()]
                are_trapped = _is_trapped(core)
                # What comes back with the snapshot is nobody's access.
                self._unwatch()
        done = core.instructions - first
        if begin.branches < self._end:
            # And what happens on the way into the handler, and what devices write at the branch that ends the line:
            # that is between its last instruction and the next line.
            watch.put_on(core, stops=False, traps=traps)
            self._walker.run(begin.branches + 1)
            last = done if stop == STOP_HALT else max(0, done - 1)
            noted += [(each, last) for each in self._taken()[len(noted) :]]
            are_trapped &= _is_trapped(core)
            self._unwatch()
            self._walker.restore(begin)
        return [(each, steps) for each, steps in noted if each[1] == begin.branches], are_trapped

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

    def _taken(self) -> list[Noted]:
        return self._walker.machine.core.take_hits()

    def _unwatch(self) -> None:
        self._walker.machine.core.stop_at_hits = False
        self._walker.machine.core.set_watches((), (), ())


def _is_trapped(core: Core) -> bool:
    """Return whether traps watch memory, and have not run out."""
    return core.traps and core.traps_left > 0


def _unseen(core: Core) -> list[int]:
    """Return the line of which traps have not seen all, if they ran out: that which ended where the core stands."""
    return [core.branches - 1] if core.traps and core.traps_left == 0 else []


def _crosses(noted: Noted) -> bool:
    """Return whether an access goes on into another page."""
    return noted[4] % PAGE_SIZE + noted[5] > PAGE_SIZE
