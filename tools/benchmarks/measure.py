"""Timing processes against each other.

Rules:
- What is compared runs in the same series, one after the other, every round in the opposite order: a host that grows
  slow or fast meanwhile weighs on both sides.
- Every run is a fresh process; its CPU time is user and system time of all its threads, as `wait4` reports it.
- A ratio is taken within a round; what is reported is the median of the rounds, and the least and the greatest.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import revirt
from revirt.errors import HostError

TIMEOUT_S = 900.0
"""Host time after which a run is given up."""

_ERROR_SIZE = 2000
_WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, slots=True)
class Step:
    """A line of a conversation with a guest: once it has sent *expect*, type *send*."""

    expect: bytes
    send: bytes = b""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: ``wall`` and ``cpu`` in seconds, what it printed, and when each step's text was first seen."""

    wall: float
    cpu: float
    output: bytes = b""
    seen: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, as it is reported.

    ``value`` is the median of ``rounds`` rounds, ``least`` and ``greatest`` are its spread.  For a ratio, ``first``
    and ``second`` are the medians of what was compared, in seconds.  ``is_met`` is None without a bar.
    """

    comparison: str
    subject: str
    quantity: str
    unit: str
    value: float
    least: float
    greatest: float
    rounds: int
    first: float | None
    second: float | None
    bar: float | None
    is_met: bool | None


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure; ``note`` is told what is being done, ``directory`` is for scratch files."""

    rounds: int
    clock: str
    directory: Path
    note: Callable[[str], None]

    def scratch(self, name: str) -> Path:
        """Return a path in the scratch directory at which there is nothing yet."""
        return Path(tempfile.mkdtemp(dir=self.directory)) / name


Samples = Mapping[str, Sequence[Sample]]
Variant = Callable[[], Mapping[str, Sample]]


def run(
    command: Sequence[str | Path], conversation: Sequence[Step] = (), *, timeout_s: float = TIMEOUT_S
) -> Sample:
    """Run *command* to its end, holding *conversation* with it on its standard input and output.

    Raises HostError if it cannot be started, fails, takes too long, or ends before the conversation does.
    """
    words = [os.fspath(word) for word in command]
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = _start(words, errors)
        watchdog = threading.Timer(timeout_s, process.kill)
        watchdog.start()
        try:
            output, seen = _converse(process, conversation)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            # Popen has not seen this end: wait4, unlike its wait, tells the CPU time of one child.
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            watchdog.cancel()
            _end(process)
        if process.returncode != 0 or len(seen) < len(conversation):
            raise HostError(_failure(words, process.returncode, output, errors), hint=" ".join(words))
    return Sample(wall, usage.ru_utime + usage.ru_stime, output, tuple(moment - started for moment in seen))


def revirt_command(*arguments: str | Path) -> list[str | Path]:
    """Return the command line of the revirt that this process has imported."""
    return [sys.executable, "-P", "-m", "revirt", *arguments]


def work(task: str, path: Path) -> dict[str, Any]:
    """Have a new process do *task* of `benchmarks.worker` with *path*; return its findings.

    ``process_seconds`` among them is the wall time of the whole process.
    """
    sample = run([sys.executable, _WORKER, task, path])
    return {**json.loads(sample.output), "process_seconds": sample.wall}


def alternate(variants: Sequence[Variant], settings: Settings, label: str) -> dict[str, list[Sample]]:
    """Run every variant once a round, every other round backwards; return the samples by name, in rounds' order."""
    samples: dict[str, list[Sample]] = {}
    for number in range(settings.rounds):
        settings.note(f"{label}: round {number + 1} of {settings.rounds}")
        for variant in variants if number % 2 == 0 else reversed(variants):
            for name, sample in variant().items():
                samples.setdefault(name, []).append(sample)
    return samples


def ratio(
    comparison: str,
    subject: str,
    quantity: str,
    first: Sequence[float],
    second: Sequence[float],
    bar: float | None = None,
) -> Figure:
    """Return *first* / *second*, both in seconds and by round, as a figure that should be at most *bar*."""
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    medians = statistics.median(first), statistics.median(second)
    return _figure(comparison, subject, quantity, "", ratios, medians, bar)


def figure(
    comparison: str, subject: str, quantity: str, unit: str, values: Sequence[float], bar: float | None = None
) -> Figure:
    """Return *values*, by round, as a figure that should be at most *bar*."""
    return _figure(comparison, subject, quantity, unit, values, (None, None), bar)


def walls(samples: Sequence[Sample]) -> list[float]:
    """Return the wall times of *samples*, in seconds."""
    return [sample.wall for sample in samples]


def cpus(samples: Sequence[Sample]) -> list[float]:
    """Return the CPU times of *samples*, in seconds."""
    return [sample.cpu for sample in samples]


def _figure(
    comparison: str,
    subject: str,
    quantity: str,
    unit: str,
    values: Sequence[float],
    medians: tuple[float | None, float | None],
    bar: float | None,
) -> Figure:
    value = statistics.median(values)
    is_met = None if bar is None else value <= bar
    spread = min(values), max(values)
    return Figure(comparison, subject, quantity, unit, value, *spread, len(values), *medians, bar, is_met)


def environment() -> dict[str, str]:
    """Return the environment of a process that imports what this one did, installed or not, wherever it starts."""
    places = [str(Path(revirt.__file__).parents[1]), str(Path(__file__).parents[1])]
    inherited = os.environ.get("PYTHONPATH")
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(places + ([inherited] if inherited else []))}
    # An installed program comes compiled; compiling it at every start is not what is measured.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def _start(words: list[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    try:
        return subprocess.Popen(words, bufsize=0, env=environment(), **streams)
    except OSError as error:
        raise HostError(f"cannot run {words[0]}: {error.strerror}") from error


def _converse(process: subprocess.Popen[bytes], conversation: Sequence[Step]) -> tuple[bytes, list[float]]:
    """Return everything *process* prints, and when (`time.perf_counter`) each step was reached."""
    assert process.stdin is not None
    assert process.stdout is not None
    output, matched, seen = bytearray(), 0, list[float]()
    while data := os.read(process.stdout.fileno(), 1 << 16):
        output += data
        while len(seen) < len(conversation):
            step = conversation[len(seen)]
            place = output.find(step.expect, matched)
            if place < 0:
                break
            matched = place + len(step.expect)
            seen.append(time.perf_counter())
            if step.send:
                os.write(process.stdin.fileno(), step.send)
    return bytes(output), seen


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _failure(words: Sequence[str], status: int, output: bytes, errors: IO[bytes]) -> str:
    errors.seek(0)
    said = (errors.read() or output)[-_ERROR_SIZE:].decode(errors="replace").strip()
    return f"{Path(words[0]).name} ended with status {status}, having said: {said or 'nothing'}"
