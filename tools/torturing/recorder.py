"""A recorder in a process of its own, and a witness: what its guest was seen to print, and when."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import environment, revirt_command

from revirt.recording import is_recording

BAR_S = 1.0
"""What may be lost: a segment, which waits for a second."""
HOST_S = 0.5
"""What a busy host takes on top of that to wake the recorder and to write."""

RECORDING = "recording"
_PIECE = 1 << 16
_START_LIMIT_S = 60.0
_LOOK_S = 0.002
"""How often it is looked for a recording that is to begin."""


@dataclass(frozen=True, slots=True)
class Strike:
    """Something that happens so many seconds after a recording was begun; *act* is called by whoever watches."""

    after_s: float
    act: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A recorder's life: moments are of `time.monotonic`.

    ``began`` is when it began to record (its start, if it did not come to that), ``struck`` when the `Strike` was.

    ``status`` is as `subprocess` has it, ``seen`` the guest's output in the pieces in which it came, ``said`` what
    went to standard error.
    """

    path: Path
    status: int
    started: float
    ended: float
    seen: tuple[tuple[float, bytes], ...]
    said: str
    began: float = 0.0
    struck: float | None = None

    @property
    def output(self) -> bytes:
        """Everything that the guest was seen to print."""
        return b"".join(piece for _, piece in self.seen)

    def lost_s(self, replayed: bytes, *, is_cut: bool = False) -> float:
        """Return how old, when the recorder ended, the oldest line was that is not among what is *replayed*.

        A line counts once it is complete: before that it is not written down.  *is_cut* says that the replay begins
        somewhere in the middle.  Raises ValueError if *replayed* is not what was seen, as far as both go.
        """
        end = self._end_of(replayed, is_cut)
        if end > self.output.rfind(b"\n"):
            return 0.0
        place = 0
        for moment, piece in self.seen:
            place += len(piece)
            if place > end:
                return self.ended - moment
        return 0.0

    def _end_of(self, replayed: bytes, is_cut: bool) -> int:
        """Return how much of the output was seen up to the end of *replayed*."""
        output = self.output
        if is_cut and (found := output.rfind(replayed)) >= 0:
            return found + len(replayed)
        # The recorder may have written down what it did not come to print any more.
        first = max(0, len(output) - len(replayed)) if is_cut else 0
        for start in range(first, len(output) if is_cut else 1):
            common = min(len(output) - start, len(replayed))
            if output.startswith(replayed[:common], start):
                return start + len(replayed)
        raise ValueError("the replay prints something else than the guest did")


def record(
    words: Sequence[str],
    directory: Path,
    *,
    kill_after_s: float | None = None,
    is_early: bool = False,
    timeout_s: float,
    extra: Mapping[str, str] | None = None,
    strike: Strike | None = None,
) -> Run:
    """Run ``revirt record`` with *words*, recording into `RECORDING` below *directory*.

    It is killed *kill_after_s* seconds after it began its recording, or if *is_early* after its own start, and in any
    case *timeout_s* after that.  *extra* is added to its environment.  *strike* is what else happens to it.  What it
    says goes beside *directory*.
    """
    path = directory / RECORDING
    command = [os.fspath(word) for word in revirt_command("record", *words, "-o", path)]
    surroundings = {**environment(), "REVIRT_DIR": str(directory), **(extra or {})}
    limit_s = timeout_s if kill_after_s is None else min(kill_after_s, timeout_s)
    with (directory.parent / "stderr").open("w+b") as errors:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            bufsize=0,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        watch = _Watch(process, path, limit_s, strike, started)
        try:
            ended = watch.until_end(is_begun=is_early)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    seen = tuple(watch.seen)
    return Run(path, process.returncode, started, ended, seen, said, watch.began, watch.struck)


class _Watch:
    """Reads what *process* prints, into ``seen``, until it ends or is killed *limit_s* after it began to record."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        path: Path,
        limit_s: float,
        strike: Strike | None,
        started: float,
    ) -> None:
        self.seen: list[tuple[float, bytes]] = []
        self.began = started
        self.struck: float | None = None
        self._process = process
        self._path = path
        self._limit_s = limit_s
        self._strike = strike

    def until_end(self, *, is_begun: bool) -> float:
        """Return when the process ended, or was killed; *is_begun* counts from its start, recording or not."""
        stream = self._process.stdout
        assert stream is not None
        deadline = self.began + (self._limit_s if is_begun else _START_LIMIT_S)
        with stream:
            poll = select.poll()
            poll.register(stream, select.POLLIN)
            while True:
                now = time.monotonic()
                if not is_begun and is_recording(self._path):
                    is_begun, self.began, deadline = True, now, now + self._limit_s
                wake = self._act(now, deadline) if is_begun else now + _LOOK_S
                if now >= deadline:
                    return self._kill(stream.fileno())
                if poll.poll(max(0.0, wake - now) * 1000):
                    data = os.read(stream.fileno(), _PIECE)
                    if not data:
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            self._process.wait(max(0.0, deadline - time.monotonic()))
                        return time.monotonic()
                    self.seen.append((time.monotonic(), data))

    def _act(self, now: float, deadline: float) -> float:
        """Strike if it is time; return when there is something to be done next."""
        if self._strike is None or self.struck is not None:
            return deadline
        if now < self.began + self._strike.after_s:
            return min(deadline, self.began + self._strike.after_s)
        self.struck = now
        self._strike.act()
        return deadline

    def _kill(self, stream: int) -> float:
        self._process.kill()
        ended = time.monotonic()
        while data := os.read(stream, _PIECE):
            self.seen.append((ended, data))
        return ended
