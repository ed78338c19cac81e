"""Recorders below which a real file system fills up, breaks or becomes read-only.

    full        tmpfs with room for some hundred KB, or some MB
    read-only   ext4 that meets an error, and then does what most of them are told to: `errors=remount-ro`
    gone        ext4 that is shut down, as when its device is lost: every call fails with EIO
    remount     an administrator's `mount -o remount,ro`, which Linux refuses while a recorder holds its lock

The first three have to end a recorder, as `faults` has it; the fourth must not harm it, and what it recorded has to be
readable from a file system that is read-only.

Each thread has mounts of its own, which no other process sees and which end with it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.measure import environment, revirt_command, run

from revirt.errors import HostError, RecordingError
from revirt.recording import RecordingState
from torturing import Options, Trial
from torturing.faults import ENDS_S, Fault, check_message
from torturing.judge import Verdict, judge_elsewhere
from torturing.recorder import RECORDING, Run, Strike, record
from torturing.subjects import CHURN, Subject, make_subject

DISKS = {
    "full": Fault(errno.ENOSPC),
    "read-only": Fault(errno.EROFS),
    "gone": Fault(errno.EIO),
    "remount": Fault(0),
}
"""What happens to file systems, and what calls fail with afterwards."""

_CLONE_NEWNS = 0x20000
_EXT4_IOC_SHUTDOWN = 0x8004587D
_FLUSHED = b"\0\0\0\0"
"""EXT4_GOING_FLAGS_DEFAULT: what was written before is on the device."""
_EXT4_SIZE = 192 << 20
_SMALLEST, _LARGEST = 200 << 10, 12 << 20
_LEAST_S = 0.001
_LIFE_S = 3.0
_REFUSED = "this host does not let us mount file systems"

GUESTS = (CHURN, "echo")
"""What is recorded: guests that always have something to write."""

_own = threading.local()


def let_disk_fail(number: int, seed: int, kind: str, root: Path, options: Options) -> Trial:
    """Record a guest on a file system to which *kind* happens at a random moment; its files are below *root*.

    Raises HostError if this host does not let us mount one.
    """
    _enter_own_mounts()
    rng = Random(f"{seed}/{kind}/{number}")
    directory = root / f"{kind}-{number}"
    place = directory / "disk"
    place.mkdir(parents=True)
    # Only one of them fills a disk.
    subject = make_subject(GUESTS[number % len(GUESTS)] if kind != "full" else CHURN, root)
    with _mounted(kind, place, rng):
        if kind == "remount":
            trial = _refuse(subject, place, rng, options)
        else:
            trial = _fail(kind, subject, place, rng, options)
    trial.name = f"{kind} {number}: {subject.name}{trial.name}"
    trial.files = directory
    return trial


def _fail(kind: str, subject: Subject, place: Path, rng: Random, options: Options) -> Trial:
    """Let the disk at *place* fail under a recorder, which has to end and to say why."""
    strike = Strike(rng.uniform(_LEAST_S, _LIFE_S), partial(_ACTS[kind], place)) if kind in _ACTS else None
    spacing = str(min(subject.ring_spacings))
    words = [*subject.words, "--clock", "host", "--checkpoint-every", spacing, *options.words]
    run = record(words, place, timeout_s=_LIFE_S + 2 * ENDS_S, strike=strike)
    began = _last_change(place) if strike is None else run.struck or run.ended
    if kind == "gone":
        # Nothing can be read from it either, until it is there again.
        _run("umount", place)
        _mount_ext4(place)
    verdict = judge_elsewhere(run.path, kind, place.parent, options.public_key)
    trial = _trial(run, verdict)
    trial.ended_s = max(0.0, run.ended - began)
    if kind == "full" and options.is_ring and run.status == -signal.SIGKILL:
        trial.ended_s = 0.0  # there was room enough for it
    elif run.status == -signal.SIGKILL or trial.ended_s > ENDS_S:
        trial.problems.append(f"it went on for {trial.ended_s:.1f} s")
    elif run.status != 0 or strike is None:
        trial.problems += check_message(run, DISKS[kind], kind if kind == "gone" else verdict.outcome)
    elif verdict.outcome != RecordingState.COMPLETE:
        trial.problems.append(f"it calls that done, but left: {verdict.outcome}")
    return trial


def _refuse(subject: Subject, place: Path, rng: Random, options: Options) -> Trial:
    """Try to make the disk at *place* read-only while a recorder is at work, and do so when it was killed."""
    said: list[str] = []

    strike = Strike(rng.uniform(_LEAST_S, 1.5), lambda: said.append(_remount(place)))
    run = record([*subject.words, *options.words], place, timeout_s=_LIFE_S, strike=strike)
    if run.status not in (0, -signal.SIGKILL) or "busy" not in "".join(said):
        return Trial(outcome="", problems=[f"ended with status {run.status}: {run.said}{said}"])
    if after := _remount(place):
        raise HostError(f"{place} cannot be made read-only: {after}")
    trial = _trial(run, judge_elsewhere(run.path, "remount", place.parent, options.public_key))
    done = subprocess.run(
        list(map(str, revirt_command("repair", run.path))), capture_output=True, text=True, env=environment()
    )
    if done.returncode != RecordingError.exit_status or os.strerror(errno.EROFS) not in done.stderr:
        trial.problems.append(f"repair of what is read-only: status {done.returncode}: {done.stderr}")
    return trial


def _trial(run: Run, verdict: Verdict) -> Trial:
    problems = list(verdict.problems)
    try:
        run.lost_s(verdict.printed.encode("latin-1"), is_cut=verdict.begins > 0)
    except ValueError as error:
        problems.append(str(error))
    return Trial(outcome=verdict.outcome, problems=problems, has_turned=verdict.begins > 0)


# -- file systems ------------------------------------------------------------------------------------------------


def _enter_own_mounts() -> None:
    """Let this thread, and the processes that it starts, have mounts of their own; raises HostError."""
    if getattr(_own, "has_mounts", False):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise HostError(f"{_REFUSED}: {os.strerror(ctypes.get_errno())}", hint="run it as root")
    _mount("--make-rprivate", "/")
    _own.has_mounts = True


@contextmanager
def _mounted(kind: str, place: Path, rng: Random) -> Iterator[None]:
    """Mount the file system that is to suffer *kind* at *place*; raises HostError if that cannot be done."""
    if kind == "full":
        _mount("-t", "tmpfs", "-o", f"size={rng.randrange(_SMALLEST, _LARGEST)}", "tmpfs", place)
    else:
        image = _image(place)
        with image.open("wb") as file:
            file.truncate(_EXT4_SIZE)
        _run("mkfs.ext4", "-q", "-F", image)
        _mount_ext4(place)
    try:
        yield
    finally:
        _run("umount", place)


def _image(place: Path) -> Path:
    return place.with_name("image")


def _mount_ext4(place: Path) -> None:
    _mount("-o", "loop,errors=remount-ro", _image(place), place)


def _mount(*words: str | Path) -> None:
    try:
        _run("mount", *words)
    except HostError as error:
        raise HostError(f"{_REFUSED}: {error}", hint=error.hint) from error


def _meet_an_error(place: Path) -> None:
    """Tell the ext4 at *place* that it is damaged."""
    device = os.stat(place).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    try:
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("torture")
    except OSError as error:
        raise HostError(f"this host does not let ext4 meet an error: {error.strerror}") from error


def _shut_down(place: Path) -> None:
    """Shut the ext4 at *place* down."""
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(directory, _EXT4_IOC_SHUTDOWN, _FLUSHED)
    except OSError as error:
        raise HostError(f"this host does not let ext4 be shut down: {error.strerror}") from error
    finally:
        os.close(directory)


_ACTS = {"read-only": _meet_an_error, "gone": _shut_down}


def _remount(place: Path) -> str:
    """Make the file system at *place* read-only, as administrators do; return why not, empty if it is."""
    done = subprocess.run(["mount", "-o", "remount,ro", place], capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def _last_change(place: Path) -> float:
    """Return when something below *place* last changed, in seconds of `time.monotonic`."""
    newest = max(each.stat().st_mtime for each in (place, *(place / RECORDING).rglob("*")))
    return newest - time.time() + time.monotonic()


def _run(*words: str | Path) -> None:
    run([*words])
