"""Replays a recording and reports whether it came out the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from revirt.errors import DivergenceError, UsageError
from revirt.image.base import changed_images
from revirt.log.events import Event
from revirt.machine.machine import Ended, Machine
from revirt.position import Position
from revirt.recording import Recording
from revirt.render import Progress
from revirt.replay.divergence import locate_divergence
from revirt.replay.session import ReplaySession, audit_passed, how_lost

PROGRESS_SECONDS = 0.1


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

    ``exact`` is true if everything that was recorded in the stretch replayed came again.  ``ended`` is how the guest
    ended, None if it did not by itself.  ``warnings`` are sentences about what went wrong beside the guest.
    """

    exact: bool
    reason: str
    digests_checked: int
    events: int
    branches: int
    guest_ns: int
    seconds: float
    ended: Ended | None
    divergence: Divergence | None
    warnings: tuple[str, ...] = ()


def replay(
    recording: Recording,
    *,
    checkpoint: int | None = None,
    until: Position | None = None,
    output: Callable[[bytes], None] | None = None,
    speed: Literal["max", "real"] = "max",
    progress: Progress | None = None,
    on_start: Callable[[Callable[[str], None]], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
    locate: bool = True,
) -> ReplayReport:
    """Replay *recording* from a checkpoint (the oldest, unless told otherwise) to *until*, or its end.

    Report whether it came out the same.

    *output* gets the guest's console, in real time of the guest if *speed* says so.  *on_start* is given a function
    that ends the replay in order, *on_event* every event that came again.  After a divergence, *locate* searches for
    where it began.

    Checkpoints that the replay comes past are compared with the log, so that an exact replay tells that all of the
    recording is sound from where it began to where it ended.

    Raises CorruptError if something is damaged, HostError if another Unicorn is needed, UsageError for a position
    that the recording does not have.
    """
    started = time.perf_counter()
    _check_order(recording, checkpoint, until)
    pacer = _Pacer(speed, progress, _last_branch(recording, until))

    def passed(event: Event) -> None:
        audit_passed(session, event)
        if on_event is not None:
            on_event(event)

    session = ReplaySession(
        recording,
        checkpoint=checkpoint,
        until=until,
        output=output,
        on_event=passed,
        pace=pacer,
    )
    pacer.attach(session.machine)

    def stop(reason: str) -> None:
        session.replayer.stop(reason)
        pacer.wake()

    if on_start is not None:
        on_start(stop)
    divergence = None
    reason = "diverged"
    try:
        reason = session.run().halted or "the guest ended"
        if until is not None and until.steps:
            _step(session, until)
    except DivergenceError as error:
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
        ended=session.machine.ended,
        divergence=divergence,
        warnings=tuple(changed_images(session.images, "a replay is exact only over what was recorded")),
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
        self._woken = threading.Event()

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
            left = self._started + (guest_ns - self._started_ns) / 1e9 - now
            self._woken.wait(min(max(0.0, left), threading.TIMEOUT_MAX))

    def wake(self) -> None:
        """End the sleep that is on, and all that would follow."""
        self._woken.set()


def _check_order(recording: Recording, checkpoint: int | None, until: Position | None) -> None:
    infos = recording.checkpoints
    if until is None or not infos:
        return
    oldest = infos[0]
    if until.branches < oldest.branches:
        raise UsageError(
            f"position {until} of {recording.path.name} {how_lost(recording)}",
            hint=f"the oldest left is {oldest.branches}:0, at checkpoint {oldest.number}",
        )
    first = next((info for info in infos if info.number == checkpoint), None)
    if first is not None and until.branches < first.branches:
        raise UsageError(f"position {until} is before checkpoint {checkpoint}, at {first.branches}:0")


def _step(session: ReplaySession, until: Position) -> None:
    moment = session.machine.moment()
    if session.replayer.is_interrupted_at(moment):
        raise UsageError(f"there is no position {until}: at that branch an interrupt is taken")
    done = session.machine.step(until.steps) if moment.branches == until.branches else 0
    if done < until.steps or session.machine.core.branches != until.branches:
        raise UsageError(f"there is no position {until}: only {done} instructions follow that branch")


def _last_branch(recording: Recording, until: Position | None) -> int | None:
    if until is not None:
        return until.branches
    end = recording.manifest.end
    return end.get("branches") if end else None
