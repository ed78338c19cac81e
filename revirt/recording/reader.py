"""Reading a recording."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from revirt.checkpoint import CheckpointInfo, CheckpointReader, LoadedCheckpoint
from revirt.checkpoint.format import checkpoint_name
from revirt.errors import CorruptError, EvictedError, NoRecordingError
from revirt.log.events import Event
from revirt.log.reader import LogReader, Start
from revirt.log.segment import Segment
from revirt.recording import layout, store
from revirt.recording.audit import audit, check_state, events_of
from revirt.recording.manifest import NAME, Manifest, RecordingState
from revirt.recording.progress import Progress, no_progress
from revirt.recording.verify import Verification
from revirt.seal.keys import PublicKey

_PATIENCE = 20
"""How often a circular recording is looked at again because its recorder let go of something meanwhile."""


class Recording:
    """A recording on disk; made by `open`.

    It shows what was there when its parts were first asked for: to see what a recorder added since, open it
    again. Everything that reads raises CorruptError for damage and FormatVersionError for files of a newer
    revirt.
    """

    def __init__(self, path: Path, contents: Manifest, state: RecordingState) -> None:
        self.path = path
        self.manifest = contents
        self.state = state
        start = contents.start
        self._log = LogReader(path / layout.LOG, Start(start.segment, start.event))
        self._store = CheckpointReader(path / layout.CHECKPOINTS, path / layout.PAGES, first=start.checkpoint)

    @classmethod
    def open(cls, path: Path) -> Recording:
        """Return the recording in *path*.

        Raises NoRecordingError if there is none, CorruptError or FormatVersionError if its manifest cannot
        be read.
        """
        manifest_path = path / NAME
        if not store.is_recording(path):
            raise NoRecordingError(path)
        contents = Manifest.read(manifest_path)
        if contents.state == RecordingState.RECORDING and contents.ring is not None:
            return cls._open_turning(path, contents)
        return cls._open(path, contents)

    @classmethod
    def _open_turning(cls, path: Path, contents: Manifest) -> Recording:
        """Return the circular recording in *path*, whose recorder may be letting go of what *contents* says is kept."""
        for _ in range(_PATIENCE):
            recording = cls._open(path, contents)
            try:
                found = recording.checkpoints
            except CorruptError:
                found = None
            before, contents = contents, Manifest.read(path / NAME)
            if found is not None and contents.kept == before.kept:
                return recording
        return cls._open(path, contents)

    @classmethod
    def _open(cls, path: Path, contents: Manifest) -> Recording:
        manifest_path = path / NAME
        if contents.state == RecordingState.RECORDING and not layout.is_locked(path):
            # It may have been completed between the two looks; now nobody is left to write it.
            contents = Manifest.read(manifest_path)
            if contents.state == RecordingState.RECORDING:
                return cls(path, contents, RecordingState.INTERRUPTED)
        return cls(path, contents, RecordingState(contents.state))

    @cached_property
    def checkpoints(self) -> list[CheckpointInfo]:
        """The checkpoints whose event is in the log, by number: those that a replay can start from."""
        # The log first: while it is recorded, checkpoints are on disk before their events are.
        end = self.event_end
        return [info for info in self._store.infos if info.event < end]

    @property
    def event_count(self) -> int:
        """Events in the log."""
        return self._log.count

    @property
    def event_end(self) -> int:
        """The ordinal behind that of the last event; events count from the beginning, also where it was evicted."""
        return self._log.end

    @property
    def end_branches(self) -> int:
        """The branch count up to which it tells what happened: that of the last event, or of where it was cut."""
        last = self.segments[-1].last_branches if self.segments else 0
        return max(last, self.manifest.cut_at or 0)

    @property
    def segments(self) -> list[Segment]:
        """The segments of the log, in order: what their headers say."""
        return self._log.segments

    @property
    def log_bytes(self) -> int:
        """Bytes of the log on disk."""
        return self._log.size

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of checkpoints and their pages on disk."""
        return self._store.disk_size

    def checkpoint_size(self, number: int) -> int:
        """Return the bytes on disk of checkpoint *number* and the pages that are new in it."""
        return self._store.size(number)

    @property
    def new_pages(self) -> dict[int, int]:
        """How many pages of memory were stored with each checkpoint, by its number."""
        return {header.info.number: header.page_count for header in self._store.headers}

    def events(self, after: int = 0) -> Iterator[Event]:
        """Yield the events from ordinal *after* on, in order, reading as it goes.

        Raises CorruptError when it comes to damage, also at the end of a complete recording that misses
        events.
        """
        with self.reading():
            yield from self._log.events(after)
        if self.state is RecordingState.COMPLETE:
            expected = (self.manifest.end or {}).get("events")
            if self.event_end != expected:
                problem = f"events up to number {self.event_end} where {expected} were recorded"
                raise CorruptError(self._log.directory, problem)

    def load_checkpoint(self, number: int) -> LoadedCheckpoint:
        """Return checkpoint *number*; raises RecordingError if there is none of that number."""
        with self.reading():
            return self._store.load(number)

    def read_pages(self, ids: array[int]) -> Iterator[tuple[range, bytes]]:
        """Yield the contents of stored pages by their *ids*, as `revirt.checkpoint.CheckpointReader.pages` does."""
        with self.reading():
            yield from self._store.pages(ids)

    def audit_checkpoint(self, number: int, page_count: int) -> None:
        """Compare what is stored of checkpoint *number*, its new pages included, with what the log says of it.

        *page_count* is how many pages of memory the machine has.  Raises CorruptError.
        """
        path = self.checkpoint_path(number)
        with self.reading():
            loaded = self._store.load(number)
            audit(self._store, path, loaded, events_of(self._log, path, loaded.info), page_count)
            self._store.verify_pages(number)

    def events_of_checkpoint(self, loaded: LoadedCheckpoint) -> tuple[Event, Event]:
        """Return the DIGEST and the CHECKPOINT that stand in the log for *loaded*, which is compared with them.

        Raises CorruptError if it does not stand there, or has another state.
        """
        path = self.checkpoint_path(loaded.info.number)
        with self.reading():
            digest, checkpoint = events_of(self._log, path, loaded.info)
        check_state(path, loaded.state, checkpoint)
        return digest, checkpoint

    def verify(self, key: PublicKey | None = None, progress: Progress = no_progress) -> Verification:
        """Return the check of everything, to iterate over: it yields what is wrong, nothing if all is as written.

        With a *key* the recording has to be sealed by that.
        """
        return Verification(self.path, self.manifest, self.state, key, progress)

    def checkpoint_path(self, number: int) -> Path:
        """Return the file of checkpoint *number*."""
        return self.path / layout.CHECKPOINTS / checkpoint_name(number)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Tell damage from what the recorder of a circular recording has let go of since this was opened.

        For the latter what is read in the block raises EvictedError; the pages of a loaded checkpoint want it, too.
        """
        try:
            yield
        except CorruptError as error:
            if self.state is not RecordingState.RECORDING or self.manifest.ring is None:
                raise
            now = Manifest.read(self.path / NAME).start
            if now == self.manifest.start:
                raise
            raise EvictedError(
                f"{self.path.name} is being recorded, and what was to be read next was evicted",
                hint=f"the oldest checkpoint left is {now.checkpoint}, at {now.branches}:0",
            ) from error
