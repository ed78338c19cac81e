"""What reached a guest behind some position, found by a replay from there on."""

from __future__ import annotations

from dataclasses import dataclass

from revirt.errors import UsageError
from revirt.fork.changes import Changes
from revirt.log.events import Event, Kind
from revirt.machine.machine import Machine
from revirt.monitor.given import Given, end_at
from revirt.replay import ReplaySession
from revirt.replay.replayer import arrival_of

ENDED = "its parent ended here"
"""Why a fork ends that is to end as its parent did."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was given to a guest, in order, and where its recording ends; ``ends_itself`` says that it did that."""

    given: list[Given]
    end: Given
    ends_itself: bool


class Collector:
    """Hears of the events that a replay passes, as its ``on_event``, and notes the inputs among them."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._session: ReplaySession | None = None
        self._left = set(changes.events)
        self._read_ns = 0
        self._given: list[Given] = []

    def __call__(self, event: Event) -> None:
        if event.kind is Kind.CLOCK:
            self._read_ns = event.number
        session = self._session
        if session is None or (arrival := arrival_of(event)) is None:
            return
        number = session.replayer.next_event - 1
        is_changed = number in self._left
        if is_changed:
            self._left.remove(number)
            data = self._changes.replacements.get(number)
            arrival = arrival_of(event._replace(data=data)) if data is not None else None
        # The machine is told of a reading only when all has been passed that comes with it.
        now_ns = max(session.machine.clock.now_ns, self._read_ns)
        self._given.append(Given(session.machine.moment(), event.check, now_ns, arrival, is_changed))

    def collect(self, session: ReplaySession) -> Inputs:
        """Replay on to the end from where *session* stands, and return the inputs, changed.

        Raises UsageError if something is to be changed that has come by now, DivergenceError and CorruptError as the
        replay.
        """
        position = session.machine.moment().position
        self._session = session
        if session.machine.ended is None:
            session.run()
        if self._left:
            raise UsageError(
                f"event {min(self._left)} has come by {position}",
                hint="fork earlier; without --at it is right before the first event that is changed",
            )
        machine = session.machine
        end = end_at(machine.moment(), machine.core.check(), machine.clock.now_ns, ENDED)
        return Inputs(self._given, end, why_ended(machine) is not None)


def why_ended(machine: Machine) -> str | None:
    """Return how the guest ended its own run, *machine* being where a replay has come to; None if it did not."""
    if machine.ended is not None:
        return machine.ended.reason
    # The log ends before the run loop sees that.
    is_dead = machine.halted and not machine.core.interruptible
    return "the CPU halted with interrupts disabled" if is_dead else None
