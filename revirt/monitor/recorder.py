"""Writes down what a live machine is given, and what it does that a replay can be checked against.

One of the two files (with `revirt.replay.replayer`) where machine inputs and log events meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from revirt.log.chain import Chain
from revirt.log.events import LINE_LIMIT, Event, Kind
from revirt.log.frame import check_of
from revirt.machine.inputs import Arrival, ClockRate, ClockReading, Halt, Inputs, Moment, Received
from revirt.machine.machine import Digest, Machine


class Recorder:
    """Implements `Inputs` by asking *inner*; passes every event to *append*."""

    def __init__(self, inner: Inputs, append: Callable[[Event], None]) -> None:
        self._inner = inner
        self._append = append
        self._line = bytearray()
        self._chain = Chain()
        self._machine: Machine | None = None
        self.event_count = 0

    def attach(self, machine: Machine) -> None:
        """Take the machine whose positions are written down."""
        self._machine = machine

    @property
    def machine(self) -> Machine:
        """The machine that is recorded."""
        assert self._machine is not None, "attach() comes first"
        return self._machine

    # -- Inputs ------------------------------------------------------------------------------------------------

    def horizon(self, branches: int) -> int:
        """Return the inner inputs' horizon."""
        return self._inner.horizon(branches)

    def arrivals(self, moment: Moment) -> Sequence[Arrival]:
        """Return what arrives, written down."""
        arrivals = self._inner.arrivals(moment)
        if arrivals:
            self._write_arrivals(moment, arrivals)
        return arrivals

    def idle(self, moment: Moment, wake_ns: int | None) -> Sequence[Arrival]:
        """Return what ended the halt, written down."""
        arrivals = self._inner.idle(moment, wake_ns)
        self._write_arrivals(moment, arrivals)
        return arrivals

    def interrupted(self, moment: Moment, vector: int) -> None:
        """Write down that the CPU accepted an interrupt."""
        # The most frequent of all events by far: in one piece.
        check = self.machine.core.check()
        self._emit(Event(Kind.INTERRUPT, moment.branches, moment.halted, moment.pc, check, vector))

    def transmitted(self, character: bytes) -> None:
        """Write down a line of output when it is complete."""
        self._inner.transmitted(character)
        line = self._line
        line += character
        if character == b"\n" or len(line) == LINE_LIMIT:
            core = self.machine.core
            self._emit(Event(Kind.TRANSMITTED, core.branches, False, core.pc, 0, 0, bytes(line)))
            line.clear()

    # -- for the session ---------------------------------------------------------------------------------------

    def write_digest(self, digest: Digest) -> None:
        """Write down the machine's digests at this moment."""
        moment = self.machine.moment()
        self._flush_line(moment)
        self._write_time(moment)
        self._write_sealed(Kind.DIGEST, moment, bytes(digest))

    def write_checkpoint(self, number: int, state: bytes) -> None:
        """Write down that checkpoint *number* holds *state*, which the machine has saved at this moment."""
        self._write(Kind.CHECKPOINT, self.machine.moment(), number=number, data=check_of(state))
        self.machine.core.flush_tlb()

    def write_end(self, reason: str) -> None:
        """Write down that the run ended, and why."""
        self._write_sealed(Kind.END, self.machine.moment(), reason.encode())

    # -- details -----------------------------------------------------------------------------------------------

    def _write_arrivals(self, moment: Moment, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            match arrival:
                case ClockReading(ns):
                    self._write(Kind.CLOCK, moment, number=ns)
                case ClockRate(ns_per_branch):
                    self._write(Kind.RATE, moment, number=ns_per_branch)
                case Received(data):
                    self._flush_line(moment)
                    self._write_time(moment)
                    self._write(Kind.RECEIVED, moment, data=data)
                case Halt():
                    pass

    def _write_time(self, moment: Moment) -> None:
        """Write down the time where branches do not tell it: a halted CPU in virtual clock mode goes from timer to
        timer and does not branch.
        """
        if moment.halted and self.machine.config.clock == "virtual":
            self._write(Kind.CLOCK, moment, number=self.machine.clock.now_ns)

    def _flush_line(self, moment: Moment) -> None:
        if self._line:
            self._emit(
                Event(Kind.TRANSMITTED, moment.branches, moment.halted, moment.pc, data=bytes(self._line))
            )
            self._line.clear()

    def _write(self, kind: Kind, moment: Moment, *, number: int = 0, data: bytes = b"") -> None:
        check = self.machine.core.check()
        self._emit(Event(kind, moment.branches, moment.halted, moment.pc, check, number, data))

    def _write_sealed(self, kind: Kind, moment: Moment, data: bytes) -> None:
        event = Event(kind, moment.branches, moment.halted, moment.pc, self.machine.core.check(), 0, data)
        self._append(self._chain.seal(event))
        self.event_count += 1

    def _emit(self, event: Event) -> None:
        self._chain.add(event)
        self._append(event)
        self.event_count += 1
