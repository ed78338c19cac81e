"""One run of a guest, from its image to a finished recording.

A session owns the machine and, unless told not to record, the recording.  At intervals of taken branches it writes
the machine's digests and a checkpoint; both stand in the log as events.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from revirt.core import load_unicorn
from revirt.image import load
from revirt.image.boot import Boot
from revirt.image.guest import Guest
from revirt.machine.config import NS_PER_BRANCH, VIRTUAL_EPOCH, ClockMode, MachineConfig
from revirt.machine.inputs import Inputs
from revirt.machine.machine import TRANSLATION_BUFFER, Ended, Machine
from revirt.monitor.console import Console
from revirt.monitor.live import Live
from revirt.monitor.recorder import Recorder
from revirt.monitor.trigger import Trigger
from revirt.position import Position
from revirt.recording import CheckpointInfo, Manifest, RecordingWriter, RingLimits
from revirt.recording.versions import current_versions
from revirt.render import Progress

CHECKPOINT_EVERY = 128_000_000
"""Taken branches between two checkpoints: two to three seconds of replay.  Closer ones cost more than 2 % of a run."""

BATCH_PAGES = 128


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How to record.  Intervals are in taken branches; ``digest_every`` adds digests between checkpoints.

    With ``limits`` the recording is circular, until the ``trigger`` fires, after which the run ends.  ``sign`` is the
    file of the private key that it is sealed with.
    """

    clock: ClockMode = "host"
    until: Position | None = None
    digest_every: int | None = None
    checkpoint_every: int = CHECKPOINT_EVERY
    translation_buffer: int = TRANSLATION_BUFFER
    track_writes: bool = True
    limits: RingLimits | None = None
    trigger: Trigger | None = None
    sign: Path | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run came to.  Times are in seconds of the host, ``guest_ns`` in nanoseconds of the guest."""

    reason: str
    exit_code: int | None
    crashed: bool
    branches: int
    guest_ns: int
    seconds: float
    cpu_seconds: float
    events: int
    log_bytes: int
    checkpoints: int
    checkpoint_bytes: int
    path: Path | None


@dataclass(slots=True)
class _Schedule:
    """Branch counts at which a recording session has something to do."""

    options: RecordOptions
    checkpoint: int = 0
    digest: int = 0

    def next(self) -> int:
        return self.checkpoint if self.options.digest_every is None else min(self.checkpoint, self.digest)

    def advance(self, branches: int) -> bool:
        """Move past *branches*; return whether a checkpoint was due there."""
        is_checkpoint = branches >= self.checkpoint
        while self.checkpoint <= branches:
            self.checkpoint += self.options.checkpoint_every
        while self.options.digest_every is not None and self.digest <= branches:
            self.digest += self.options.digest_every
        return is_checkpoint


def record(
    guest: Guest,
    console: Console,
    options: RecordOptions,
    directory: Path | None,
    *,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    on_start: Callable[[Callable[[str], None]], None] | None = None,
) -> RunSummary:
    """Run *guest* with *console* on its serial line and record it in *directory*.

    Without a directory nothing is written: the same machine, the same loop, for comparison.  *on_start* is given a
    function that ends the run in order, callable from any thread or signal handler.

    Raises GuestError if the guest cannot be loaded, RecordingExistsError, HostError if nothing can be written,
    KeyFileError if there is no key to sign with.
    """
    load_unicorn()  # what is missing shows before anything is written
    boot = load(guest.image_spec(), guest.memory)
    config = _configure(guest.memory, options.clock)
    until = options.until.branches if options.until is not None else None
    live = Live(console, options.clock, until=until, progress=progress, trigger=options.trigger)
    if directory is None:
        machine = _build(config, live, options)
        machine.load(boot)
        del boot
        return _run(machine, live, None, options, on_start)
    contents = _describe(guest, config, command)
    with RecordingWriter.create(directory, contents, options.limits, options.sign) as writer:
        recorder = Recorder(live, writer, lambda: live.stop("the recording cannot be written"))
        machine = _build(config, recorder, options)
        machine.load(boot)
        recorder.attach(machine)
        if options.trigger is not None:
            options.trigger.attach(writer.freeze)
        recording = _Recording(writer, recorder, boot)
        del boot  # it holds a whole kernel, which the first checkpoint is the last to need
        return _run(machine, live, recording, options, on_start)


def _build(config: MachineConfig, inputs: Inputs, options: RecordOptions) -> Machine:
    return Machine(
        config, inputs, translation_buffer=options.translation_buffer, track_writes=options.track_writes
    )


def _run(
    machine: Machine,
    live: Live,
    recording: _Recording | None,
    options: RecordOptions,
    on_start: Callable[[Callable[[str], None]], None] | None,
) -> RunSummary:
    started, cpu_started = time.perf_counter(), time.process_time()
    live.attach(machine)
    if on_start is not None:
        on_start(live.stop)
    schedule = _Schedule(options)
    while True:
        if recording is not None:
            recording.mark(machine, with_checkpoint=schedule.advance(machine.core.branches))
        stop = machine.run(schedule.next() if recording is not None else None)
        if stop.ended is not None or stop.halted is not None:
            break
    ended = stop.ended or Ended(stop.halted or "")
    if options.trigger is not None:
        options.trigger.ended(crashed=ended.crashed, exit_code=ended.exit_code)
    if recording is not None:
        recording.finish(machine, ended, options.trigger)
    writer = recording.writer if recording is not None else None
    return RunSummary(
        reason=ended.reason,
        exit_code=ended.exit_code,
        crashed=ended.crashed,
        branches=machine.core.branches,
        guest_ns=machine.clock.now_ns,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        events=writer.events if writer else 0,
        log_bytes=writer.log_bytes if writer else 0,
        checkpoints=writer.checkpoints if writer else 0,
        checkpoint_bytes=writer.checkpoint_bytes if writer else 0,
        path=writer.path if writer else None,
    )


@dataclass(slots=True)
class _Recording:
    """A recording in the making: the writer, and the recorder that feeds it."""

    writer: RecordingWriter
    recorder: Recorder
    boot: Boot | None
    number: int = 0

    def mark(self, machine: Machine, *, with_checkpoint: bool) -> None:
        """Write the digests of this moment, and a checkpoint if one is due."""
        digest = machine.digest()
        self.recorder.flush()
        if not with_checkpoint:
            self.recorder.write_digest(digest)
            return
        moment = machine.moment()
        info = CheckpointInfo(
            number=self.number,
            branches=moment.branches,
            halted=moment.halted,
            pc=moment.pc,
            guest_ns=machine.clock.now_ns,
            event=self.writer.events + 1,
        )
        state = machine.save()
        self.writer.add_checkpoint(info, state, self._changed_pages(machine))
        self.recorder.write_digest(digest)
        self.recorder.write_checkpoint(self.number, state)
        self.writer.flush()  # from now on there is somewhere to replay from, and a ring may let go of what is before
        self.number += 1

    def _changed_pages(self, machine: Machine) -> Iterator[tuple[bytes, bytes | memoryview]]:
        """Yield the pages written since the last checkpoint, in batches of (numbers, contents)."""
        numbers = machine.changed_pages()
        if self.boot is not None:
            # What memory holds before the guest starts is in the image, and need not be copied.
            boot, self.boot = self.boot, None
            for pages, contents in boot.pages():
                yield array("I", pages).tobytes(), contents
            return
        for start in range(0, len(numbers), BATCH_PAGES * 4):
            batch = numbers[start : start + BATCH_PAGES * 4]
            yield batch, machine.core.read_pages(batch)

    def finish(self, machine: Machine, ended: Ended, trigger: Trigger | None) -> None:
        """Write the last digests and close the recording as complete."""
        digest = machine.digest()
        self.recorder.flush()
        self.recorder.write_digest(digest)
        self.recorder.write_end(ended.reason)
        moment = machine.moment()
        self.writer.complete(
            {
                "reason": ended.reason,
                "exit_code": ended.exit_code,
                "crashed": ended.crashed,
                "branches": moment.branches,
                "pc": moment.pc,
                "guest_ns": machine.clock.now_ns,
                "trigger": trigger.fired if trigger is not None else None,
            }
        )


def _configure(memory: int, clock: ClockMode) -> MachineConfig:
    return MachineConfig(
        memory=memory,
        clock=clock,
        epoch=int(time.time()) if clock == "host" else VIRTUAL_EPOCH,
        ns_per_branch=NS_PER_BRANCH,
    )


def _describe(guest: Guest, config: MachineConfig, command: Sequence[str]) -> Manifest:
    return Manifest(
        guest={
            "name": guest.name,
            "summary": guest.summary,
            "append": guest.append,
            "digests": guest.digests(),
        },
        machine=config.to_plain(),
        clock=config.clock,
        versions=current_versions(),
        command=list(command),
    )
