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

BAR_S = 1.0
"""What may be lost: a segment, which waits for a second."""
HOST_S = 0.5
"""What a busy host takes on top of that to wake the recorder and to write."""

RECORDING = "recording"
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Strike:
    """Something that happens so many seconds after a recorder's start; *act* is called by the thread that records."""

    after_s: float
    act: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A recorder's life: moments are of `time.monotonic`.

    ``status`` is as `subprocess` has it, ``seen`` the guest's output in the pieces in which it came, ``said`` what
    went to standard error.
    """

    path: Path
    status: int
    started: float
    ended: float
    seen: tuple[tuple[float, bytes], ...]
    said: str

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
    timeout_s: float,
    extra: Mapping[str, str] | None = None,
    strike: Strike | None = None,
) -> Run:
    """Run ``revirt record`` with *words*, recording into `RECORDING` below *directory*.

    It is killed *kill_after_s* seconds after its start, and in any case after *timeout_s*.  *extra* is added to its
    environment.  *strike* is what else happens to it.  What it says goes beside *directory*.
    """
    path = directory / RECORDING
    command = [os.fspath(word) for word in revirt_command("record", *words, "-o", path)]
    surroundings = {**environment(), "REVIRT_DIR": str(directory), **(extra or {})}
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
        limit_s = timeout_s if kill_after_s is None else min(kill_after_s, timeout_s)
        try:
            seen, ended = _watch(process, started, started + limit_s, strike)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return Run(path, process.returncode, started, ended, tuple(seen), said)


def _watch(
    process: subprocess.Popen[bytes], started: float, deadline: float, strike: Strike | None
) -> tuple[list[tuple[float, bytes]], float]:
    """Read what *process* prints until it ends, or is killed at *deadline*; return that, and when it was."""
    assert process.stdout is not None
    seen: list[tuple[float, bytes]] = []
    with process.stdout as stream:
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        while True:
            now = time.monotonic()
            if strike is not None and now >= started + strike.after_s:
                strike.act()
                strike = None
            if now >= deadline:
                process.kill()
                ended = time.monotonic()
                while data := os.read(stream.fileno(), _PIECE):
                    seen.append((ended, data))
                return seen, ended
            wake = deadline if strike is None else min(deadline, started + strike.after_s)
            if poll.poll(max(0.0, wake - now) * 1000):
                data = os.read(stream.fileno(), _PIECE)
                if not data:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, deadline - time.monotonic()))
                    return seen, time.monotonic()
                seen.append((time.monotonic(), data))
