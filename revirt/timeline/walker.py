"""A replay that goes to any branch of its recording, and along the straight lines behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from revirt.core import STOP_LIMIT, STOP_STEPS
from revirt.errors import DivergenceError, RecordingError
from revirt.index import Index
from revirt.machine.machine import WATCHED, Machine
from revirt.position import Position
from revirt.replay.session import ReplaySession
from revirt.timeline.snapshots import Snapshot, Snapshots, first_branch

APART = 24_000_000
"""Branches between snapshots taken on a long way: about a third of a second of replay."""
ENDLESS: Final = 1 << 62
"""More positions than a line has."""
INTERRUPTED = "interrupted"
"""Why a replay halts that is asked to end a search."""
_STEPS_AT_ONCE = 50_000
"""Instructions of a line between two looks at whether a search is to end."""
_RUNGS = tuple(1 << bits for bits in range(24, 9, -2))
"""How far before where it goes snapshots are left, in branches, for what is likely next: steps back."""


class InterruptedSearchError(Exception):
    """Somebody wants the search to end that is on."""


class Walker:
    """Moves *session*, which stands at a checkpoint."""

    def __init__(self, session: ReplaySession, index: Index) -> None:
        self.session = session
        self.snapshots = Snapshots(session, index)
        self.steps = 0
        """Instructions behind the branch where the machine was last."""
        self.anchor: Snapshot | None = None
        """That branch, if the machine is behind it, or where it last was."""
        self.is_searching = False
        """Whether an interrupt ends what is done."""
        self._was_interrupted = False
        self._is_at_end = False
        if not session.machine.halted:
            self._settle()

    @property
    def machine(self) -> Machine:
        """The machine, at `position`."""
        return self.session.machine

    @property
    def position(self) -> Position:
        """Where the machine stands."""
        if self.steps:
            assert self.anchor is not None
            return Position(self.anchor.branches, self.steps)
        return Position(self.machine.core.branches)

    @property
    def begin(self) -> Snapshot:
        """The snapshot of the branch behind which the machine stands, taken if there is none."""
        if not self.steps and (self.anchor is None or self.anchor.branches != self.machine.core.branches):
            return self.snapshots.take()
        assert self.anchor is not None
        return self.anchor

    def listen(self) -> None:
        """Forget what interrupts there were."""
        self.session.replayer.go_on()
        self._was_interrupted = False

    @property
    def is_interrupted(self) -> bool:
        """Whether there was an interrupt since `listen`."""
        return self._was_interrupted or self.session.replayer.is_stopping

    def stand_at(self, branches: int) -> None:
        """Go to taken branch number *branches*, which there is.

        What is damaged on the way, or diverges, is raised, and the machine is where it was.
        """
        before, steps = self.begin, self.steps
        try:
            self._stand_at(branches)
        except (RecordingError, DivergenceError):
            self.restore(before)
            self.advance(steps)
            raise

    def _stand_at(self, branches: int) -> None:
        here = self.position
        nearest = self.snapshots.nearest(branches)
        if self.steps and here.branches <= branches and here.branches >= first_branch(nearest):
            self.return_to_anchor()
        elif self.steps or not first_branch(nearest) <= here.branches <= branches:
            self.steps, self._is_at_end = 0, False
            self.snapshots.go_to(nearest)
            if not isinstance(nearest, Snapshot):
                self._settle()
        self.run_to(branches)

    def run_to(self, branches: int) -> None:
        """Run forwards to *branches*, leaving snapshots."""
        here = self.machine.core.branches
        stops = {branches - rung for rung in _RUNGS} | set(range(here + APART, branches, APART))
        taken = 0
        for stop in sorted(each for each in stops if here < each < branches):
            self.run(stop)
            self.snapshots.keep(self.snapshots.take())
            taken += 1
        self.run(branches)
        if taken:
            self.snapshots.thin_out(branches)

    def run(self, branches: int) -> None:
        """Run to taken branch number *branches*; less far if the core is to stop at a hit.

        Raises InterruptedSearchError if somebody wants a search to end: where that is, all has arrived.
        """
        core = self.machine.core
        while core.branches < branches:
            stop = self.session.run(branches)
            if stop.halted == INTERRUPTED:
                self._was_interrupted = True
                self._settle()
                if self.is_searching:
                    raise InterruptedSearchError
            elif stop.halted == WATCHED:
                return
            elif core.branches < branches:
                raise DivergenceError(
                    self.machine.moment().position,
                    "end",
                    expected=f"to get to {branches} branches",
                    found=stop.halted or "the guest ended",
                )

    def _settle(self) -> None:
        """Let all arrive that the log has for where the machine stands, however often somebody interrupts that."""
        is_settled = False
        while not is_settled:
            self._was_interrupted |= self.session.replayer.is_stopping
            self.session.replayer.go_on()
            is_settled = self.session.run(self.machine.core.branches).halted != INTERRUPTED

    def look_up(self) -> None:
        """Raise InterruptedSearchError if somebody wants a search to end, which is on."""
        if self.is_searching and self.is_interrupted:
            raise InterruptedSearchError

    def restore(self, snapshot: Snapshot) -> None:
        """Go to *snapshot*."""
        self.snapshots.restore(snapshot)
        self.steps, self._is_at_end = 0, False

    def return_to_anchor(self) -> None:
        """Go back to the branch behind which the machine stands."""
        assert self.anchor is not None
        self.restore(self.anchor)

    def forward(self, end: int) -> bool:
        """Go to the next position of a recording whose last branch is *end*; return whether there is one."""
        if self.advance(1):
            return True
        here = self.position
        if here.branches >= end:
            return False
        self.stand_at(here.branches + 1)
        return True

    def go_to(self, position: Position) -> None:
        """Go to *position*, which there is."""
        here = self.position
        if position.branches != here.branches or position.steps < here.steps:
            self.stand_at(position.branches)
        self.advance(position.steps - self.steps)

    def go_to_event(self, ordinal: int, branches: int) -> Position:
        """Go to the place of event number *ordinal*, which is on branch number *branches*, and return it.

        There it has just come; what comes while the CPU sleeps, and an interrupt, is about to.
        """
        self.stand_at(branches)
        while self.session.replayer.next_event <= ordinal and self.advance(1):
            pass
        return self.position

    def advance(self, count: int) -> int:
        """Go up to *count* positions on, on this line; return how many it had."""
        core = self.machine.core
        if count <= 0 or self._is_at_end:
            return 0
        if not self.steps:
            moment = self.machine.moment()
            if self.session.replayer.is_interrupted_at(moment) or self.machine.ended is not None:
                return 0
            self.anchor = self.begin
        before = core.instructions
        try:
            # Past the next taken branch would be off the line; there nothing would arrive that the log has.
            stop = self.step_core(count, core.branches + 1)
        except InterruptedSearchError:
            self.steps += core.instructions - before
            raise
        done = core.instructions - before
        if stop == STOP_LIMIT:
            # The last of these was the one that branches; a line may be empty, as that before a guest's first branch.
            done = max(0, done - 1)
            steps = self.steps + done
            self.return_to_anchor()
            if steps:
                core.step(steps)
            self.steps = steps
            return done
        self.steps += done
        self._is_at_end = stop != STOP_STEPS
        return done

    def step_core(self, count: int, limit: int) -> int:
        """Do as `Core.step` does.  Raises InterruptedSearchError if somebody wants a search to end."""
        core = self.machine.core
        while True:
            before = core.instructions
            stop = core.step(min(count, _STEPS_AT_ONCE), limit)
            count -= core.instructions - before
            if stop != STOP_STEPS or count <= 0:
                return stop
            self.look_up()

    @contextmanager
    def hearing(self, hear: Callable[[], None]) -> Iterator[None]:
        """Call *hear* whenever the guest is about to transmit a byte."""
        replayer = self.session.replayer
        replayer.output = lambda _: hear()
        try:
            yield
        finally:
            replayer.output = None
