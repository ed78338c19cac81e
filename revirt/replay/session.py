"""A replay of a recording, from one of its checkpoints to a position or the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from revirt.core import PAGE_SIZE, UNICORN_VERSION
from revirt.errors import (
    CorruptError,
    DivergenceError,
    FormatVersionError,
    HostError,
    RecordingError,
    UsageError,
)
from revirt.log.events import Event, Kind
from revirt.machine.machine import TRANSLATION_BUFFER, Machine, Stop
from revirt.machine.state import NewerVersionError
from revirt.position import Position
from revirt.recording import CheckpointInfo, Recording
from revirt.recording.disks import open_bases
from revirt.recording.machine import machine_of
from revirt.render import Progress
from revirt.replay.replayer import Place, Replayer


class ReplaySession:
    """A machine that replays *recording* from checkpoint number *checkpoint*, the oldest by default.

    *events* yields those of the recording from an ordinal on, by default as the recording reads them.

    Raises CorruptError if the checkpoint cannot be loaded, FormatVersionError if it, or the machine, is one that only a
    newer revirt knows, HostError if it needs another Unicorn.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        checkpoint: int | None = None,
        until: Position | None = None,
        output: Callable[[bytes], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
        pace: Callable[[], None] | None = None,
        events: Callable[[int], Iterator[Event]] | None = None,
        translation_buffer: int = TRANSLATION_BUFFER,
        track_writes: bool = True,
    ) -> None:
        config = machine_of(recording.path, recording.manifest)
        _check_unicorn(recording)
        self.recording = recording
        self.info = find_checkpoint(recording, checkpoint)
        self.replayer = Replayer(
            events or recording.events,
            self.info.event + 1,
            until=until,
            quiet_until=recording.manifest.cut_at,
            output=output,
            on_event=on_event,
            pace=pace,
        )
        self.images = open_bases(recording.path, config.devices.disks)
        """What the disks held at first."""
        self.machine = Machine(
            config,
            self.replayer,
            bases=self.images,
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
        if stop.ended is not None and stop.halted is None:
            raise DivergenceError(
                self.machine.moment().position,
                "guest",
                expected="that it went on",
                found=f"its end: {stop.ended.reason}",
            )
        return stop

    def mark(self) -> Mark:
        """Return this moment, to come back to."""
        core = self.machine.core
        stored = bytes(self.machine.used_store_pages())
        return Mark(
            self.machine.save(), bytes(core.ram), stored, core.read_pages(stored), self.replayer.place
        )

    def return_to(self, mark: Mark) -> None:
        """Go back to a moment of this session."""
        core = self.machine.core
        used = self.machine.used_store_pages()
        core.write_pages(used, bytes(len(used) // 4 * PAGE_SIZE))
        core.write_pages(mark.stored, mark.store)
        core.ram[:] = mark.ram
        self.machine.restore(mark.state)
        self.replayer.seek(mark.place)

    def _load(self) -> None:
        loaded = self.recording.load_checkpoint(self.info.number)
        path = self.recording.path
        try:
            with self.recording.reading():
                for numbers, contents in loaded.batches():
                    self.machine.core.write_pages(numbers, contents)
            self.machine.restore(loaded.state)
        except NewerVersionError as error:
            raise FormatVersionError(
                self.recording.checkpoint_path(self.info.number), error.found, error.known, what=error.what
            ) from error
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


def show_progress(session: ReplaySession, progress: Progress | None, total: int) -> None:
    """Let *progress*, if given, hear how far *session* has come whenever that runs; *total* branches are all."""
    if progress is not None:
        core, clock = session.machine.core, session.machine.clock
        session.replayer.pace = lambda: progress.update(core.branches, clock.now_ns, total)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a replay session, kept in memory."""

    state: bytes
    ram: bytes
    stored: bytes
    """The numbers of the pages of store that are in use, and what is in them."""
    store: bytes
    place: Place


def audit_passed(session: ReplaySession, event: Event) -> None:
    """Compare a checkpoint that is passed with the log and the guest's time; raises CorruptError."""
    if event.kind == Kind.CHECKPOINT:
        session.recording.audit_checkpoint(event.number, session.machine.page_count)
        _compare_time(session, find_checkpoint(session.recording, event.number))


def _compare_time(session: ReplaySession, info: CheckpointInfo) -> None:
    """Compare the guest's time at the checkpoint *info*, where *session* stands; raises CorruptError."""
    if session.machine.clock.now_ns != info.guest_ns:
        raise CorruptError(
            session.recording.path, f"checkpoint {info.number} tells another time than its state"
        )


def find_checkpoint(recording: Recording, number: int | None) -> CheckpointInfo:
    """Return checkpoint *number* (None: the oldest); raises RecordingError if there is none, UsageError if not that."""
    checkpoints = recording.checkpoints
    if not checkpoints:
        raise RecordingError(
            f"{recording.path} ended before its first checkpoint: there is nothing to replay"
        )
    if number is None:
        return checkpoints[0]
    for info in checkpoints:
        if info.number == number:
            return info
    if number < checkpoints[0].number:
        oldest = checkpoints[0]
        raise UsageError(
            f"checkpoint {number} of {recording.path.name} {how_lost(recording)}",
            hint=f"the oldest left is {oldest.number}, at {oldest.branches}:0",
        )
    raise UsageError(
        f"{recording.path.name} has no checkpoint {number}",
        hint=f"it has {checkpoints[0].number} to {checkpoints[-1].number}",
    )


def how_lost(recording: Recording) -> str:
    """Return what became of what stood before the oldest checkpoint of *recording*, as the end of a sentence."""
    if recording.manifest.origins:
        return "was cut off"
    return "is before the fork" if recording.manifest.ring is None else "was evicted"


def _check_unicorn(recording: Recording) -> None:
    made_with = recording.manifest.versions.get("unicorn")
    if made_with != UNICORN_VERSION:
        raise HostError(
            f"{recording.path.name} was recorded with Unicorn {made_with}; this revirt replays with {UNICORN_VERSION}",
            hint="replay it with the revirt that recorded it",
        )
