"""Writes down what a live machine is given, and what it does that a replay can be checked against.

One of the two files (with `revirt.replay.replayer`) where machine inputs and log events meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from revirt.log.chain import SEALED, Chain
from revirt.log.events import LINE_LIMIT, Event, Kind, stored_data
from revirt.log.frame import check_of
from revirt.log.rows import Rows, Source
from revirt.machine.inputs import (
    Arrival,
    ClockRate,
    ClockReading,
    DiskDone,
    Entropy,
    Frame,
    Halt,
    Inputs,
    Keys,
    Moment,
    Received,
)
from revirt.machine.machine import Digest, Machine

NOTES_SIZE = 1 << 18
"""Bytes of notes at which the log takes them over."""

_INTERRUPT, _TRANSMITTED = int(Kind.INTERRUPT), int(Kind.TRANSMITTED)


class Log(Protocol):
    """What a recorder needs of a `RecordingWriter`."""

    def append(self, event: Event) -> None:
        """Add *event*, behind what waits in the source."""

    def draw_from(self, source: Source, on_failure: Callable[[], None]) -> None:
        """Take events from *source* too; call *on_failure*, from any thread, when they cannot be written."""

    def draw(self) -> None:
        """Take what waits in the source now."""


class Recorder:
    """Implements `Inputs` by asking *inner*; writes every event to *log*.

    Events are noted by the core, with the branches and the pc that it stands at; the log draws them from there now and
    then.  *on_failure* is called, from another thread, when they cannot be written.
    """

    def __init__(self, inner: Inputs, log: Log, on_failure: Callable[[], None]) -> None:
        self._inner = inner
        self._on_failure = on_failure
        self._log = log
        self._line = bytearray()
        self._chain = Chain()
        self._machine: Machine | None = None
        # Called for every slice and every character: straight to the inner ones.
        self.horizon = inner.horizon
        self._pass_output = inner.transmitted

    def attach(self, machine: Machine) -> None:
        """Take the machine whose positions are written down."""
        self._machine = machine
        self._note = machine.core.note
        self._log.draw_from(self._take_notes, self._on_failure)

    @property
    def machine(self) -> Machine:
        """The machine that is recorded."""
        assert self._machine is not None, "attach() comes first"
        return self._machine

    # -- Inputs ------------------------------------------------------------------------------------------------

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
        # By far the most frequent of all: not by way of _emit.
        if self._note(_INTERRUPT, moment.halted, True, vector, b"") >= NOTES_SIZE:
            self._log.draw()

    def transmitted(self, character: bytes) -> None:
        """Write down a line of output when it is complete."""
        self._pass_output(character)
        line = self._line
        line += character
        if character == b"\n" or len(line) == LINE_LIMIT:
            self._emit(_TRANSMITTED, False, data=bytes(line))
            line.clear()

    def printed(self, moment: Moment, port: int, data: bytes) -> None:
        """Write down what was sent to another console."""
        self._inner.printed(moment, port, data)
        self._emit(_TRANSMITTED, moment.halted, port, data)

    def sent(self, moment: Moment, nic: int, frame: bytes) -> None:
        """Write down a frame that was sent."""
        self._inner.sent(moment, nic, frame)
        self._emit(Kind.FRAME_OUT, moment.halted, nic, frame)

    def stored(self, moment: Moment, disk: int, sector: int, data: bytes) -> None:
        """Write down that a disk was written to, and the hash of what."""
        self._emit(Kind.STORED, moment.halted, sector, stored_data(disk, data))

    # -- for the session ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write down what there is to be said before a digest: output that is no whole line yet, and the time."""
        moment = self.machine.moment()
        self._flush_line(moment)
        self._write_time(moment)
        self._log.draw()

    def write_digest(self, digest: Digest) -> None:
        """Write down the machine's digests at this moment; `flush` comes first."""
        self._append(Kind.DIGEST, 0, bytes(digest))

    def write_checkpoint(self, number: int, state: bytes) -> None:
        """Write down that checkpoint *number* holds *state*, which the machine has saved at this moment.

        Flushes the TLB, which whoever starts from that checkpoint finds empty.
        """
        self._append(Kind.CHECKPOINT, number, check_of(state))
        self.machine.core.flush_tlb()

    def write_end(self, reason: str) -> None:
        """Write down that the run ended, and why."""
        self._append(Kind.END, 0, reason.encode())

    # -- details -----------------------------------------------------------------------------------------------

    def _write_arrivals(self, moment: Moment, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            match arrival:
                case ClockReading(ns):
                    self._emit(Kind.CLOCK, moment.halted, ns)
                case ClockRate(ns_per_branch):
                    self._emit(Kind.RATE, moment.halted, ns_per_branch)
                case Received(data, port):
                    self._flush_line(moment)
                    self._write_input(Kind.RECEIVED, moment, port, data)
                case Frame(nic, data):
                    self._write_input(Kind.FRAME_IN, moment, nic, data)
                case DiskDone(disk, ticket):
                    self._write_input(Kind.DISK, moment, ticket, bytes([disk]))
                case Entropy(data):
                    self._write_input(Kind.ENTROPY, moment, 0, data)
                case Keys(scancodes):
                    self._write_input(Kind.KEYS, moment, 0, scancodes)
                case Halt():
                    pass

    def _write_input(self, kind: Kind, moment: Moment, number: int, data: bytes) -> None:
        self._write_time(moment)
        self._emit(kind, moment.halted, number, data)

    def _write_time(self, moment: Moment) -> None:
        """Write down the time where branches do not tell it: a halted CPU in virtual clock mode goes from timer to
        timer and does not branch.
        """
        if moment.halted and self.machine.config.clock == "virtual":
            self._emit(Kind.CLOCK, moment.halted, self.machine.clock.now_ns)

    def _flush_line(self, moment: Moment) -> None:
        if self._line:
            self._emit(_TRANSMITTED, moment.halted, data=bytes(self._line))
            self._line.clear()

    def _emit(self, kind: int, halted: bool, number: int = 0, data: bytes = b"") -> None:
        # Registers cannot be had in the middle of an OUT, from which output comes.
        if self._note(kind, halted, kind != _TRANSMITTED, number, data) >= NOTES_SIZE:
            self._log.draw()

    def _append(self, kind: Kind, number: int, data: bytes) -> None:
        """Write down an event that is not noted, because the log has to know of it now."""
        self._log.draw()  # the hash is taken in order
        moment = self.machine.moment()
        event = Event(
            kind, moment.branches, moment.halted, moment.pc, self.machine.core.check(), number, data
        )
        if kind in SEALED:
            event = self._chain.seal(event)
        else:
            self._chain.add(event)
        self._log.append(event)

    def _take_notes(self) -> Rows:
        rows = Rows(*self.machine.core.take_notes())
        self._chain.add_rows(rows)
        return rows
