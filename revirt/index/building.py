"""Making the index of a recording: of the stretches that have none, several at a time.

Each stretch is replayed in a process of its own, if there are several and several may be at work.  Its index is made
beside its place and renamed when it is whole, so that what is interrupted loses what it was at and no more.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

from revirt.errors import CorruptError, HostError, RecordingError, RevirtError, UsageError
from revirt.index.counting import SPACING, Report, index_stretch
from revirt.index.format import stretch_number
from revirt.index.reader import Index, is_sound
from revirt.index.stretches import Stretch, stretches_of
from revirt.log.frame import list_directory
from revirt.recording import Recording, layout
from revirt.render import Progress
from revirt.replay.children import start_child
from revirt.replay.session import find_checkpoint

_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What came of it: the index, how many of its stretches were made now, and how long that took."""

    index: Index
    made: int
    seconds: float


def build_index(
    recording: Recording,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    again: bool = False,
    spacing: int = SPACING,
) -> IndexReport:
    """Make the index of *recording* where it has none that is sound, or all of it *again*.

    *jobs* processes work at a time (default: one for each core).  Intervals are about *spacing* branches long.  What
    was made when it is interrupted stays.

    Raises UsageError for *jobs* or *spacing* below 1, RecordingError if there is no checkpoint to replay from, or
    somebody else is making it, HostError if it cannot be written, CorruptError if the recording is damaged,
    DivergenceError if a replay of it differs.
    """
    if (jobs is not None and jobs < 1) or spacing < 1:
        raise UsageError("an index takes at least one job, and one branch for each interval")
    find_checkpoint(recording, None)
    started = time.perf_counter()
    stretches = stretches_of(recording)
    with _locked(recording) as directory:
        wanted = [each for each in stretches if again or not is_sound(recording, each)]
        maker = _Maker(recording, spacing, _Meter(progress, wanted))
        try:
            maker.make(wanted, jobs or len(os.sched_getaffinity(0)))
        finally:
            _tidy(recording, directory, {each.number for each in stretches})
    return IndexReport(Index(recording), len(wanted), time.perf_counter() - started)


def make_stretch(recording: Recording, stretch: Stretch, spacing: int, report: Report) -> None:
    """Make the index of *stretch* in its place, with intervals of about *spacing* branches; raises as `build_index`."""
    place = stretch.directory(recording)
    # A name of its own: whoever was killed may leave a process behind that is still at it.
    temporary = place.with_name(f"{place.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        temporary.mkdir()
        try:
            index_stretch(recording, stretch, temporary, report, spacing)
            _delete(place)
            temporary.rename(place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise _unwritable(recording, error) from error


class _Meter:
    """Adds up how far the stretches *wanted* are, and tells *progress*."""

    def __init__(self, progress: Progress | None, wanted: Iterable[Stretch]) -> None:
        self._progress = progress
        self._total = sum(each.end - each.begin for each in wanted)
        self._done: dict[int, tuple[int, int]] = {}
        self._lock = Lock()

    def update(self, number: int, branches: int, guest_ns: int) -> None:
        """Note that of stretch *number* so many *branches*, and so much of the guest's time, are done."""
        with self._lock:
            self._done[number] = branches, guest_ns
            if self._progress is not None:
                done, times = zip(*self._done.values(), strict=True)
                self._progress.update(sum(done), sum(times), self._total)


class _Maker:
    """Makes the indices of stretches of *recording*."""

    def __init__(self, recording: Recording, spacing: int, meter: _Meter) -> None:
        self._recording = recording
        self._spacing = spacing
        self._meter = meter
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._is_ending = False

    def make(self, wanted: Sequence[Stretch], jobs: int) -> None:
        """Make those of *wanted*, so many *jobs* at a time."""
        if min(jobs, len(wanted)) <= 1:
            for each in wanted:
                make_stretch(self._recording, each, self._spacing, partial(self._meter.update, each.number))
            return
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for done in as_completed([pool.submit(self._make_elsewhere, each) for each in wanted]):
                    done.result()
            except BaseException:
                self._end()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _make_elsewhere(self, stretch: Stretch) -> None:
        """Make the index of *stretch* in a new process; raises what was raised there."""
        process = self._start()
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with process, process.stdin as orders, process.stdout as news:
            with suppress(BrokenPipeError):
                pickle.dump((self._recording.path, stretch, self._spacing), orders)
                orders.close()
            with suppress(EOFError, pickle.UnpicklingError):
                while (said := pickle.load(news)) is not None:
                    if isinstance(said, Failure):
                        raise said.error()
                    self._meter.update(stretch.number, *said)
                return
        if not self._is_ending:
            raise HostError(f"a process that made an index ended with status {process.returncode}")

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._is_ending:
                return None
            process = start_child("revirt.index.worker")
            self._processes.add(process)
        return process

    def _end(self) -> None:
        with self._lock:
            self._is_ending = True
            for process in self._processes:
                process.terminate()


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way from one process to another: errors are not made from what they say alone."""

    kind: type[RevirtError]
    args: tuple[object, ...]
    facts: dict[str, object]

    @classmethod
    def of(cls, error: RevirtError) -> Failure:
        """Return what `error` makes such an error of again."""
        return cls(type(error), error.args, vars(error))

    def error(self) -> RevirtError:
        """Return the error."""
        error = self.kind.__new__(self.kind, *self.args)
        vars(error).update(self.facts)
        return error


@contextmanager
def _locked(recording: Recording) -> Iterator[Path]:
    """Give the directory of the index of *recording*, which is made if need be, to nobody else meanwhile."""
    directory = recording.path / layout.INDEX
    try:
        directory.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise CorruptError(directory, "not a directory", hint="delete it") from error
    except OSError as error:
        raise _unwritable(recording, error) from error
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptError(directory, "is a link, or cannot be read", hint="delete it") from error
    try:
        _lock(recording, lock)
        yield directory
    finally:
        os.close(lock)


def _lock(recording: Recording, lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RecordingError(f"the index of {recording.path} is being made already") from error
    except OSError:
        # A file system without locks: two at once would each make the same.
        return


def _tidy(recording: Recording, directory: Path, numbers: set[int]) -> None:
    """Delete from *directory* what somebody left unfinished, and indices of stretches that are none of *numbers*."""
    for path in list_directory(directory):
        number = stretch_number(path.name.partition(".")[0])
        if number is not None and (number not in numbers or path.suffix == _TEMPORARY):
            try:
                _delete(path)
            except OSError as error:
                raise _unwritable(recording, error) from error


def _delete(path: Path) -> None:
    """Delete *path*, whatever it is; raises OSError if that cannot be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unwritable(recording: Recording, error: OSError) -> HostError:
    return HostError(
        f"cannot write an index into {recording.path}: {error.strerror or error}",
        hint="an index is kept in the recording: it takes a copy that may be written to, and space",
    )
