"""Writing the log behind the guest's back: events are cut into segments, and one thread packs and writes
them.

Rules:
- Events wait as rows, where they were noted, and are drawn from there now and then: most are noted without a
  lock.  If the disk cannot follow, the guest waits; no event is dropped.
- Everything is written in the order in which it was handed over, events and `submit`-ted jobs alike.  So
  files that a job writes are there before any segment with later events.
- What waited a second is written, but small segments pack badly: the last one grows, by being replaced as a
  whole, until it is large enough or a job comes.
- After a failure nothing more is written: a log has no holes.  The failure is raised from the next call,
  and from `close`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from revirt.errors import HostError
from revirt.log import segment
from revirt.log.frame import write_whole
from revirt.log.rows import Rows, Source, join

SEGMENT_SECONDS = 1.0
"""Host time after which waiting events become a segment."""
SEGMENT_SIZE = 1 << 20
"""Bytes, roughly and uncompressed, at which waiting events become a segment."""
GROWTH_LIMIT = 128 << 10
"""Bytes, likewise, up to which the last segment is replaced by one with more events."""
QUEUE_SIZE = 16 << 20
"""Bytes that may wait for the disk before whoever hands over more has to wait, too: the ring in memory."""

Job = Callable[[], None]
Written = Callable[[int, int, Rows], None]
"""Told that events were written: the index of their segment, the ordinal of the first, and the events."""

_NOTHING = Rows(b"", b"")


def _nothing() -> Rows:
    return _NOTHING


def _do_nothing(*_: object) -> None:
    pass


class LogWriter:
    """Writes events to *directory*, which exists, as segments from index 0.

    *written* is called by the writing thread after every segment, *idle* when there was none for ``SEGMENT_SECONDS``.
    Both may raise OSError, as a job.
    """

    def __init__(self, directory: Path, written: Written = _do_nothing, idle: Job = _do_nothing) -> None:
        self._directory = directory
        self._after_write = written
        self._idle = idle
        self._changed = threading.Condition(threading.Lock())
        self._source: Source = _nothing
        self._on_failure: Job = _do_nothing
        self._waiting: list[Rows] = []
        self._waiting_size = 0
        self._due = time.monotonic() + SEGMENT_SECONDS
        self._jobs: deque[tuple[Job, int]] = deque()
        self._queued_size = 0
        self._closing = False
        self._ended = False
        self._failure: Exception | None = None
        # The last segment, and the sizes of all (writing thread).
        self._index = 0
        self._last = _NOTHING
        self._last_branches = 0
        self._sizes: dict[int, int] = {}
        self.events = 0
        """Events handed over so far."""
        self.written = 0
        """Events on disk so far."""
        self.size = 0
        """Bytes of segments on disk."""
        self._thread = threading.Thread(target=self._work, name="revirt-log", daemon=True)
        self._thread.start()

    def draw_from(self, source: Source, on_failure: Job) -> None:
        """Take events from *source* too: it returns what waits there and forgets it.

        It is called before anything is taken that is handed over here, and every ``SEGMENT_SECONDS``; from any thread,
        never from two at once.  *on_failure* is called by the writing thread when something could not be written: a
        guest that is quiet would not notice for long.
        """
        self._source, self._on_failure = source, on_failure

    def draw(self) -> None:
        """Take what waits in the source now; raises as `append`."""
        self.append(_NOTHING)

    def flush(self) -> None:
        """Have everything handed over so far written now, and not within a second."""
        with self._changed:
            self._check_open()
            self._draw()
            self._cut()

    def append(self, rows: Rows) -> None:
        """Add *rows* to the log.

        Raises HostError if the log could not be written, and ValueError if an event, of these or before them,
        was malformed.
        """
        with self._changed:
            self._check_open()
            self._draw()
            self._add(rows)
            if self._waiting_size >= SEGMENT_SIZE:
                self._cut()
                self._wait_for_room()

    def submit(self, job: Job, size: int) -> None:
        """Have the writing thread run *job* after everything handed over so far; *size* is what it holds,
        in bytes.

        Waits while too much is queued.  Raises HostError if something before it failed.
        """
        with self._changed:
            self._check_open()
            self._draw()
            self._cut()
            self._enqueue(lambda: self._finish_segment(job), size)
            self._wait_for_room()

    @property
    def next_segment(self) -> int:
        """The index of the segment that the next event goes to; for jobs, before any other event."""
        return self._index

    def evict(self, first: int) -> None:
        """Delete the segments before index *first* (writing thread); raises OSError."""
        for index in [index for index in self._sizes if index < first]:
            (self._directory / segment.file_name(index)).unlink(missing_ok=True)
            self.size -= self._sizes.pop(index)

    def close(self) -> None:
        """Write everything that waits and end the thread; whenever this has returned, nothing is written any more.

        Raises what went wrong, the first time it is called.  Where an exception of a signal handler cuts the wait
        short, call it again.
        """
        with self._changed:
            is_first = not self._closing
            if is_first:
                self._closing = True
                self._draw()
                self._cut()
                self._changed.notify_all()
            # Not by Thread.join: until Python 3.13, one that is interrupted takes a live thread for ended.
            while not self._ended:
                self._changed.wait()
        if is_first and self._failure is not None:
            raise self._failure

    def _draw(self) -> None:
        """Take what waits in the source (lock held)."""
        self._add(self._source())

    def _add(self, rows: Rows) -> None:
        if rows.rows:
            self._waiting.append(rows)
            self._waiting_size += rows.size
            self.events += rows.count

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise ValueError("the log is closed")

    def _cut(self) -> None:
        """Queue the waiting events as a segment (lock held)."""
        self._due = time.monotonic() + SEGMENT_SECONDS
        if not self._waiting:
            return
        rows, self._waiting, self._waiting_size = join(self._waiting), [], 0
        self._enqueue(lambda: self._write(rows), rows.size)

    def _enqueue(self, job: Job, size: int) -> None:
        self._jobs.append((job, size))
        self._queued_size += size
        self._changed.notify_all()

    def _wait_for_room(self) -> None:
        while self._queued_size > QUEUE_SIZE and self._failure is None:
            self._changed.wait()
        self._check_open()

    def _finish_segment(self, job: Job) -> None:
        """Run *job*; events after it go into another segment than those before it (writing thread)."""
        self._index += bool(self._last.rows)
        self._last = _NOTHING
        job()

    def _write(self, rows: Rows) -> None:
        """Write *rows* into the last segment or one after it (writing thread)."""
        if self._last.rows and self._last.size + rows.size > GROWTH_LIMIT:
            self._finish_segment(lambda: None)
        if rows.first_branches < self._last_branches:
            raise ValueError(f"event at {rows.first_branches} branches after one at {self._last_branches}")
        whole = join((self._last, rows))
        path = self._directory / segment.file_name(self._index)
        first = self.written
        stored = write_whole(path, segment.encode(self._index, first - self._last.count, whole))
        self.size += stored - self._sizes.get(self._index, 0)
        self._sizes[self._index] = stored
        self.written += rows.count
        self._last_branches = rows.last_branches
        self._last = whole
        self._after_write(self._index, first, rows)

    def _work(self) -> None:
        try:
            self._run_jobs()
        except Exception as error:  # of the source: what it held is lost, so the log ends here
            self._fail(error)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _fail(self, failure: Exception) -> None:
        with self._changed:
            is_first = self._failure is None
            self._failure = self._failure or failure
            self._changed.notify_all()
        if is_first:
            self._on_failure()

    def _run_jobs(self) -> None:
        while True:
            with self._changed:
                item = self._next()
                if item is None:
                    return
            job, size = item
            failure = self._run(job) if self._failure is None else None
            # A finished job may hold many pages; do not keep it while waiting for the next.
            del job, item
            if failure is not None:
                self._fail(failure)
            with self._changed:
                self._queued_size -= size
                self._changed.notify_all()

    def _next(self) -> tuple[Job, int] | None:
        """Return the next job, None at the end; waits, and cuts the segment that is due (lock held)."""
        while not self._jobs:
            if self._closing:
                return None
            if not self._changed.wait(max(0.0, self._due - time.monotonic())):
                self._draw()
                self._cut()
                if not self._jobs:
                    self._enqueue(self._idle, 0)
        return self._jobs.popleft()

    def _run(self, job: Job) -> Exception | None:
        try:
            job()
        except OSError as error:
            return HostError(
                f"cannot write the recording: {error.strerror or error}",
                hint=f"see 'revirt info {self._directory.parent}' for what was written before",
            )
        except Exception as error:
            return error
        return None
