"""Making a recording."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from revirt.checkpoint import Base, CheckpointInfo, CheckpointWriter, LoadedCheckpoint
from revirt.checkpoint.sharing import share_pages
from revirt.errors import CorruptError, HostError, KeyFileError, RecordingExistsError
from revirt.image.base import BaseImage
from revirt.log.events import Event, Kind
from revirt.log.frame import write_whole
from revirt.log.rows import Rows, Source, rows_of
from revirt.log.writer import LogWriter
from revirt.recording import layout, manifest, store
from revirt.recording.disks import keep_bases
from revirt.recording.manifest import Kept, Manifest, RecordingState
from revirt.recording.ring import Ring, RingLimits
from revirt.recording.sealer import Sealer
from revirt.seal.keys import load_private


class RecordingWriter:
    """A recording being made; made by `create`.

    As a context manager it is closed on the way out: `abort`-ed, unless `complete` was called.
    """

    def __init__(
        self,
        path: Path,
        contents: Manifest,
        lock: int,
        limits: RingLimits | None = None,
        sealer: Sealer | None = None,
        base: LoadedCheckpoint | None = None,
    ) -> None:
        self.path = path
        self.checkpoints = contents.start.checkpoint
        """Number of the checkpoint that is to be added next: how many there are, if they count from 0."""
        self._manifest = contents
        self._lock: int | None = lock
        self._ring = Ring(limits) if limits is not None else None
        self._store = CheckpointWriter(
            path / layout.CHECKPOINTS,
            path / layout.PAGES,
            evicts=limits is not None,
            base=Base(base.page_map, base.next_page, base.info.number + 1) if base is not None else None,
        )
        self._sealer = sealer
        self._log = LogWriter(path / layout.LOG, self._wrote, self._tick)

    @classmethod
    def create(
        cls,
        path: Path,
        contents: Manifest,
        limits: RingLimits | None = None,
        sign: Path | None = None,
        base: LoadedCheckpoint | None = None,
        images: Sequence[BaseImage] = (),
    ) -> Self:
        """Begin a recording in the new directory *path*; in `recordings_dir` it becomes the latest.

        With *limits* it is circular: what is older than they allow goes.  It is sealed with the private key in the
        file *sign*, which is looked at once and not kept.  With a *base*, which goes with neither, its pages are those
        of that checkpoint of another recording but for what is added, and *contents* have to say that it begins with
        the number behind that.  *images* are those of its disks, which are kept beside it.

        Raises RecordingExistsError if there is something at *path*, HostError if it cannot be written, KeyFileError
        if there is no key, CorruptError if pages of *base* are damaged.
        """
        if base is not None and (limits or sign or contents.start.checkpoint != base.info.number + 1):
            raise ValueError(
                "pages can be shared behind their checkpoint only, by what is neither ring nor sealed"
            )
        ring = limits.to_plain() if limits is not None else None
        contents = replace(deepcopy(contents), state=RecordingState.RECORDING, end=None, ring=ring)
        text = contents.to_json()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError as error:
            # A file where a parent should be says the same of another path.
            raise RecordingExistsError(Path(error.filename)) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            # Nothing but this call knows the key: whoever takes over this process later does not find it.
            sealer = Sealer.begin(path / layout.SEAL, load_private(sign), contents) if sign else None
            lock = _begin(path, text, base, images)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise _unwritable(path, error) from error
        except (ValueError, KeyFileError, CorruptError):
            shutil.rmtree(path, ignore_errors=True)
            raise
        store.set_latest(path)
        return cls(path, contents, lock, limits, sealer, base)

    @property
    def events(self) -> int:
        """Events handed over so far: the ordinal of the next, if nothing waits in the source."""
        return self._log.events

    @property
    def log_bytes(self) -> int:
        """Bytes of the log on disk so far."""
        return self._log.size

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of checkpoints and pages on disk so far."""
        return self._store.size

    def append(self, event: Event) -> None:
        """Add *event* to the log; branches must not decrease from one to the next.

        Raises HostError if something could not be written, now or before, and ValueError for a malformed
        event, if not from this call then from a later one.  A CHECKPOINT event comes after its
        `add_checkpoint`.
        """
        if event.kind is Kind.CHECKPOINT and event.number >= self.checkpoints:
            raise ValueError(f"checkpoint {event.number} was not added before its event")
        self._log.append(rows_of([event]))

    def draw_from(self, source: Source, on_failure: Callable[[], None]) -> None:
        """Take events from *source* too, as `LogWriter.draw_from` does."""
        self._log.draw_from(source, on_failure)

    def draw(self) -> None:
        """Take what waits in the source now; raises HostError if something could not be written."""
        self._log.draw()

    def flush(self) -> None:
        """Have everything handed over so far written now."""
        self._log.flush()

    def add_checkpoint(
        self, info: CheckpointInfo, state: bytes, batches: Iterable[tuple[bytes, bytes | memoryview]]
    ) -> None:
        """Store a checkpoint; append its DIGEST and its CHECKPOINT next, the latter as number *info.event*.

        The two are the first events of a segment, so that what is before them can go.

        *batches* are pages changed since the checkpoint before (for the first: pages not all zeros), as
        page numbers (32-bit little-endian) and contents.  They are taken before this returns, packed and
        written later. Raises ValueError if *info* is out of turn, HostError if something could not be
        written.
        """
        self._log.draw()
        if (info.number, info.event) != (self.checkpoints, self.events + 1):
            raise ValueError(
                f"checkpoint {self.checkpoints} with event {self.events + 1} is next, not {info}"
            )
        writer = self._store
        self._log.submit(lambda: writer.begin(info, state), len(state))
        for numbers, contents in batches:
            self._add_pages(numbers, contents)
        self._log.submit(lambda: self._commit(info, state), 0)
        self.checkpoints += 1

    def freeze(self) -> None:
        """Let a circular recording keep everything from now on.  Safe from any thread and any signal handler."""
        if self._ring is not None:
            self._ring.is_frozen = True

    def complete(self, end: dict[str, Any]) -> None:
        """Finish the recording: write what waits, then the manifest with *end*.

        Raises HostError if something could not be written; the recording is then closed as interrupted.
        """
        self._close(RecordingState.COMPLETE, end)

    def abort(self, end: dict[str, Any]) -> None:
        """Close the recording as interrupted, keeping what was recorded; raises HostError."""
        self._close(RecordingState.INTERRUPTED, end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return
        try:
            self.abort({"reason": f"{type(error).__name__}: {error}" if error else "not completed"})
        except (HostError, ValueError):
            # What made the block fail tells more than that its end could not be written either.
            if error is None:
                raise

    def _add_pages(self, numbers: bytes, contents: bytes | memoryview) -> None:
        def store() -> None:
            self._turn(len(contents))
            self._store.add_pages(numbers, contents)
            if self._sealer is not None:
                self._sealer.add_pages(numbers, contents)

        self._log.submit(store, len(contents))

    def _commit(self, info: CheckpointInfo, state: bytes) -> None:
        """Finish a checkpoint (writing thread)."""
        self._store.commit()
        if self._sealer is not None:
            self._sealer.add_checkpoint(self._log.next_segment, info, state)
        if self._ring is not None:
            kept = Kept(self._log.next_segment, info.event - 1, info.number, info.branches, info.guest_ns)
            self._ring.add(kept)
            self._turn()

    def _wrote(self, segment: int, ordinal: int, rows: Rows) -> None:
        """Go on after a segment (writing thread)."""
        if self._sealer is not None:
            self._sealer.add_events(segment, ordinal, rows)
        self._turn()

    def _tick(self) -> None:
        """Go on after a second without events (writing thread)."""
        if self._sealer is not None:
            self._sealer.tick()

    def _turn(self, needed: int = 0) -> None:
        """Let go of what is too old, or too much with *needed* bytes more (writing thread)."""
        ring = self._ring
        if ring is None:
            return
        while (start := ring.turn(self._used + needed, self._log.written)) is not None:
            if self._sealer is not None:
                self._sealer.permit(start)
            # The manifest first: who reads it finds what it names.
            self._manifest = replace(self._manifest, kept=asdict(start))
            write_whole(self.path / manifest.NAME, self._manifest.to_json().encode())
            self._log.evict(start.segment)
            self._store.evict(start.checkpoint)
            if self._sealer is not None:
                self._sealer.evict()
        if ring.is_over(self._used + needed):
            self._store.evict(ring.oldest, all_of_it=True)

    @property
    def _used(self) -> int:
        """Bytes that are taken, or must be free for letting go of some."""
        sealed = self._sealer.size if self._sealer is not None else 0
        return self._log.size + self._store.size + self._store.spare + sealed

    def _close(self, state: RecordingState, end: dict[str, Any]) -> None:
        if self._lock is None:
            raise ValueError("the recording is closed")
        all_written = False
        try:
            self._log.close()
            all_written = True
        finally:
            # Again, in case a signal cut the wait short: what is being written must not be abandoned meanwhile.
            self._log.close()
            self._finish(state if all_written else RecordingState.INTERRUPTED, end, is_sealed=all_written)

    def _finish(self, state: RecordingState, end: dict[str, Any], *, is_sealed: bool) -> None:
        """Write the last manifest, sealed if everything before it is, and let go of the lock, whatever happens."""
        assert self._lock is not None
        lock, self._lock = self._lock, None
        try:
            self._store.abandon()
            end = {**end, "events": self._log.written, "checkpoints": self._store.count}
            text = replace(self._manifest, state=state, end=end).to_json()
            if self._sealer is not None and is_sealed:
                self._sealer.complete(state, end)
            write_whole(self.path / manifest.NAME, text.encode())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            if self._sealer is not None:
                self._sealer.close()
            os.close(lock)


def _begin(path: Path, text: str, base: LoadedCheckpoint | None, images: Sequence[BaseImage]) -> int:
    """Make the directories, with the pages of *base*, the lock and the manifest; return the lock's descriptor."""
    for name in layout.ALWAYS:
        (path / name).mkdir()
    keep_bases(path, images)
    if base is not None:
        share_pages(base, path / layout.PAGES)
    lock = os.open(path / layout.LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        # Before the manifest: whoever finds one that says "recording" finds the lock held.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_whole(path / manifest.NAME, text.encode())
    except OSError:
        os.close(lock)
        raise
    return lock


def _unwritable(path: Path, error: OSError) -> HostError:
    return HostError(
        f"cannot record into {path}: {error.strerror or error}",
        hint="choose a writable directory with free space with -o, or set REVIRT_DIR",
    )
