"""Answers a machine's questions from the host: the time from its clock, bytes from a console.

In host clock mode the machine's clock follows the host's: by its rate while the guest runs (see `pace`), by jumping
ahead when the guest has idled.  In virtual clock mode the host's clock is never looked at: idle time is skipped, and
what the guest does depends on nothing but what its console sends.

A guest that goes on where another was goes on with its time; and it may be given what the other got (see `given`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from revirt.machine.config import ClockMode
from revirt.machine.inputs import Arrival, ClockRate, ClockReading, Halt, Moment, Received
from revirt.machine.machine import Machine
from revirt.monitor.console import Console
from revirt.monitor.given import Giver
from revirt.monitor.pace import GREATEST_SLICE, LOST_NS, Pace
from revirt.monitor.sources import NetSource, Source
from revirt.monitor.trigger import Trigger
from revirt.render import Progress

PROGRESS_NS = 100_000_000
LONGEST_WAIT_S = 60.0
"""How long to wait for a source that may give something at any time, before asking again."""


class Live:
    """Implements `revirt.machine.inputs.Inputs` for a machine that runs live, given by `attach`."""

    def __init__(
        self,
        console: Console,
        clock: ClockMode,
        *,
        until: int | None,
        progress: Progress | None,
        trigger: Trigger | None = None,
        giver: Giver | None = None,
        sources: Sequence[Source] = (),
    ) -> None:
        self._console = console
        self._is_host = clock == "host"
        self._until = until
        self._progress = progress
        self._trigger = trigger
        self._giver = giver
        self._sources = tuple(sources)
        self._nets = {source.nic: source for source in sources if isinstance(source, NetSource)}
        self._machine: Machine | None = None
        self._started_ns = 0
        self._shown_ns = 0
        self._pace = Pace()
        self._asked_to_stop: str | None = None

    def connect(self) -> None:
        """Connect network cards, before there is anything to lose; raises HostError if this host cannot do that."""
        for source in self._nets.values():
            source.connect(self._look_up)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was cut off from the guest and why, and what of its network was lost, in words."""
        return tuple(
            f"network card {nic}: {each}" for nic, net in self._nets.items() for each in net.warnings
        )

    def attach(self, machine: Machine) -> None:
        """Take the machine that runs; the host's clock starts now, with the machine's time."""
        self._machine = machine
        if self._giver is not None:
            self._giver.attach(machine)
        if self._trigger is not None:
            self._trigger.attach(self._console.wake)
        for source in self._sources:
            source.attach(machine, self._look_up)
        self._start_clock()

    @property
    def machine(self) -> Machine:
        """The machine that runs."""
        assert self._machine is not None, "attach() comes first"
        return self._machine

    def stop(self, reason: str) -> None:
        """End the run in order at the next taken branch.  Safe from any thread and any signal handler."""
        self._asked_to_stop = reason
        if self._machine is not None:
            self._machine.request_stop()
        self._console.wake()

    def _look_up(self) -> None:
        """Ask the sources again, soon.  Safe from any thread."""
        if self._machine is not None:
            self._machine.request_stop()
        self._console.wake()

    def close(self) -> None:
        """End what the sources do."""
        for source in self._sources:
            source.close()

    def horizon(self, branches: int) -> int:
        """Return where to look at the console and the clock next."""
        ends = [branches + (self._pace.slice if self._is_clock_live else GREATEST_SLICE)]
        if self._until is not None:
            ends.append(self._until)
        if self._giver is not None and (given := self._giver.horizon(branches)) is not None:
            ends.append(given)
        # By the virtual clock where something arrives must not depend on where else the machine stops.
        dues = [due_ns for source in self._sources if (due_ns := source.due_ns()) is not None]
        ends += [max(branches + 1, self.machine.clock.branches_at(due_ns)) for due_ns in dues]
        return min(ends)

    def arrivals(self, moment: Moment) -> Sequence[Arrival]:
        """Return the host's time if a reading is due, what the console has to say, and whether to stop."""
        arrivals = self._take_given(moment)
        elapsed_ns = self._elapsed_ns()
        self._show_progress(moment)
        # What is given is applied first: the host's clock goes on from there.
        if not arrivals:
            if self._is_clock_live and self._pace.is_due(elapsed_ns):
                self._follow_host(moment, elapsed_ns, arrivals)
            self._read_console(arrivals)
            self._ask_sources(arrivals)
        reason = self._reason_to_stop(moment)
        if reason is not None:
            arrivals.append(Halt(reason))
        return arrivals

    def idle(self, moment: Moment, wake_ns: int | None) -> Sequence[Arrival]:
        """Wait for the console or the next timer, as the clock mode has it."""
        self._part()  # what would have been given here was
        if self._giver is not None and (ended := self._giver.take_idle()):
            return ended
        due_ns = self._giver.due_ns if self._giver is not None else None
        while True:
            end_ns = self._trigger.end_ns(self.machine.clock.now_ns) if self._trigger is not None else None
            comes_ns = min(
                (due for source in self._sources if (due := source.due_ns()) is not None), default=None
            )
            if comes_ns is not None and not self._is_host and (wake_ns is None or comes_ns < wake_ns):
                return [ClockReading(max(comes_ns, self.machine.clock.now_ns))]
            wakes = [each for each in (wake_ns, due_ns, end_ns, comes_ns) if each is not None]
            timeout_s = LONGEST_WAIT_S if any(source.is_open for source in self._sources) else None
            if wakes:
                timeout_s = max(0, min(wakes) - self._elapsed_ns()) / 1e9 if self._is_host else 0.0
            self._console.wait(timeout_s)
            arrivals: list[Arrival] = []
            if self._is_host:
                self._pace.forget(moment.branches, self._elapsed_ns())
                # Always, also where it changes nothing: an empty answer would let the clock jump to the timer.
                arrivals.append(ClockReading(self._reading_ns(due_ns)))
            self._read_console(arrivals)
            self._ask_sources(arrivals)
            if not arrivals and not self._is_host and wake_ns is None and self._giver is not None:
                arrivals = self._giver.take_early()
            # A virtual clock would stand still for ever before that time: it is taken to have come.
            is_endless = not (arrivals or self._is_host or wake_ns is not None)
            reason = self._reason_to_stop(moment, end_ns if is_endless else None)
            if reason is not None:
                arrivals.append(Halt(reason))
            if arrivals or wake_ns is not None:
                return arrivals

    def _show_progress(self, moment: Moment) -> None:
        now_ns = time.monotonic_ns()
        if self._progress is not None and now_ns - self._shown_ns >= PROGRESS_NS:
            self._shown_ns = now_ns
            self._progress.update(moment.branches, self.machine.clock.now_ns, self._until)

    @property
    def _is_clock_live(self) -> bool:
        return self._is_host and not (self._giver is not None and self._giver.is_following)

    def _start_clock(self) -> None:
        """Let the host's time be the machine's from here on."""
        self._started_ns = time.monotonic_ns() - self.machine.clock.now_ns
        self._pace.forget(self.machine.core.branches, self._elapsed_ns())

    def _elapsed_ns(self) -> int:
        return time.monotonic_ns() - self._started_ns

    def _reading_ns(self, due_ns: int | None) -> int:
        """Return the time of the host for a guest that was idle, but not beyond that at which it is given something."""
        now_ns = self.machine.clock.now_ns
        reading_ns = max(self._elapsed_ns(), now_ns)
        return reading_ns if due_ns is None else max(now_ns, min(reading_ns, due_ns))

    def _take_given(self, moment: Moment) -> list[Arrival]:
        if self._giver is None:
            return []
        was_following = self._giver.is_following
        arrivals = self._giver.take(moment)
        if was_following and not self._giver.is_following:
            self._start_clock()
        return arrivals

    def _part(self) -> None:
        """Let the clock be live if it was given."""
        if self._giver is not None and self._giver.is_following:
            self._giver.part()
            self._start_clock()

    def interrupted(self, moment: Moment, vector: int) -> None:
        """Nothing to do: interrupts follow from the machine's state."""

    def transmitted(self, character: bytes) -> None:
        """Pass on what the guest sends; an answer is taken up at the next taken branch."""
        self._console.transmitted(character)
        if self._trigger is not None:
            self._trigger.transmitted(character)
        if self._console.pending or self._console.finished is not None:
            self.machine.request_stop()

    def printed(self, _moment: Moment, _port: int, data: bytes) -> None:
        """Pass on what the guest sends to another console."""
        self._console.transmitted(data)

    def sent(self, _moment: Moment, nic: int, frame: bytes) -> None:
        """Pass on a frame, if the card is connected to anything."""
        if nic in self._nets:
            self._nets[nic].send(frame)

    def stored(self, _moment: Moment, _disk: int, _sector: int, _data: bytes) -> None:
        """Nothing to do: the machine has stored it."""

    def _follow_host(self, moment: Moment, elapsed_ns: int, arrivals: list[Arrival]) -> None:
        clock = self.machine.clock
        rate = self._pace.look(moment.branches, elapsed_ns, clock.now_ns, clock.ns_per_branch)
        if elapsed_ns - clock.now_ns > LOST_NS:
            arrivals.append(ClockReading(elapsed_ns))
        if rate != clock.ns_per_branch:
            arrivals.append(ClockRate(rate))

    def _read_console(self, arrivals: list[Arrival]) -> None:
        # What the guest has not read yet waits on our side: however much is pasted, the UART holds little of it.
        if self._console.pending and not self.machine.board.uart.is_backlogged:
            data = self._console.take()
            if data:
                self._part()
                arrivals.append(Received(data))

    def _ask_sources(self, arrivals: list[Arrival]) -> None:
        # While the answers that another guest got are given, nobody else answers.
        is_following = self._giver is not None and self._giver.is_following
        for source in self._sources:
            if not (is_following and source.answers) and (taken := source.take()):
                if is_following:
                    self._part()
                    is_following = False
                arrivals.extend(taken)

    def _reason_to_stop(self, moment: Moment, now_ns: int | None = None) -> str | None:
        """Return why the run should end; for the trigger it is *now_ns* (None: as the machine has it)."""
        if self._asked_to_stop is not None:
            return self._asked_to_stop
        if self._until is not None and moment.branches >= self._until:
            return "reached the position asked for"
        if self._trigger is not None:
            reason = self._trigger.reason_to_stop(self.machine.clock.now_ns if now_ns is None else now_ns)
            if reason is not None:
                return reason
        return self._console.finished
