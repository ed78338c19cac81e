#!/usr/bin/env python3
"""Feeds revirt what nobody meant it to see: damaged recordings, and guests made of random code.

    python tools/fuzz.py --seconds 60
    python tools/fuzz.py --seed 7 --case 123        one case again; its files are kept

A case is made by nothing but the seed and its number.  These are failures: an exception that is not a `RevirtError`,
an exit status that docs/cli.md does not list, a process that dies, cannot be stopped or takes too much memory, and a
random guest whose replay is not exact.  Files of failed cases are kept.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fuzzing import cases
from fuzzing.recordings import make_samples


def run(seed: int, numbers: Iterable[int], *, jobs: int, seconds: float, root: Path) -> list[str]:
    """Run the cases *numbers*, until they or *seconds* are over; return the failures, in words."""
    samples = root / "samples"
    samples.mkdir()
    make_samples(samples)
    running: list[cases.Case] = []
    counts: Counter[str] = Counter()
    failures: list[str] = []
    waiting = iter(numbers)
    end = time.monotonic() + seconds
    while True:
        while len(running) < jobs and time.monotonic() < end:
            number = next(waiting, None)
            if number is None:
                end = time.monotonic()
                break
            running.append(cases.start(seed, number, samples, root))
        if not running:
            break
        for case in list(running):
            outcome = cases.outcome(case)
            if outcome is None:
                continue
            running.remove(case)
            counts[case.kind] += 1
            if outcome:
                failures.append(_describe(case, seed, outcome))
            else:
                shutil.rmtree(case.directory)
        time.sleep(0.005)
    ran = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(counts.items()))
    print(f"{counts.total()} cases ({ran}), {len(failures)} failures, seed {seed}")
    return failures


def run_one(seed: int, number: int, root: Path) -> list[str]:
    """Run case *number* and say what became of it; return it if it failed."""
    (root / "samples").mkdir()
    make_samples(root / "samples")
    case = cases.start(seed, number, root / "samples", root)
    while (outcome := cases.outcome(case)) is None:
        time.sleep(0.01)
    print(case.said(), f"its files: {case.directory}", sep="\n")
    return [_describe(case, seed, outcome)] if outcome else []


def _describe(case: cases.Case, seed: int, outcome: str) -> str:
    again = f"python tools/fuzz.py --seed {seed} --case {case.number}"
    return f"case {case.number} ({case.kind}): {outcome}\n{case.said()}\nits files: {case.directory}\nagain: {again}"


def main() -> int:
    """Fuzz for a while; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Feed revirt damaged recordings and guests of random code.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--case", type=int, help="run this case alone, and keep its files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    root = Path(tempfile.mkdtemp(prefix="revirt-fuzz-"))
    print(f"seed {seed}", flush=True)
    if arguments.case is not None:
        failures = run_one(seed, arguments.case, root)
    else:
        failures = run(seed, itertools.count(), jobs=arguments.jobs, seconds=arguments.seconds, root=root)
        if not failures:
            shutil.rmtree(root)
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
