"""A recording as a line of positions, with a machine that can be put on any of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from weakref import ref

from revirt.errors import InterruptedSeekError, UsageError
from revirt.index import Index, build_index
from revirt.log.events import Event
from revirt.machine.machine import Machine
from revirt.position import Position
from revirt.recording import Recording
from revirt.render import Progress
from revirt.replay.session import ReplaySession, how_lost
from revirt.timeline import lookup
from revirt.timeline.calls import Calls, Frame
from revirt.timeline.conditions import Condition, Stopped, StopReason, When, is_behind, reason_of
from revirt.timeline.events import Events
from revirt.timeline.finder import Finder, Found
from revirt.timeline.instructions import InstructionCounter
from revirt.timeline.scouts import Scouts
from revirt.timeline.search import Searcher
from revirt.timeline.snapshots import Snapshot
from revirt.timeline.walker import ENDLESS, InterruptedSearchError, Walker

MOST_MARKS = 1000
"""Marks at a time."""
CONSOLE_EVENTS = 50_000
"""Events that are looked at for what a console shows: more take longer than an eye blinks."""
_CHUNK = 1_000_000
"""Branches between two looks at the guest's clock."""


class Timeline:
    """The life of the guest in *recording*; it stands at the beginning of what is kept.

    A position ``branches:steps`` is on the straight line that begins with taken branch number *branches*, before the
    instruction number *steps* of it (from 0); of a line that ends with HLT also behind that.  On the branch itself
    (steps 0) all has arrived that is logged there, and no interrupt has been taken yet.  Where one is taken the line
    has no further positions.

    Everything that moves raises CorruptError and DivergenceError as a replay does, and seeks and `icount` raise
    InterruptedSeekError after `interrupt`; then it stays where it is.  The recording is never changed.
    """

    def __init__(self, recording: Recording, *, jobs: int | None = None) -> None:
        """Searches that take long are done by so many processes, *jobs* (default: one for each core)."""
        self.recording = recording
        self.events = Events(recording)
        """The events, by their ordinal."""
        self._session = ReplaySession(recording, events=self.events.after)
        self._walker = Walker(self._session, Index(recording))
        self._counter = InstructionCounter(self._walker)
        info = self._session.info
        # A halted guest stands somewhere on a line whose beginning went.
        self.start = Position(info.branches + info.halted)
        """The oldest position."""
        first, last = self.start.branches, self.end.branches
        scouts = Scouts(recording.path, (jobs or len(os.sched_getaffinity(0))) - 1)
        self._searcher = Searcher(self._walker, first, last, self._holds, scouts)
        self._calls = Calls(self._walker, first, last)
        self._finder = Finder(self._walker, self._searcher, self.events, self.start)
        self._marks: dict[int, tuple[Position, ref[Snapshot]]] = {}
        self._next_mark = 1
        if info.halted:
            self._walker.run_to(self.start.branches)

    @property
    def machine(self) -> Machine:
        """The machine, to look at: at `position`."""
        return self._session.machine

    @property
    def position(self) -> Position:
        """Where the machine stands."""
        return self._walker.position

    @property
    def end(self) -> Position:
        """The last branch that the recording tells of; positions on the line behind it may follow."""
        return Position(self.recording.end_branches)

    @property
    def snapshots_size(self) -> int:
        """Bytes of memory that are kept to be at other positions soon."""
        return self._walker.snapshots.size

    @property
    def next_event(self) -> int:
        """Ordinal of the event that comes next."""
        return self._session.replayer.next_event

    @property
    def index(self) -> Index:
        """The index of the recording; looked for again as long as it is not complete."""
        snapshots = self._walker.snapshots
        if not snapshots.index.is_complete:
            snapshots.index = Index(self.recording)
        return snapshots.index

    def build_index(self, *, jobs: int | None = None, progress: Progress | None = None) -> Index:
        """Make the index where there is none, as `revirt.index.build_index` does; raises as it, and return it."""
        self._walker.snapshots.index = build_index(self.recording, jobs=jobs, progress=progress).index
        return self.index

    # -- going somewhere ---------------------------------------------------------------------------------------

    def seek(self, position: Position) -> Position:
        """Go to *position*, and return it; raises UsageError if there is no such position, and stays."""
        with self._going():
            return self._go(position)

    def seek_event(self, ordinal: int) -> Position:
        """Go to the place of event number *ordinal*; raises UsageError if there is none.

        There it has just come; what comes while the CPU sleeps, and an interrupt, is about to: there is no position
        between that and the first of the handler.
        """
        event = self._event(ordinal)
        with self._going():
            return self._walker.go_to_event(ordinal, max(event.branches, self.start.branches))

    def seek_fraction(self, fraction: float) -> Position:
        """Go to the branch that is *fraction* (0 to 1) of the way from `start` to `end`; raises UsageError."""
        if not 0 <= fraction <= 1:
            raise UsageError(f"{fraction} is not between 0 and 1")
        first, last = self.start.branches, self.end.branches
        return self.seek(Position(first + round((last - first) * fraction)))

    def seek_time(self, guest_ns: int) -> Position:
        """Go to the first branch at which the guest's clock was at *guest_ns* or later; raises UsageError."""
        info = next((each for each in reversed(self.recording.checkpoints) if each.guest_ns < guest_ns), None)
        low = max(info.branches, self.start.branches) if info is not None else self.start.branches
        high = low
        with self._going():
            # Time never goes back: run on until it is behind, then halve.
            while not self._is_time(high, guest_ns):
                low = high + 1
                if low > self.end.branches:
                    raise UsageError(f"the recording ends before {guest_ns / 1e9:.3f} s of the guest's time")
                high = min(high + _CHUNK, self.end.branches)
            while low < high:
                middle = (low + high) // 2
                if self._is_time(middle, guest_ns):
                    high = middle
                else:
                    low = middle + 1
            return self._go(Position(low))

    def icount(self) -> int:
        """Return how many instructions were executed before here, from the oldest checkpoint on.

        Raises UsageError if there is no index up to here.
        """
        here = self.position
        with self._going():
            count = self._counter.count(here, self.index)
            self._go(here)
        return count

    def seek_icount(self, instructions: int) -> Position:
        """Go to the last position before which so many *instructions* were executed; raises UsageError.

        There it stands before the instruction of that number, from 0.
        """
        if instructions < 0:
            raise UsageError("instructions are counted from 0")
        with self._going():
            found = self._counter.find(instructions, self.end.branches, self.index)
            try:
                return self._go(found)
            except UsageError:
                raise UsageError(
                    f"{self.recording.path.name} ends before {instructions} instructions were executed"
                ) from None

    def _is_time(self, branches: int, guest_ns: int) -> bool:
        """Go to *branches*, and return whether the guest's clock is at *guest_ns* or later there."""
        self._walker.stand_at(branches)
        return self.machine.clock.now_ns >= guest_ns

    def seek_end(self) -> Position:
        """Go to the last position."""
        with self._going():
            return self._go_to_end()

    # -- marks of the user --------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> dict[int, Position]:
        """The marks that `checkpoint` made, by their number."""
        return {number: position for number, (position, _) in self._marks.items()}

    def checkpoint(self) -> int:
        """Mark this position, to be back at any time, mostly at once; return the mark's number, from 1 on.

        Raises UsageError if there are too many.
        """
        if len(self._marks) >= MOST_MARKS:
            raise UsageError(f"there are {MOST_MARKS} checkpoints already", hint="delete some")
        number = self._next_mark
        self._next_mark += 1
        snapshot = self._walker.begin
        self._walker.snapshots.mark(snapshot)
        self._marks[number] = (self.position, ref(snapshot))
        return number

    def restart(self, number: int) -> Position:
        """Go to mark *number*; raises UsageError if there is none."""
        position, snapshot = self._mark(number)
        with self._going():
            if snapshot is not None:
                self._walker.restore(snapshot)
            return self._go(position)

    def delete_checkpoint(self, number: int) -> None:
        """Forget mark *number*; raises UsageError if there is none."""
        _, snapshot = self._mark(number)
        self._walker.snapshots.unmark(snapshot)
        del self._marks[number]

    def _mark(self, number: int) -> tuple[Position, Snapshot | None]:
        try:
            position, snapshot = self._marks[number]
            return position, snapshot()
        except KeyError:
            known = ", ".join(map(str, self._marks)) or "none"
            raise UsageError(f"there is no checkpoint {number}", hint=f"there are: {known}") from None

    # -- a step --------------------------------------------------------------------------------------------------

    def forward(self) -> bool:
        """Go to the next position; return whether there is one."""
        return self._forward(1) > 0

    def back(self) -> bool:
        """Go to the position before; return whether there is one."""
        return self._back(1) > 0

    def _forward(self, count: int) -> int:
        return self._walker.forward(self.end.branches, count)

    def _back(self, count: int) -> int:
        return self._walker.back(count) if self.position > self.start else 0

    def next_branch(self) -> Stopped:
        """Go on to where the next line begins, or to the end."""
        if self.position.branches >= self.end.branches:
            return Stopped(StopReason.END, self._go_to_end())
        return Stopped(StopReason.STEP, self._go(Position(self.position.branches + 1)))

    def previous_branch(self) -> Stopped:
        """Go back to where this line begins, or the one before if this is there, or the start."""
        here = self.position
        if here <= self.start:
            return Stopped(StopReason.START, here)
        return Stopped(StopReason.STEP, self._go(Position(here.branches - (here.steps == 0))))

    def step(self, count: int = 1) -> Stopped:
        """Go *count* positions on, or to the end, or until there is an interrupt."""
        return self._repeat(self._forward, count, StopReason.END)

    def step_back(self, count: int = 1) -> Stopped:
        """Go *count* positions back, or to the start, or until there is an interrupt."""
        return self._repeat(self._back, count, StopReason.START)

    def _repeat(self, move: Callable[[int], int], count: int, edge: StopReason) -> Stopped:
        try:
            with self._searching():
                while count > 0:
                    done = move(count)
                    if not done:
                        return Stopped(edge, self.position)
                    count -= done
                    if self._walker.is_interrupted:
                        return Stopped(StopReason.INTERRUPTED, self.position)
        except InterruptedSearchError:
            return Stopped(StopReason.INTERRUPTED, self.position)
        return Stopped(StopReason.STEP, self.position)

    # -- out of a function ---------------------------------------------------------------------------------------

    def finish(self) -> Stopped:
        """Run on to where the function that is executed here has returned, or to the end.

        It is left by the return that takes its address from the stack where it is now, or above, and that no call
        from here on put there.  That is right whatever it calls, and whatever interrupts it.  A function that is left
        otherwise is missed, as by longjmp(); one that was not called, as the handler of an interrupt, returns when the
        one does that it interrupted.  The return address has to be within 16 KiB of the stack pointer, in user mode
        256 KiB.
        """
        here = self.position
        try:
            with self._searching():
                line = self._calls.returning(Frame.of(self.registers()))
                if line is None:
                    return Stopped(StopReason.END, self._go_to_end())
        except InterruptedSearchError:
            return Stopped(StopReason.INTERRUPTED, self._go(max(here, self.position)))
        return Stopped(StopReason.RETURN, self._go(Position(line + 1)))

    def back_out(self) -> Stopped:
        """Go back to the call of the function that is executed here, or to the start; what `finish` says holds here."""
        here = self.position
        try:
            with self._searching():
                line = self._calls.calling(Frame.of(self.registers()))
                if line is None:
                    return Stopped(StopReason.START, self._go(self.start))
        except InterruptedSearchError:
            return Stopped(StopReason.INTERRUPTED, self._go(min(here, self.position)))
        self._walker.stand_at(line)
        self._walker.advance(ENDLESS)
        return Stopped(StopReason.CALL, self.position)

    # -- searching -----------------------------------------------------------------------------------------------

    def run(self, conditions: Sequence[Condition] = (), until: Position | None = None) -> Stopped:
        """Go on to the first place behind this one where one of *conditions* holds, to *until*, or to the end.

        Raises UsageError, and stays, for a condition that cannot be looked for, and where there is no position *until*;
        and whatever a predicate raises, where that was asked.
        """
        here, last = self.position, Position(self.end.branches + 1)
        limit = min(until, last) if until is not None else last
        if limit <= here:
            return Stopped(StopReason.END if until is None else StopReason.UNTIL, here)
        try:
            with self._searching():
                found = self._finder.first(conditions, limit)
                if found is None and until is not None and limit == until:
                    return Stopped(StopReason.UNTIL, self._go(until))
                if found is None:
                    # Whoever was on the line behind the end stays there.
                    return Stopped(StopReason.END, self._go(max(here, self._go_to_end())))
        except InterruptedSearchError:
            # It looks around from before here on.
            return Stopped(StopReason.INTERRUPTED, self._go(max(here, self.position)))
        self._go(found.position)
        if is_behind(found.condition):
            self.forward()
        return self._stopped(found)

    def run_back(self, conditions: Sequence[Condition] = (), until: Position | None = None) -> Stopped:
        """Go back to the last place before this one where one of *conditions* holds, to *until*, or to the start.

        Raises as `run`.
        """
        here = self.position
        limit = max(until, self.start) if until is not None else self.start
        if limit >= here:
            return Stopped(StopReason.START if here == self.start else StopReason.UNTIL, here)
        try:
            with self._searching():
                found = self._finder.last(conditions, here, limit)
                if found is None:
                    edge = StopReason.START if limit == self.start else StopReason.UNTIL
                    return Stopped(edge, self._go(limit))
        except InterruptedSearchError:
            return Stopped(StopReason.INTERRUPTED, self._go(min(here, self.position)))
        self._go(found.position)
        return self._stopped(found)

    @contextmanager
    def _searching(self) -> Iterator[None]:
        """Let `interrupt` end what is done; where it cannot be done, or Ctrl-C ends a script, stay here."""
        with self._walker.staying(UsageError, KeyboardInterrupt), self._searcher.searching():
            yield

    def _stopped(self, found: Found) -> Stopped:
        condition = found.condition
        return Stopped(reason_of(condition), self.position, condition, found.address, found.value)

    def interrupt(self) -> None:
        """Let the search, or the steps, that are on end where they are, or a seek where it began.

        What begins later does not notice.  Safe from any thread and any signal handler.
        """
        self._walker.interrupt()

    # -- looking ----------------------------------------------------------------------------------------------------

    def registers(self) -> dict[str, int]:
        """Return every register of the CPU by name, as `revirt.core.Core.registers` does."""
        return self.machine.core.registers()

    def read_physical(self, address: int, size: int) -> bytes:
        """Return *size* bytes of RAM from physical *address* on, fewer where it ends."""
        return lookup.read_physical(self.machine.core, address, size)

    def read(self, address: int, size: int) -> bytes:
        """Return *size* bytes from linear *address* on, as the guest sees them; fewer if a page is not there."""
        return lookup.read_linear(self.machine.core, address, size)

    def console(self, size: int) -> bytes:
        """Return what the guest has sent up to here, its last *size* bytes at most, out of `CONSOLE_EVENTS` events."""
        parts = [self._session.replayer.place.pending_output]
        missing = size - len(parts[0])
        for _, event in islice(self.events.before(self.next_event), CONSOLE_EVENTS):
            if missing <= 0:
                break
            if event.is_serial_output:
                parts.append(event.data)
                missing -= len(event.data)
        return b"".join(reversed(parts))[-size:] if size else b""

    def sent(self) -> Iterator[bytes]:
        """Yield all that the guest has sent on its serial line up to here, from the beginning of what is kept."""
        coming = self.next_event
        for event in islice(self.events.after(self.events.first), coming - self.events.first):
            if event.is_serial_output:
                yield event.data
        yield self._session.replayer.place.pending_output

    def find(
        self, data: bytes, start: int = 0, end: int | None = None, *, physical: bool = False
    ) -> Iterator[int]:
        """Yield the addresses, in order, at which *data* stands in memory from *start* to before *end* (None: all).

        Addresses are linear, as the guest's page tables have them here, or *physical*.  Raises UsageError if *data* is
        empty, or more than 64 GiB are mapped there.  The timeline must not be moved meanwhile.
        """
        return lookup.find(self.machine.core, data, start, end, physical=physical)

    # -- details --------------------------------------------------------------------------------------------------

    @contextmanager
    def _going(self) -> Iterator[None]:
        """Let `interrupt` end what is done; then, and if anything else does, stay here."""
        here = self.position
        try:
            with self._walker.staying(BaseException), self._searcher.searching():
                yield
        except InterruptedSearchError:
            raise InterruptedSeekError(here) from None

    def _go(self, position: Position) -> Position:
        self._check(position)
        self._walker.go_to(position)
        if self.position != position:
            length = self._walker.steps
            raise UsageError(f"there is no position {position}: {length} instructions follow that branch")
        return position

    def _go_to_end(self) -> Position:
        self._walker.stand_at(self.end.branches)
        last = self.events[self.events.end - 1]
        if last.halted and last.branches == self.end.branches:
            self._walker.advance(ENDLESS)
        return self.position

    def _holds(self, condition: When) -> bool:
        """Return whether the predicate of *condition* holds here."""
        here = self.position
        holds = bool(condition.predicate(self))
        if self.position != here:
            raise UsageError("a predicate must not move the timeline")
        return holds

    def _check(self, position: Position) -> None:
        name = self.recording.path.name
        if position < self.start:
            raise UsageError(
                f"position {position} of {name} {how_lost(self.recording)}"
                if self.start.branches
                else f"no {position}",
                hint=f"the oldest left is {self.start}",
            )
        if position.branches > self.end.branches:
            raise UsageError(f"{name} ends before position {position}", hint=f"it ends at {self.end}")

    def _event(self, ordinal: int) -> Event:
        try:
            return self.events[ordinal]
        except IndexError:
            last = self.events.end - 1
            raise UsageError(
                f"there is no event {ordinal}", hint=f"there are those from {self.events.first} to {last}"
            ) from None
