"""One run of a guest, from what it begins with to a finished recording.

A session owns the machine and, unless told not to record, the recording.  At intervals of taken branches it writes
the machine's digests and a checkpoint; both stand in the log as events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from revirt.core import load_unicorn
from revirt.image.base import BaseImage, changed_images
from revirt.image.guest import Guest
from revirt.machine.config import ClockMode, MachineConfig
from revirt.machine.inputs import Inputs
from revirt.machine.machine import TRANSLATION_BUFFER, Ended, Machine
from revirt.monitor.beginning import Beginning, Booted, Pages
from revirt.monitor.console import Console
from revirt.monitor.given import Giver
from revirt.monitor.live import Live
from revirt.monitor.plugs import NOTHING, Plugs, of_guest
from revirt.monitor.recorder import Recorder
from revirt.monitor.trigger import Trigger
from revirt.position import Position
from revirt.recording import CheckpointInfo, RecordingWriter, RingLimits
from revirt.render import Progress

CHECKPOINT_EVERY = 128_000_000
"""Taken branches between two checkpoints: two to three seconds of replay.  Closer ones cost more than 2 % of a run."""

BATCH_PAGES = 128


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How to record.  Intervals are in taken branches; ``digest_every`` adds digests between checkpoints.

    With ``limits`` the recording is circular, until the ``trigger`` fires, after which the run ends.  ``sign`` is the
    file of the private key that it is sealed with.  ``plugs`` are the devices, and what these are
    connected to; without any a guest has those that it comes with.
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
    plugs: Plugs | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run came to.  Times are in seconds of the host, ``guest_ns`` in nanoseconds of the guest.

    ``warnings`` are sentences about what went wrong beside the guest.
    """

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
    warnings: tuple[str, ...] = ()


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
        every, digest_every = self.options.checkpoint_every, self.options.digest_every
        if is_checkpoint:
            self.checkpoint += every * ((branches - self.checkpoint) // every + 1)
        if digest_every is not None and self.digest <= branches:
            self.digest += digest_every * ((branches - self.digest) // digest_every + 1)
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
    if options.plugs is None:
        options = replace(options, plugs=of_guest(guest))
    beginning = Booted.of(guest, options.clock, options.plugs or NOTHING)
    return record_from(
        beginning, console, options, directory, progress=progress, command=command, on_start=on_start
    )


def record_from(
    beginning: Beginning,
    console: Console,
    options: RecordOptions,
    directory: Path | None,
    *,
    giver: Giver | None = None,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    on_start: Callable[[Callable[[str], None]], None] | None = None,
) -> RunSummary:
    """Do what `record` does, with *beginning* and in its clock mode; a *giver* gives inputs again."""
    config = beginning.config
    until = options.until.branches if options.until is not None else None
    images = beginning.plugged.images
    live = Live(
        console,
        config.clock,
        until=until,
        progress=progress,
        trigger=options.trigger,
        giver=giver,
        sources=beginning.plugged.sources(options.plugs or NOTHING),
    )
    with closing(live):
        live.connect()  # what this host cannot do shows before anything is written
        if directory is None:
            machine = _build(config, live, images, options)
            beginning.load(machine)
            beginning.take_pages()
            return _warned(_run(machine, live, None, options, on_start), machine, images)
        contents = beginning.describe(command)
        with RecordingWriter.create(
            directory, contents, options.limits, options.sign, beginning.base, images
        ) as writer:
            recorder = Recorder(live, writer, lambda: live.stop("the recording cannot be written"))
            machine = _build(config, recorder, images, options)
            beginning.load(machine)
            recorder.attach(machine)
            if options.trigger is not None:
                options.trigger.attach(writer.freeze)
            recording = _Recording(writer, recorder, beginning, contents.start.checkpoint)
            return _warned(_run(machine, live, recording, options, on_start), machine, images)


def _warned(summary: RunSummary, machine: Machine, images: Sequence[BaseImage]) -> RunSummary:
    """Return *summary* with what is to be said of the disks of *machine*, whose *images* were read."""
    warnings = [
        f"disk {number} was full: the guest may write {contents.room >> 10} KiB to it, wanted more, and got I/O errors;"
        " allow more with --disk FILE,overlay=SIZE"
        for number, contents in enumerate(machine.disks)
        if contents.was_full
    ]
    if summary.path is not None:
        warnings += changed_images(images, "a replay wants it as it was when the recording began")
    return replace(summary, warnings=(*summary.warnings, *warnings))


def _build(
    config: MachineConfig, inputs: Inputs, images: Sequence[BaseImage], options: RecordOptions
) -> Machine:
    return Machine(
        config,
        inputs,
        bases=images,
        translation_buffer=options.translation_buffer,
        track_writes=options.track_writes,
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
        checkpoints=recording.number - recording.first if recording else 0,
        checkpoint_bytes=writer.checkpoint_bytes if writer else 0,
        path=writer.path if writer else None,
        warnings=live.warnings,
    )


@dataclass(slots=True)
class _Recording:
    """A recording in the making: the writer, and the recorder that feeds it."""

    writer: RecordingWriter
    recorder: Recorder
    beginning: Beginning
    first: int
    """Number of its first checkpoint."""
    number: int = field(init=False)
    """Number of its next checkpoint."""

    def __post_init__(self) -> None:
        self.number = self.first

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

    def _changed_pages(self, machine: Machine) -> Pages:
        """Yield the pages written since the last checkpoint, in batches of (numbers, contents)."""
        numbers = machine.changed_pages()
        if self.number == self.first:
            # What memory holds before the guest starts is at hand, and need not be copied.
            yield from self.beginning.take_pages()
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
