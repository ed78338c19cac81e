"""Gives a guest inputs that came once before: what reached its parent, to a fork that goes on live.

Rules:
- With the virtual clock an input comes when the guest's clock shows the time at which it came.  For a guest that does
  the same as then that is the very branch; one that does something else gets it at that time all the same, or if it is
  halted then, with the timer that wakes it next: the virtual clock goes from timer to timer.
- With the host's clock the readings of that clock are inputs, too.  They, and all others, come where they came for as
  long as the guest is seen to be there; meanwhile nobody looks at the host's clock.  From the first sign that it is
  not, and from an input on that is changed, the clock is live, and the rest comes by the guest's time.
- What comes by the guest's time waits for one that has not read yet what came before, as a console does.
- Where a halted guest can be woken by nothing else, and its clock stands still for that, the next input comes at once.
- The run ends, if it is to, at the place where the other ended.  A guest that is not there at that time may finish what
  it is doing: the run ends when it has nothing to do, or is still busy a second of its time later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from revirt.machine.inputs import Arrival, ClockRate, ClockReading, DiskDone, Entropy, Halt, Moment
from revirt.machine.machine import Machine


@dataclass(frozen=True, slots=True)
class Given:
    """An input as it came: where, with the hash of the registers there, and when by the guest's clock.

    ``arrival`` is what is to come now, None if nothing is; ``is_changed`` says that it is not what came then.
    """

    moment: Moment
    check: int
    guest_ns: int
    arrival: Arrival | None
    is_changed: bool = False


_LIVE = ClockReading | ClockRate | DiskDone | Entropy
"""What is an answer to what the guest does, and means nothing to one that does something else, unless it was put in the
place of another."""

PATIENCE_NS = 1_000_000_000
"""Guest time that a busy guest is given beyond the time at which the other run ended."""


class Giver:
    """Gives *inputs*, in the order in which they came, and ends the run at *end*, if given.

    *follows* says that the host's clock was read then and is now, so that its readings can be given, too;
    *ends_itself* that the guest ended the other run, so that one at the same place will.
    """

    def __init__(
        self,
        inputs: Iterable[Given],
        end: Given | None = None,
        *,
        follows: bool,
        ends_itself: bool = False,
    ) -> None:
        self.is_following = follows
        """Whether the guest has not been seen to do anything else, and its clock is given, too."""
        self._left = deque(inputs)
        self._end = end
        self._ends_itself = ends_itself
        self._machine: Machine | None = None
        if not self.is_following:
            self.part()

    def attach(self, machine: Machine) -> None:
        """Take the machine that runs."""
        self._machine = machine

    @property
    def machine(self) -> Machine:
        """The machine that runs."""
        assert self._machine is not None, "attach() comes first"
        return self._machine

    def part(self) -> None:
        """Let the guest's clock be live from now on."""
        self.is_following = False
        self._left = deque(
            each for each in self._left if each.is_changed or not isinstance(each.arrival, _LIVE)
        )

    def take(self, moment: Moment) -> list[Arrival]:
        """Return what comes at *moment*, where the machine stands; to be asked again when that has been applied."""
        if self.is_following and self._parts_at(moment):
            self.part()
        taken = self._take_here(moment) if self.is_following else self._take_due(moment)
        if not taken and self._end is not None and self._is_over(self._end, moment):
            taken = self._take_end()
        return taken

    def take_early(self) -> list[Arrival]:
        """Return what comes next, whenever that is."""
        while self._left:
            arrival = self._left.popleft().arrival
            if arrival is not None:
                return [arrival]
        return self._take_end()

    def take_idle(self) -> list[Arrival]:
        """Return what comes because the guest has nothing to do: the end, if it is time."""
        is_time = self._end is not None and self.machine.clock.now_ns >= self._end.guest_ns
        return self._take_end() if is_time else []

    def horizon(self, branches: int) -> int | None:
        """Return the branch count (beyond *branches*) at which to ask again, None if nothing is left to come."""
        if self.is_following:
            following = self._next
            where = following.moment.branches + following.moment.halted if following is not None else 0
        else:
            due_ns = self.due_ns
            if due_ns is None:
                return None
            where = self.machine.clock.branches_at(due_ns)
        return max(where, branches + 1)

    @property
    def due_ns(self) -> int | None:
        """The guest's time at which something comes next, None if that is not known, or nothing does."""
        # What waits for the guest to read is asked for again when that has.
        ready = list(self._left)[:1] if self._is_next_taken else []
        times = [each.guest_ns for each in ready]
        if self._end is not None:
            is_over = self.machine.clock.now_ns > self._end.guest_ns
            times.append(self._end.guest_ns + (PATIENCE_NS if is_over else 0))
        return min(times, default=None)

    @property
    def _is_next_taken(self) -> bool:
        """Whether the guest has room for what comes next."""
        arrival = self._left[0].arrival if self._left else None
        return arrival is None or self.machine.board.has_room_for(arrival)

    @property
    def _next(self) -> Given | None:
        return self._left[0] if self._left else self._end

    def _parts_at(self, moment: Moment) -> bool:
        """Return whether the guest is seen at *moment* to do something else than then, or is about to be made to."""
        following = self._next
        if following is None:
            return True
        where, here = _place(following.moment), _place(moment)
        if where != here:
            return where < here
        return following.is_changed or not self._is_seen(following, moment)

    def _take_here(self, moment: Moment) -> list[Arrival]:
        taken: list[Arrival] = []
        while self._left and _place(self._left[0].moment) == _place(moment) and not self._left[0].is_changed:
            arrival = self._left.popleft().arrival
            if arrival is not None:
                taken.append(arrival)
        return taken

    def _take_due(self, moment: Moment) -> list[Arrival]:
        """Return the next input if it is time for it: one by one, because it may be too much for the guest."""
        while self._left and self._is_next_taken and self._is_due(self._left[0], moment):
            arrival = self._left.popleft().arrival
            if arrival is not None:
                return [arrival]
        return []

    def _take_end(self) -> list[Arrival]:
        end, self._end = self._end, None
        return [end.arrival] if end is not None and end.arrival is not None else []

    def _is_over(self, end: Given, moment: Moment) -> bool:
        if not self.is_following and self.machine.clock.now_ns >= end.guest_ns + PATIENCE_NS:
            return True
        is_here = not self._left and _place(end.moment) == _place(moment)
        is_same = is_here and self._is_due(end, moment) and self._is_seen(end, moment)
        return is_same and not self._ends_itself

    def _is_seen(self, given: Given, moment: Moment) -> bool:
        """Return whether the guest seems to be at *moment* what it was when *given* came, at the same place."""
        return (given.moment.pc, given.check) == (moment.pc, self.machine.core.check())

    def _is_due(self, given: Given, moment: Moment) -> bool:
        now_ns = self.machine.clock.now_ns
        # What came behind a HLT came at the time of the branch before it; but not at that branch.
        return now_ns > given.guest_ns or (now_ns == given.guest_ns and moment.halted >= given.moment.halted)


def end_at(moment: Moment, check: int, guest_ns: int, reason: str) -> Given:
    """Return the end of a run that is to come where, or when, another came to its own."""
    return Given(moment, check, guest_ns, Halt(reason))


def _place(moment: Moment) -> tuple[int, bool]:
    return moment.branches, moment.halted
