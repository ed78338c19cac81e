"""A recorder in a process of its own, and a witness: what its guest was seen to print, and when."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
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

    def lost_s(self, replayed: bytes) -> float:
        """Return how old, when the recorder ended, the oldest line was that is not among what is *replayed*.

        A line counts once it is complete: before that it is not written down.  Raises ValueError if *replayed* is not
        what was seen, as far as both go.
        """
        output = self.output
        common = min(len(output), len(replayed))
        if output[:common] != replayed[:common]:
            raise ValueError("the replay prints something else than the guest did")
        if len(replayed) > output.rfind(b"\n"):
            return 0.0
        place = 0
        for moment, piece in self.seen:
            place += len(piece)
            if place > len(replayed):
                return self.ended - moment
        return 0.0


def record(
    words: Sequence[str],
    directory: Path,
    *,
    kill_after_s: float | None = None,
    timeout_s: float,
    extra: Mapping[str, str] | None = None,
) -> Run:
    """Run ``revirt record`` with *words*, recording into `RECORDING` below *directory*.

    It is killed *kill_after_s* seconds after its start, and in any case after *timeout_s*.  *extra* is added to its
    environment.
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
            seen, ended = _watch(process, started + limit_s)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return Run(path, process.returncode, started, ended, tuple(seen), said)


def _watch(process: subprocess.Popen[bytes], deadline: float) -> tuple[list[tuple[float, bytes]], float]:
    """Read what *process* prints until it ends, or is killed at *deadline*; return that, and when it was."""
    assert process.stdout is not None
    seen: list[tuple[float, bytes]] = []
    with process.stdout as stream:
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                process.kill()
                ended = time.monotonic()
                while data := os.read(stream.fileno(), _PIECE):
                    seen.append((ended, data))
                return seen, ended
            if poll.poll(left * 1000):
                data = os.read(stream.fileno(), _PIECE)
                if not data:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, deadline - time.monotonic()))
                    return seen, time.monotonic()
                seen.append((time.monotonic(), data))
