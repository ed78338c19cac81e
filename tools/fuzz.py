#!/usr/bin/env python3
"""Feeds revirt what nobody meant it to see: damaged recordings, guests made of random code, bad drivers.

    python tools/fuzz.py --seconds 60
    python tools/fuzz.py --seed 7 --case 123                    one case again; its files are kept
    python tools/fuzz.py --file all --cases 10000               files only, in one process
    python tools/fuzz.py --seed 7 --file pages --case 123       one of them again
    python tools/fuzz.py --guided segment --seconds 600         files that coverage leads to; needs atheris
    python tools/fuzz.py --devices --seconds 600                what a hostile guest does to its devices
    python tools/fuzz.py --only driver --seconds 600            the same in guests, recorded and replayed

A case is made by nothing but the seed and its number.  These are failures: an exception that is not a `RevirtError`,
an exit status that docs/cli.md does not list, a process that dies, cannot be stopped or takes too much memory, and a
random guest whose replay is not exact.  Files of failed cases are kept.  What a case of a file must not do is in
`fuzzing.files`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fuzzing import batches, cases
from fuzzing.files import DEVICE_KINDS, KINDS, KINDS_GUIDED
from fuzzing.recordings import make_samples

NUMBERS = range(1 << 62)
TOOLS = Path(__file__).resolve().parent


def run(
    seed: int, numbers: Iterable[int], *, only: str | None, jobs: int, seconds: float, root: Path
) -> list[str]:
    """Run the cases *numbers*, until they or *seconds* are over; return the failures, in words.

    All are of kind *only*, if that is given.
    """
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
            running.append(cases.start(seed, number, samples, root, only))
        if not running:
            break
        for case in list(running):
            outcome = cases.outcome(case)
            if outcome is None:
                continue
            running.remove(case)
            counts[case.kind] += 1
            if outcome:
                failures.append(_describe(case, seed, outcome, only))
            else:
                shutil.rmtree(case.directory)
        time.sleep(0.005)
    ran = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(counts.items()))
    print(f"{counts.total()} cases ({ran}), {len(failures)} failures, seed {seed}")
    return failures


def run_one(seed: int, number: int, only: str | None, root: Path) -> list[str]:
    """Run case *number*, of kind *only* if that is given, and say what became of it; return it if it failed."""
    (root / "samples").mkdir()
    make_samples(root / "samples")
    case = cases.start(seed, number, root / "samples", root, only)
    while (outcome := cases.outcome(case)) is None:
        time.sleep(0.01)
    print(case.said(), f"its files: {case.directory}", sep="\n")
    return [_describe(case, seed, outcome, only)] if outcome else []


def _describe(case: cases.Case, seed: int, outcome: str, only: str | None) -> str:
    again = f"python tools/fuzz.py --seed {seed}{f' --only {only}' if only else ''} --case {case.number}"
    return f"case {case.number} ({case.kind}): {outcome}\n{case.said()}\nits files: {case.directory}\nagain: {again}"


def run_files(arguments: argparse.Namespace, seed: int, root: Path) -> list[str]:
    """Run cases of files in one process, and print what came of them; return the failures, in words."""
    (root / "samples").mkdir()
    make_samples(root / "samples")
    kinds = {None: DEVICE_KINDS, "all": KINDS}.get(arguments.file, (arguments.file,))
    numbers = (
        NUMBERS[: arguments.cases] if arguments.case is None else range(arguments.case, arguments.case + 1)
    )
    outcome = batches.run_files(
        seed, kinds, numbers, seconds=arguments.seconds, samples=root / "samples", root=root
    )
    print(f"{'KIND':<12}{'CASES':>10}{'ACCEPTED':>10}{'MESSAGES':>10}{'PEAK MiB':>10}{'SECONDS':>10}")
    for kind, tally in outcome.tallies.items():
        figures = (tally.cases, tally.accepted, len(tally.refusals), tally.peak >> 20, round(tally.seconds))
        print(f"{kind:<12}{''.join(f'{figure:>10,}' for figure in figures)}")
    if arguments.messages:
        for kind, tally in outcome.tallies.items():
            for message, count in tally.refusals.most_common():
                print(f"{kind:<12}{count:>10,}  {message}")
    total = sum(tally.cases for tally in outcome.tallies.values())
    print(f"{total} cases, {len(outcome.failures)} failures, seed {seed}")
    return [batches.describe(seed, failure) for failure in outcome.failures]


def run_guided(arguments: argparse.Namespace, root: Path) -> int:
    """Let coverage lead the way, in a process of its own; return its exit status."""
    (root / "samples").mkdir()
    make_samples(root / "samples")
    command = [sys.executable, "-m", "fuzzing.guided", arguments.guided, str(root), str(arguments.seconds)]
    path = os.pathsep.join(filter(None, (str(TOOLS), os.environ.get("PYTHONPATH"))))
    return subprocess.run([*command, *arguments.inputs], env={**os.environ, "PYTHONPATH": path}).returncode


def main() -> int:
    """Fuzz for a while; return 1 if anything failed."""
    arguments = _parse()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    root = Path(tempfile.mkdtemp(prefix="revirt-fuzz-"))
    print(f"seed {seed}", flush=True)
    if arguments.guided is not None:
        status = run_guided(arguments, root)
        if status == 0:
            shutil.rmtree(root)
        return status
    if arguments.file is not None or arguments.devices:
        failures = run_files(arguments, seed, root)
    elif arguments.case is not None:
        failures = run_one(seed, arguments.case, arguments.only, root)
    else:
        failures = run(
            seed,
            itertools.count(),
            only=arguments.only,
            jobs=arguments.jobs,
            seconds=arguments.seconds,
            root=root,
        )
    if not failures and (arguments.case is None or arguments.file is not None or arguments.devices):
        shutil.rmtree(root)
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Feed revirt damaged recordings and guests of random code.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--case", type=int, help="run this case alone, and keep its files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    parser.add_argument("--only", choices=sorted(cases.ACTS), help="cases of this kind only")
    parser.add_argument("--devices", action="store_true", help="cases of devices, in one process")
    parser.add_argument("--file", choices=("all", *KINDS), help="cases of files of this kind, in one process")
    parser.add_argument(
        "--cases",
        type=int,
        default=NUMBERS.stop,
        help="with --file or --devices: at most so many of each kind",
    )
    parser.add_argument(
        "--messages", action="store_true", help="with --file or --devices: count what files were refused with"
    )
    parser.add_argument("--guided", choices=KINDS_GUIDED, help="files of this kind, guided by coverage")
    parser.add_argument("inputs", nargs="*", help="with --guided: files that failed, to be run again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
