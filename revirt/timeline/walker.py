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
from revirt.timeline.line import MARKS_APART, Line
from revirt.timeline.snapshots import Snapshot, Snapshots, first_branch

APART = 24_000_000
"""Branches between snapshots taken on a long way: about a third of a second of replay."""
ENDLESS: Final = 1 << 62
"""More positions than a line has."""
INTERRUPTED = "interrupted"
"""Why a replay halts that is asked to end a search."""
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
        self._line: Line | None = None
        """The line behind that branch, if the machine is on it, or the one where it last was."""
        self._is_inside = False
        """Whether it stands inside a block: then it has to go back to go on."""
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
            return Position(self.line.begin.branches, self.steps)
        return Position(self.machine.core.branches)

    @property
    def line(self) -> Line:
        """The line that the machine stands on."""
        line = self._line
        if not self.steps and (line is None or line.begin.branches != self.machine.core.branches):
            line = self._line = Line(self.snapshots.take())
        assert line is not None
        return line

    @property
    def begin(self) -> Snapshot:
        """The snapshot of the branch behind which the machine stands, taken if there is none."""
        return self.line.begin

    def interrupt(self) -> None:
        """Let a search that is on end.  Safe from any thread and any signal handler."""
        self._was_interrupted = True
        self.session.replayer.stop(INTERRUPTED)

    def listen(self) -> None:
        """Forget what interrupts there were."""
        self.session.replayer.go_on()
        self._was_interrupted = False

    @property
    def is_interrupted(self) -> bool:
        """Whether there was an interrupt since `listen`."""
        return self._was_interrupted

    def stand_at(self, branches: int) -> None:
        """Go to taken branch number *branches*, which there is.

        What is damaged on the way, or diverges, is raised, and the machine is where it was.
        """
        with self.staying(RecordingError, DivergenceError):
            self._stand_at(branches)

    @contextmanager
    def staying(self, *errors: type[BaseException]) -> Iterator[None]:
        """Be where it is now if one of *errors* leaves the block."""
        line, steps = self.line, self.steps
        try:
            yield
        except errors:
            self.is_searching = False
            self.restore(line.begin)
            self._line = line
            self.advance(steps)
            raise

    def _stand_at(self, branches: int) -> None:
        here = self.position
        nearest = self.snapshots.nearest(branches)
        if self.steps and here.branches <= branches and here.branches >= first_branch(nearest):
            self.restore(self.begin)
        elif self.steps or not first_branch(nearest) <= here.branches <= branches:
            self._leave_line()
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
            # It may have been interrupted while memory was brought to where this begins.
            self.look_up()
            stop = self.session.run(branches)
            if stop.halted == INTERRUPTED:
                self._settle()
                self.look_up()
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
            self.session.replayer.go_on()
            is_settled = self.session.run(self.machine.core.branches).halted != INTERRUPTED

    def look_up(self) -> None:
        """Raise InterruptedSearchError if somebody wants a search to end, which is on."""
        if self.is_searching and self.is_interrupted:
            raise InterruptedSearchError

    def restore(self, snapshot: Snapshot) -> None:
        """Go to *snapshot*."""
        self._leave_line()
        self.snapshots.restore(snapshot)

    def _leave_line(self, steps: int = 0) -> None:
        self.steps, self._is_inside, self._is_at_end = steps, False, False

    def forward(self, end: int, count: int = 1) -> int:
        """Go up to *count* positions on, in a recording whose last branch is *end*; return how many.

        None is a sign of the end; else there may be more, on the line that follows.
        """
        done = self.advance(count)
        if done or self.position.branches >= end:
            return done
        self.stand_at(self.position.branches + 1)
        return 1

    def back(self, count: int) -> int:
        """Go up to *count* positions back, from one that is not the first; return how many, and there may be more.

        If that is interrupted it is where it was.
        """
        here = self.position
        with self.staying(InterruptedSearchError):
            if not here.steps:
                self.stand_at(here.branches - 1)
                self.advance(ENDLESS)
                return 1
            done = min(count, here.steps)
            self.go_to(Position(here.branches, here.steps - done))
            return done

    def go_to(self, position: Position) -> None:
        """Go to *position*, which there is."""
        if position.branches != self.position.branches:
            self.stand_at(position.branches)
        elif position.steps < self.steps:
            self._return_to(self.line, position.steps)
        self.advance(position.steps - self.steps)

    def go_to_event(self, ordinal: int, branches: int) -> Position:
        """Go to the place of event number *ordinal*, which is on branch number *branches*, and return it.

        There it has just come; what comes while the CPU sleeps, and an interrupt, is about to.
        """
        self.stand_at(branches)
        replayer, stride = self.session.replayer, 1
        # On the last line, what comes behind the last event is not known.
        grows = branches < self.session.recording.end_branches
        while replayer.next_event <= ordinal:
            before = self.steps
            if not self.advance(stride):
                break
            if replayer.next_event > ordinal and stride > 1:
                self.go_to(Position(branches, before))
                grows = False
            stride = 2 * stride if grows else max(1, stride // 2)
        return self.position

    def advance(self, count: int) -> int:
        """Go up to *count* positions on, on this line; return how many it had."""
        if count <= 0 or self._is_at_end or (not self.steps and self.has_no_steps):
            return 0
        line, before = self.line, self.steps
        nearest, _ = line.before(before + count)
        if self._is_inside or nearest > before:
            self._return_to(line, before + count)
        stop = self._go_along(line, before + count)
        if stop == STOP_LIMIT:
            # The last instruction branched; a line may also be empty, as that before a guest's first branch.
            length = max(0, self.steps - 1)
            self._return_to(line, length)
            self._go_along(line, length)
        else:
            self._is_at_end = stop != STOP_STEPS
        return self.steps - before

    @property
    def has_no_steps(self) -> bool:
        """Whether nothing is executed on the line that begins here: an interrupt is taken, or the guest has ended."""
        return (
            self.session.replayer.is_interrupted_at(self.machine.moment()) or self.machine.ended is not None
        )

    def _return_to(self, line: Line, steps: int) -> None:
        """Go to the last mark on *line* that is not behind *steps*."""
        nearest, snapshot = line.before(steps)
        self.snapshots.restore(snapshot)
        self._leave_line(nearest)

    def _go_along(self, line: Line, steps: int) -> int:
        """Go on from where a block begins to *steps* on *line*, leaving marks; return why the core stopped."""
        stop = STOP_STEPS
        while stop == STOP_STEPS and (mark := line.next_mark(self.steps, steps)):
            stop = self._step_to(line, mark, whole_blocks=True)
            if stop == STOP_STEPS:
                line.add(self.steps, self.snapshots.take())
                self.look_up()
        if stop == STOP_STEPS and self.steps < steps:
            self._is_inside = True
            stop = self._step_to(line, steps, whole_blocks=False)
        return stop

    def _step_to(self, line: Line, steps: int, *, whole_blocks: bool) -> int:
        core = self.machine.core
        before = core.instructions
        # Past the next taken branch would be off the line; there nothing would arrive that the log has.
        stop = core.step(steps - self.steps, line.begin.branches + 1, whole_blocks)
        self.steps += core.instructions - before
        return stop

    @contextmanager
    def gone_along(self) -> Iterator[int]:
        """Step over all of the line that begins here; the block is told why the core stopped behind it.

        Then, and if InterruptedSearchError is raised because somebody wants a search to end, it comes back.
        """
        core, begin = self.machine.core, self.begin
        try:
            while (stop := core.step(MARKS_APART, begin.branches + 1, True)) == STOP_STEPS:
                self.look_up()
            yield stop
        finally:
            self.restore(begin)

    @contextmanager
    def hearing(self, hear: Callable[[], None]) -> Iterator[None]:
        """Call *hear* whenever the guest is about to transmit a byte."""
        replayer = self.session.replayer
        replayer.output = lambda _: hear()
        try:
            yield
        finally:
            replayer.output = None
