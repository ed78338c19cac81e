"""Answers a machine's questions from a log, and compares what the machine does with what was recorded.

One of the two files (with `revirt.monitor.recorder`) where machine inputs and log events meet.

Rules:
- The machine never runs past an event that has not happened yet: each is a horizon.
- An event that should have happened and did not, one that happens and was not recorded, another pc, other
  registers, other bytes, another digest: each is a `DivergenceError`, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from revirt.errors import DivergenceError
from revirt.log.chain import SEALED, Chain
from revirt.log.events import LINE_LIMIT, Event, Kind, stored_data
from revirt.machine.clock import MAX_NS, MAX_NS_PER_BRANCH
from revirt.machine.config import MachineConfig
from revirt.machine.inputs import (
    Arrival,
    ClockRate,
    ClockReading,
    DiskDone,
    Entropy,
    Frame,
    Halt,
    Keys,
    Moment,
    Received,
)
from revirt.machine.machine import Digest, Machine
from revirt.position import Position

LOG_ENDS = "the log ends here"
CUT_ENDS = "the cut ends here"
_ARRIVALS = (
    *(Kind.CLOCK, Kind.RATE, Kind.RECEIVED),
    *(Kind.FRAME_IN, Kind.DISK, Kind.ENTROPY, Kind.KEYS),
)
_AFTER_OUTPUT = (Kind.RECEIVED, Kind.DIGEST, Kind.END)
"""Kinds before which the recorder writes down the output that is pending."""
_NEVER = 1 << 63
_HASHED_AT_ONCE = 4096
SHOWN = 64
"""Bytes that an error shows of what was sent or stored."""


def arrival_of(event: Event) -> Arrival | None:
    """Return what *event* gives to the machine; None if it is not an input."""
    match event.kind:
        case Kind.CLOCK:
            return ClockReading(event.number)
        case Kind.RATE:
            return ClockRate(event.number)
        case Kind.RECEIVED:
            return Received(event.data, event.number)
        case Kind.FRAME_IN:
            return Frame(event.number, event.data)
        case Kind.DISK:
            return DiskDone(event.data[0] if event.data else 0, event.number)
        case Kind.ENTROPY:
            return Entropy(event.data)
        case Kind.KEYS:
            return Keys(event.data)
    return None


def _is_for(config: MachineConfig, arrival: Arrival) -> bool:
    """Return whether the machine of *config* has the device that *arrival* is for."""
    devices = config.devices
    match arrival:
        case Received(_, port):
            return port <= devices.console
        case Frame(nic, _):
            return nic < len(devices.nics)
        case DiskDone(disk, _):
            return disk < len(devices.disks)
        case Entropy():
            return devices.rng
    return True


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a log: the ordinal of the event to come, the hash so far, and output not yet compared.

    Where the hash is not known (None) the next one that the log has is believed.
    """

    next_event: int
    chain: Chain | None
    pending_output: bytes = b""


class Replayer:
    """Implements `Inputs` by reading a log; ``open_events(n)`` yields its events from ordinal *n* on.

    The machine halts at *until*, if given, and at the end of the log; where nothing more is known to happen up to the
    branch count *quiet_until*, there.  *output* gets what the guest sends, *on_event* every event that came again, and
    *pace* is called whenever the machine stands still.  ``next_event`` is the ordinal of the event to come, ``last``
    the latest one passed, ``digests_checked`` counts comparisons.
    """

    def __init__(
        self,
        open_events: Callable[[int], Iterator[Event]],
        first: int,
        *,
        until: Position | None = None,
        quiet_until: int | None = None,
        output: Callable[[bytes], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
        pace: Callable[[], None] | None = None,
    ) -> None:
        self._open_events = open_events
        self._until = until.branches if until is not None else _NEVER
        self._quiet_until = quiet_until if quiet_until is not None else -1
        self._end = LOG_ENDS if quiet_until is None else CUT_ENDS
        self.output = output
        """Gets what the guest sends, before it is compared."""
        self._on_event = on_event
        self.pace = pace
        """Called whenever the machine stands still."""
        self._machine: Machine | None = None
        self._asked_to_stop: str | None = None
        self.digests_checked = 0
        self.last: Event | None = None
        self.seek(Place(first, Chain()))

    def attach(self, machine: Machine) -> None:
        """Take the machine that replays."""
        self._machine = machine

    @property
    def machine(self) -> Machine:
        """The machine that replays."""
        assert self._machine is not None, "attach() comes first"
        return self._machine

    def seek(self, place: Place) -> None:
        """Go to *place* in the log; the machine is set by others."""
        self._source = self._open_events(place.next_event)
        self._next = next(self._source, None)
        self._line = bytearray(place.pending_output)
        self._chain = place.chain.copy() if place.chain is not None else None
        self._unhashed: list[Event] = []
        self.next_event = place.next_event

    @property
    def place(self) -> Place:
        """Where in the log the replay stands; `seek` goes back there."""
        chain = self._hashed()
        return Place(self.next_event, chain.copy() if chain is not None else None, bytes(self._line))

    @property
    def pending_output(self) -> int:
        """How many bytes the guest has sent of the next output in the log."""
        return len(self._line)

    @property
    def is_exhausted(self) -> bool:
        """Whether every event of the log has been passed."""
        return self._next is None

    def begin(self, digest: Event, checkpoint: Event) -> None:
        """Compare the machine with the *digest* and the *checkpoint* that it starts from, as passed events.

        Raises DivergenceError naming what differs.
        """
        moment = self.machine.moment()
        for event in (digest, checkpoint):
            if (event.branches, event.halted) != (moment.branches, moment.halted):
                raise self._differs(event, event.kind.label, "one here", f"one at {moment.position}")
            self._compare_place(event, moment)
        self._compare_digest(digest)
        self._chain = Chain(digest.number)
        self._chain.add(checkpoint)

    def _compare_digest(self, event: Event) -> None:
        try:
            recorded = Digest.from_bytes(event.data)
        except ValueError as error:
            raise self._differs(event, "digest", f"something else: {error}", "one") from error
        found = self.machine.digest()
        for part in ("cpu", "ram", "devices"):
            expected, came = getattr(recorded, part), getattr(found, part)
            if expected != came:
                raise self._differs(event, part, f"digest {expected.hex()}", f"digest {came.hex()}")
        self.digests_checked += 1

    def is_interrupted_at(self, moment: Moment) -> bool:
        """Whether the next thing to happen, at *moment*, is that the CPU accepts an interrupt."""
        event = self._next
        return event is not None and event.kind == Kind.INTERRUPT and self._is_here(event, moment)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._asked_to_stop is not None

    def stop(self, reason: str) -> None:
        """Halt the machine at the next taken branch.  Safe from any thread and any signal handler."""
        self._asked_to_stop = reason
        if self._machine is not None:
            self._machine.request_stop()

    def go_on(self) -> None:
        """Let a replay that was stopped go on."""
        self._asked_to_stop = None

    # -- Inputs ------------------------------------------------------------------------------------------------

    def horizon(self, branches: int) -> int:
        """Return the branch count of the next event, or where it will be known to be missing."""
        event = self._next
        if event is None:
            where = max(self._quiet_until, branches + 1)
        else:
            where = event.branches + (0 if self._is_on_branch(event) else 1)
            if where <= branches:
                raise self._missing(event)
        return min(where, self._until) if self._until > branches else where

    def arrivals(self, moment: Moment) -> Sequence[Arrival]:
        """Return what the log has for *moment*, up to the next comparison."""
        if self._asked_to_stop is not None:
            return (Halt(self._asked_to_stop),)
        if self.pace is not None:
            self.pace()
        arrivals: list[Arrival] = []
        while (event := self._next) is not None and self._is_here(event, moment):
            if event.kind not in _ARRIVALS and arrivals:
                return arrivals  # the machine applies these first; then it asks again
            arrival = self._take_here(event, moment)
            if arrival is None:
                break
            arrivals.extend(arrival)
        if arrivals:
            return arrivals
        if moment.branches >= self._until:
            return (Halt("reached the position asked for"),)
        if self._next is None and moment.branches >= self._quiet_until:
            return (Halt(self._end),)
        return ()

    def idle(self, moment: Moment, wake_ns: int | None) -> Sequence[Arrival]:
        """Let the clock jump to the next timer, or before it to where something came, as only a virtual one does."""
        event = self._next
        if self.machine.config.clock == "host" or event is None:
            raise self._unexpected(moment, "an idle CPU that nothing wakes")
        is_reading = event.kind == Kind.CLOCK and event.halted and event.branches == moment.branches
        if is_reading and (wake_ns is None or event.number < wake_ns):
            self._compare_place(event, moment)
            self._pass(event)
            return (self._arrival(event),)
        if wake_ns is None:
            raise self._unexpected(moment, "an idle CPU that nothing wakes")
        return ()

    def interrupted(self, moment: Moment, vector: int) -> None:
        """Compare an interrupt that the CPU accepts."""
        event = self._next
        if event is None or event.kind != Kind.INTERRUPT or not self._is_here(event, moment):
            raise self._unexpected(moment, f"interrupt {vector:#x}")
        self._compare_place(event, moment)
        if event.number != vector:
            raise self._differs(event, "interrupt", f"vector {event.number:#x}", f"vector {vector:#x}")
        self._pass(event)

    def transmitted(self, character: bytes) -> None:
        """Compare output where the recorder wrote it down: at the end of a line."""
        if self.output is not None:
            self.output(character)
        self._line += character
        if self._ends_line(self._line):
            self._compare_line()

    def printed(self, moment: Moment, port: int, data: bytes) -> None:
        """Compare what is sent to another console."""
        self._compare_act(moment, Kind.TRANSMITTED, port, data)

    def sent(self, moment: Moment, nic: int, frame: bytes) -> None:
        """Compare a frame that is sent."""
        self._compare_act(moment, Kind.FRAME_OUT, nic, frame)

    def stored(self, moment: Moment, disk: int, sector: int, data: bytes) -> None:
        """Compare what is written to a disk."""
        self._compare_act(moment, Kind.STORED, sector, stored_data(disk, data))

    # -- comparisons -------------------------------------------------------------------------------------------

    def _compare_act(self, moment: Moment, kind: Kind, number: int, data: bytes) -> None:
        """Compare what a device does at *moment* with what is to come next."""
        event = self._next
        if event is None and moment.branches > self._quiet_until:
            return  # behind the end of a log that has no END: nobody knows what was recorded
        if event is None or event.kind != kind or not self._is_here(event, moment):
            raise self._unexpected(moment, f"{kind.label}, {number}, {data[:SHOWN]!r}")
        self._compare_place(event, moment, is_checked=kind != Kind.TRANSMITTED)
        if (event.number, event.data) != (number, data):
            expected = f"{event.number}, {event.data[:SHOWN]!r} ({len(event.data)} bytes)"
            raise self._differs(
                event, kind.label, expected, f"{number}, {data[:SHOWN]!r} ({len(data)} bytes)"
            )
        self._pass(event)

    def _compare_line(self) -> None:
        event, core = self._next, self.machine.core
        if event is None and core.branches > self._quiet_until:
            self._line.clear()  # behind the end of a log that has no END: nobody knows what was recorded
        elif event is not None and event.kind == Kind.TRANSMITTED and not event.number:
            self._compare_output(event, core.branches, core.pc)
        else:
            raise self._unexpected(self.machine.moment(), f"output {bytes(self._line)!r}")

    def _take_here(self, event: Event, moment: Moment) -> Sequence[Arrival] | None:
        """Pass an event that stands at *moment*; None if the machine has to act first."""
        match event.kind:
            case Kind.INTERRUPT:
                return None
            case Kind.FRAME_OUT | Kind.STORED:
                raise self._missing(event)  # devices have acted before anything arrives
            case Kind.TRANSMITTED if event.number:
                raise self._missing(event)
            case Kind.TRANSMITTED:
                if bytes(self._line) != event.data:
                    return None
                self._compare_output(event, moment.branches, moment.pc)
                return ()
            case Kind.CLOCK if self._waits_for_timers(event, moment):
                return None
        self._compare_place(event, moment)
        if self._line and event.kind in _AFTER_OUTPUT:
            raise self._differs(event, "output", "nothing before it", repr(bytes(self._line)))
        if event.kind == Kind.DIGEST:
            self._compare_digest(event)
        if event.kind in SEALED:
            self._compare_chain(event)
        self._pass(event)
        match event.kind:
            case kind if kind in _ARRIVALS:
                return (self._arrival(event),)
            case Kind.CHECKPOINT:
                self.machine.core.flush_tlb()
            case Kind.END:
                if self._next is not None:
                    raise self._differs(event, "end", "more events behind it", "the end")
                return (Halt(event.data.decode(errors="replace")),)
        return ()

    def _arrival(self, event: Event) -> Arrival:
        if event.kind is Kind.CLOCK and event.number > MAX_NS:
            raise self._differs(event, "clock", f"{event.number} ns", "no time so late")
        if event.kind is Kind.RATE and not 1 <= event.number <= MAX_NS_PER_BRANCH:
            raise self._differs(event, "clock rate", f"{event.number} ns per branch", "none so high or low")
        arrival = arrival_of(event)
        assert arrival is not None
        if not _is_for(self.machine.config, arrival):
            raise self._differs(event, event.kind.label, f"for device {event.number}", "no such device")
        return arrival

    def _waits_for_timers(self, event: Event, moment: Moment) -> bool:
        machine = self.machine
        return moment.halted and machine.config.clock == "virtual" and event.number > machine.clock.now_ns

    def _compare_place(self, event: Event, moment: Moment, *, is_checked: bool = True) -> None:
        if event.pc != moment.pc:
            raise self._differs(event, f"pc at {event.kind.label}", f"{event.pc:#x}", f"{moment.pc:#x}")
        if not is_checked:
            return
        check = self.machine.core.check()
        if event.check != check:
            raise self._differs(
                event, f"registers at {event.kind.label}", f"hash {event.check:04x}", f"hash {check:04x}"
            )

    def _compare_output(self, event: Event, branches: int, pc: int) -> None:
        found = bytes(self._line)
        if found != event.data:
            raise self._differs(event, "output", repr(event.data), repr(found))
        if (event.branches, event.pc) != (branches, pc):
            raise self._differs(
                event,
                "place of output",
                f"{event.branches} branches, pc {event.pc:#x}",
                f"{branches} branches, pc {pc:#x}",
            )
        self._line.clear()
        self._pass(event)

    def _compare_chain(self, event: Event) -> None:
        chain = self._hashed()
        if chain is None:
            self._chain = Chain(event.number)
            return
        found = chain.seal(event).number
        if event.number != found:
            raise self._differs(
                event, "the log itself", f"hash {event.number:016x} of its events", f"{found:016x}"
            )

    def _hashed(self) -> Chain | None:
        """The hash of all that was passed: taken of many events at once, which costs a fraction."""
        if self._chain is not None:
            self._chain.add(*self._unhashed)
        self._unhashed.clear()
        return self._chain

    def _pass(self, event: Event) -> None:
        if event.kind not in SEALED:
            self._unhashed.append(event)
            if len(self._unhashed) == _HASHED_AT_ONCE or len(event.data) > LINE_LIMIT:
                self._hashed()
        self.next_event += 1
        self.last = event
        if self._on_event is not None:
            self._on_event(event)
        self._next = next(self._source, None)

    # -- where things are --------------------------------------------------------------------------------------

    def _is_here(self, event: Event, moment: Moment) -> bool:
        where, here = (event.branches, event.halted), (moment.branches, moment.halted)
        if where < here:
            raise self._missing(event)
        return where == here

    def _is_on_branch(self, event: Event) -> bool:
        """Tell events on the branch itself from those in the straight line behind it."""
        is_line = event.kind == Kind.TRANSMITTED and not event.number and self._ends_line(event.data)
        return not event.halted and not is_line

    @staticmethod
    def _ends_line(data: bytes | bytearray) -> bool:
        """Tell output that was written down as it was sent from what was pending when something else was."""
        return data.endswith(b"\n") or len(data) >= LINE_LIMIT

    def _missing(self, event: Event) -> DivergenceError:
        return self._differs(event, event.kind.label, "one here", "none")

    def _unexpected(self, moment: Moment, what: str) -> DivergenceError:
        event = self._next
        expected = "the end" if event is None else f"{event.kind.label} at {event.branches}, pc {event.pc:#x}"
        return DivergenceError(moment.position, "event", expected=expected, found=what)

    def _differs(self, event: Event, what: str, expected: str, found: str) -> DivergenceError:
        return DivergenceError(Position(event.branches), what, expected=expected, found=found)
