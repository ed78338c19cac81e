"""A replay of a recording, from one of its checkpoints to a position or the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from revirt.core import UNICORN_VERSION
from revirt.errors import CorruptError, DivergenceError, HostError, UsageError
from revirt.log.events import Event, Kind
from revirt.machine.config import MachineConfig
from revirt.machine.machine import Machine, Stop
from revirt.position import Position
from revirt.recording import CheckpointInfo, Recording
from revirt.replay.replayer import Place, Replayer

PROGRESS_SECONDS = 0.1


class Progress(Protocol):
    """Whoever shows how far a replay has come."""

    def update(self, branches: int, guest_ns: int, total: int | None) -> None:
        """Show that the guest has come to *branches* (of *total*, if known) and *guest_ns*."""
        ...


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where and in what a replay differed.

    ``located`` holds what the search for the cause found; docs/determinism.md describes its keys.
    """

    position: Position
    what: str
    expected: str
    found: str
    located: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay came to.  ``seconds`` are of the host, ``guest_ns`` of the guest.

    ``exact`` is true if everything that was recorded in the stretch replayed came again.
    """

    exact: bool
    reason: str
    digests_checked: int
    events: int
    branches: int
    guest_ns: int
    seconds: float
    divergence: Divergence | None


class ReplaySession:
    """A machine that replays *recording* from checkpoint number *checkpoint*.

    Raises CorruptError if the checkpoint cannot be loaded, HostError if it needs another Unicorn.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        checkpoint: int = 0,
        until: Position | None = None,
        output: Callable[[bytes], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
        pace: Callable[[], None] | None = None,
        translation_buffer: int = 0,
        track_writes: bool = True,
    ) -> None:
        _check_unicorn(recording)
        self.recording = recording
        self.info = _find_checkpoint(recording, checkpoint)
        self.replayer = Replayer(
            recording.events, self.info.event + 1, until=until, output=output, on_event=on_event, pace=pace
        )
        self.machine = Machine(
            _config(recording),
            self.replayer,
            translation_buffer=translation_buffer,
            track_writes=track_writes,
        )
        self.replayer.attach(self.machine)
        self._load()

    def run(self, until: int | None = None) -> Stop:
        """Run on to branch count *until*, or to where the replay ends.

        Raises DivergenceError at the first difference.
        """
        stop = self.machine.run(until)
        if stop.ended is not None and stop.halted is None and not self.replayer.is_exhausted:
            raise DivergenceError(
                self.machine.moment().position,
                "guest",
                expected="more events",
                found=f"its end: {stop.ended.reason}",
            )
        return stop

    def mark(self) -> Mark:
        """Return this moment, to come back to."""
        return Mark(self.machine.save(), bytes(self.machine.core.ram), self.replayer.place)

    def return_to(self, mark: Mark) -> None:
        """Go back to a moment of this session."""
        self.machine.core.ram[:] = mark.ram
        self.machine.restore(mark.state)
        self.replayer.seek(mark.place)

    def _load(self) -> None:
        loaded = self.recording.load_checkpoint(self.info.number)
        path = self.recording.path
        try:
            for numbers, contents in loaded.batches():
                self.machine.core.write_pages(numbers, contents)
            self.machine.restore(loaded.state)
        except ValueError as error:
            raise CorruptError(path, f"checkpoint {self.info.number}: {error}") from error
        try:
            self.replayer.begin(*self.recording.events_of_checkpoint(loaded))
        except DivergenceError as error:
            problem = (
                f"checkpoint {self.info.number} is not the machine that the log names: {error.what} differs"
            )
            raise CorruptError(path, problem) from error
        _compare_time(self, self.info)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a replay session, kept in memory."""

    state: bytes
    ram: bytes
    place: Place


def replay(
    recording: Recording,
    *,
    checkpoint: int = 0,
    until: Position | None = None,
    output: Callable[[bytes], None] | None = None,
    speed: Literal["max", "real"] = "max",
    progress: Progress | None = None,
    on_start: Callable[[Callable[[str], None]], None] | None = None,
    locate: bool = True,
) -> ReplayReport:
    """Replay *recording* from a checkpoint to *until*, or its end, and report whether it came out the same.

    *output* gets the guest's console, in real time of the guest if *speed* says so.  *on_start* is given a function
    that ends the replay in order.  After a divergence, *locate* searches for where it began.

    Checkpoints that the replay comes past are compared with the log, so that an exact replay tells that all of the
    recording is sound from where it began to where it ended.

    Raises CorruptError if something is damaged, HostError if another Unicorn is needed, UsageError for a position
    that the recording does not have.
    """
    started = time.perf_counter()
    pacer = _Pacer(speed, progress, _last_branch(recording, until))
    session = ReplaySession(
        recording,
        checkpoint=checkpoint,
        until=until,
        output=output,
        on_event=lambda event: _audit_passed(session, event),
        pace=pacer,
    )
    pacer.attach(session.machine)
    if on_start is not None:
        on_start(session.replayer.stop)
    divergence = None
    reason = "diverged"
    try:
        reason = session.run().halted or "the guest ended"
        if until is not None and until.steps:
            _step(session, until)
    except DivergenceError as error:
        # Here, not above: locating builds on this module.
        from revirt.replay.divergence import locate_divergence

        located = locate_divergence(session) if locate else {}
        divergence = Divergence(error.position, error.what, error.expected, error.found, located)
    replayer = session.replayer
    return ReplayReport(
        exact=divergence is None,
        reason=reason,
        digests_checked=replayer.digests_checked,
        events=replayer.next_event - session.info.event - 1,
        branches=session.machine.core.branches,
        guest_ns=session.machine.clock.now_ns,
        seconds=time.perf_counter() - started,
        divergence=divergence,
    )


class _Pacer:
    """Called whenever a replaying machine stands still: shows progress, and sleeps where real time is wanted."""

    def __init__(self, speed: str, progress: Progress | None, total: int | None) -> None:
        self._is_real = speed == "real"
        self._progress = progress
        self._total = total
        self._machine: Machine | None = None
        self._shown = 0.0
        self._started = time.monotonic()
        self._started_ns = 0

    def attach(self, machine: Machine) -> None:
        """Take the machine to pace, which stands where the replay starts."""
        self._machine = machine
        self._started, self._started_ns = time.monotonic(), machine.clock.now_ns

    def __call__(self) -> None:
        machine = self._machine
        if machine is None or not (self._is_real or self._progress):
            return
        now = time.monotonic()
        guest_ns = machine.clock.now_ns
        if self._progress is not None and now - self._shown >= PROGRESS_SECONDS:
            self._shown = now
            self._progress.update(machine.core.branches, guest_ns, self._total)
        if self._is_real:
            time.sleep(max(0.0, self._started + (guest_ns - self._started_ns) / 1e9 - now))


def _audit_passed(session: ReplaySession, event: Event) -> None:
    """Compare a checkpoint that is passed with the log and the guest's time; raises CorruptError."""
    if event.kind == Kind.CHECKPOINT:
        session.recording.audit_checkpoint(event.number, session.machine.page_count)
        _compare_time(session, _find_checkpoint(session.recording, event.number))


def _compare_time(session: ReplaySession, info: CheckpointInfo) -> None:
    """Compare the guest's time at the checkpoint *info*, where *session* stands; raises CorruptError."""
    if session.machine.clock.now_ns != info.guest_ns:
        raise CorruptError(
            session.recording.path, f"checkpoint {info.number} tells another time than its state"
        )


def _step(session: ReplaySession, until: Position) -> None:
    branches = session.machine.core.branches
    done = session.machine.step(until.steps) if branches == until.branches else 0
    if done < until.steps or session.machine.core.branches != until.branches:
        raise UsageError(f"there is no position {until}: only {done} instructions follow that branch")


def _last_branch(recording: Recording, until: Position | None) -> int | None:
    if until is not None:
        return until.branches
    end = recording.manifest.end
    return end.get("branches") if end else None


def _find_checkpoint(recording: Recording, number: int) -> CheckpointInfo:
    for info in recording.checkpoints:
        if info.number == number:
            return info
    raise UsageError(
        f"{recording.path.name} has no checkpoint {number}",
        hint=f"it has {', '.join(str(info.number) for info in recording.checkpoints) or 'none'}",
    )


def _config(recording: Recording) -> MachineConfig:
    try:
        return MachineConfig.from_plain(recording.manifest.machine)
    except (ValueError, TypeError) as error:
        raise CorruptError(recording.path / "manifest.json", f"machine: {error}") from error


def _check_unicorn(recording: Recording) -> None:
    made_with = recording.manifest.versions.get("unicorn")
    if made_with != UNICORN_VERSION:
        raise HostError(
            f"{recording.path.name} was recorded with Unicorn {made_with}; this revirt replays with {UNICORN_VERSION}",
            hint="replay it with the revirt that recorded it",
        )
