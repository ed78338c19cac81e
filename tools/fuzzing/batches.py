"""Many hostile files, one after the other, in a process of their own: it may die, and somebody has to tell of it."""

from __future__ import annotations

import faulthandler
import gc
import json
import mmap
import os
import struct
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzzing import FuzzError
from fuzzing.files import KINDS, Failure, Runner, Tally, make_targets

BATCH_SECONDS = 10.0
"""How long a batch takes that is one case among others."""
_PROGRESS = struct.Struct("<?IQ")
_MOST_FAILURES = 20


@dataclass(slots=True)
class Outcome:
    """What came of many cases: a tally of each kind, and those that failed."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def add(self, tallies: dict[str, Tally], failures: list[Failure]) -> None:
        """Take in what another process came to."""
        self.failures += failures
        for kind, found in tallies.items():
            tally = self.tallies.setdefault(kind, Tally())
            tally.cases += found.cases
            tally.accepted += found.accepted
            tally.seconds += found.seconds
            tally.peak = max(tally.peak, found.peak)
            tally.refusals.update(found.refusals)


def run_batch(rng: Random, samples: Path, case: Path) -> None:
    """Run a batch of cases of all kinds in this process, which does nothing else.

    Raises FuzzError if any fails.
    """
    seed = rng.getrandbits(32)
    runner = _runner(seed, KINDS, samples, case)
    end, number = time.monotonic() + BATCH_SECONDS, 0
    while time.monotonic() < end and not runner.failures:
        for kind in KINDS:
            runner.run(kind, number)
        number += 1
    if runner.failures:
        raise FuzzError("\n".join(describe(seed, each) for each in runner.failures))


def run_files(
    seed: int, kinds: Sequence[str], numbers: range, *, seconds: float, samples: Path, root: Path
) -> Outcome:
    """Run the cases *numbers* of each of *kinds*, until they or *seconds* are over.

    A process that dies is a case that failed; another goes on behind it.  Raises FuzzError if it dies before the first.
    """
    outcome, end, start = Outcome(), time.monotonic() + seconds, numbers.start
    while start < numbers.stop and time.monotonic() < end and len(outcome.failures) < _MOST_FAILURES:
        directory = root / f"files-{start}"
        directory.mkdir()
        with mmap.mmap(-1, mmap.PAGESIZE) as shared:
            pid = os.fork()
            if pid == 0:
                os._exit(_work(seed, kinds, range(start, numbers.stop), end, samples, directory, shared))
            _, status = os.waitpid(pid, 0)
            has_begun, place, start = _PROGRESS.unpack_from(shared)
        report = directory / "report"
        if status == 0 and report.exists():
            outcome.add(*_read(report))
            break
        problem = f"the process ended with {os.waitstatus_to_exitcode(status)}"
        if not has_begun:
            raise FuzzError(f"{problem} before the first case")
        outcome.failures.append(Failure(kinds[place], start, problem))
        start += 1
    return outcome


def describe(seed: int, failure: Failure) -> str:
    """Return *failure* in words, with the command that does it again."""
    again = f"python tools/fuzz.py --seed {seed} --file {failure.kind} --case {failure.number}"
    return f"{failure.kind} {failure.number}: {failure.problem}\nagain: {again}"


def _work(
    seed: int,
    kinds: Sequence[str],
    numbers: range,
    end: float,
    samples: Path,
    directory: Path,
    shared: mmap.mmap,
) -> int:
    """Be the process that runs the cases; return its exit status."""
    faulthandler.enable()
    try:
        runner = _runner(seed, kinds, samples, directory)
        for number in numbers:
            for place, kind in enumerate(kinds):
                _PROGRESS.pack_into(shared, 0, True, place, number)
                runner.run(kind, number)
            if time.monotonic() > end or len(runner.failures) > _MOST_FAILURES:
                break
        _write(directory / "report", runner)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _runner(seed: int, kinds: Sequence[str], samples: Path, directory: Path) -> Runner:
    runner = Runner(seed, make_targets(kinds, samples, directory))
    # What is collected after every case is looked through then: let that be little.
    gc.collect()
    gc.freeze()
    return runner


def _write(path: Path, runner: Runner) -> None:
    tallies = {
        kind: [t.cases, t.accepted, t.seconds, t.peak, t.refusals] for kind, t in runner.tallies.items()
    }
    failures = [[each.kind, each.number, each.problem] for each in runner.failures]
    path.write_text(json.dumps([tallies, failures]))


def _read(path: Path) -> tuple[dict[str, Tally], list[Failure]]:
    tallies, failures = json.loads(path.read_text())
    found = {kind: _tally(*values) for kind, values in tallies.items()}
    return found, [Failure(*each) for each in failures]


def _tally(cases: int, accepted: int, seconds: float, peak: int, refusals: dict[str, int]) -> Tally:
    return Tally(cases, accepted, seconds, peak, Counter(refusals))
