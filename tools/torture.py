#!/usr/bin/env python3
"""Kills recorders, and lets their disks fail: whatever is on the disk then has to be sound.

    python tools/torture.py kill --times 200 [--guest NAME ...] [--seed N]
    python tools/torture.py kill --seed 7 --case 123          one kill again; its files are kept
    python tools/torture.py kill --guest churn race --log-size 1M [--keep TIME] [--sign KEY]
    python tools/torture.py faults [--guest NAME ...] [--fault enospc ...]
    python tools/torture.py faults --guest echo --fault eio --at 17     one call again
    python tools/torture.py disks [--disk read-only ...] [--times N]    as root

*kill* ends `revirt record` with SIGKILL at a random moment, from its first millisecond to the guest's end, host and
virtual clock in turn.  What it left must open, be called interrupted, verify, and replay exactly to its last event,
from its oldest checkpoint and from a random one; the replay must print what the guest was seen to print, but for
what was younger than a second (and what a busy host adds).  Before the first checkpoint there is nothing to replay,
and the commands have to say so.  A copy of it must be repaired without loss.  What is circular (--log-size, --keep)
must besides never take more than it may, and be readable all the while: another process reads it.

*faults* lets each system call below the recordings directory that changes something fail in turn, until a run has
fewer.  The recorder has to end within seconds, with the exit status and the message that docs/cli.md promises, and
what was recorded before has to be as sound as after a kill.

*disks* does the same to real file systems, in mounts that nobody else sees: a small one that fills up, one that becomes
read-only behind an error, one that is gone.  Where it may not mount them it says so, and that is a failure.

Prints a summary, and for every failure how to run it again.  The exit status is 1 if there was any.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from torturing import Options, Trial
from torturing.disks import DISKS, let_disk_fail
from torturing.faults import FAULTS, build_library, let_fail
from torturing.kills import kill
from torturing.subjects import SILENCE, Subject, default_names, make_subject, make_target
from trials import run

from revirt.errors import HostError

FAULTY = ("echo", SILENCE)
"""Guests for *faults*, unless others are asked for."""


def run_kills(arguments: argparse.Namespace, root: Path) -> list[str]:
    """Kill recorders; return the failures, in words."""
    seed = _seed(arguments)
    names = arguments.guest or default_names()
    subjects = [make_subject(name, root) for name in names]
    numbers = range(arguments.times) if arguments.alone is None else [arguments.alone]
    started = time.monotonic()

    options = _options(arguments)

    def attempt(number: int) -> Trial:
        return _tidied(kill(number, seed, subjects, root, options), is_kept=arguments.alone is not None)

    trials: list[Trial] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for trial in pool.map(attempt, numbers):
            trials.append(trial)
            _note(f"{len(trials)} of {len(numbers)}: {trial.name}: {trial.outcome}")
    seconds = time.monotonic() - started
    lost = max((trial.lost_s for trial in trials), default=0.0)
    print(f"{_counted('kills', trials)}; at most {lost:.2f} s lost; {seconds:.0f} s, seed {seed}")
    again = " ".join(
        ["python tools/torture.py kill --seed", str(seed), "--guest", *names, *options.words, "--case "]
    )
    return [
        _described(trial, again + str(n)) for n, trial in zip(numbers, trials, strict=True) if trial.problems
    ]


def run_faults(arguments: argparse.Namespace, root: Path) -> list[str]:
    """Let recorders' disks fail; return the failures, in words."""
    library, options = build_library(root), _options(arguments)
    subjects = [make_target(name, root) for name in arguments.guest or FAULTY]
    failures = []
    for subject in subjects:
        for name in arguments.fault or FAULTS:
            started = time.monotonic()
            places = count(1) if arguments.alone is None else [arguments.alone]

            def attempt(at: int, name: str = name, subject: Subject = subject) -> Trial:
                trial = let_fail(at, name, subject, library, root, options)
                return _tidied(trial, is_kept=arguments.alone is not None)

            trials = list(_fail_everywhere(places, attempt, arguments.jobs))
            seconds = time.monotonic() - started
            slowest = max((trial.ended_s for _, trial in trials), default=0.0)
            counted = _counted(f"calls of {subject.name} with {name}", [trial for _, trial in trials])
            print(f"{counted}; ended within {slowest:.2f} s; {seconds:.0f} s", flush=True)
            words = ["faults --guest", subject.name, "--fault", name, *options.words, "--at "]
            again = " ".join(["python tools/torture.py", *words])
            failures += [_described(trial, again + str(at)) for at, trial in trials if trial.problems]
    return failures


def run_disks(arguments: argparse.Namespace, root: Path) -> list[str]:
    """Let file systems fail below recorders; return the failures, in words."""
    seed, options = _seed(arguments), _options(arguments)
    numbers = range(arguments.times) if arguments.alone is None else [arguments.alone]
    failures = []
    for kind in arguments.disk or DISKS:

        def attempt(number: int, kind: str = kind) -> Trial:
            trial = let_disk_fail(number, seed, kind, root, options)
            _note(f"{trial.name}: {trial.outcome}")
            return _tidied(trial, is_kept=arguments.alone is not None)

        try:
            with ThreadPoolExecutor(arguments.jobs) as pool:
                trials = list(pool.map(attempt, numbers))
        except HostError as error:
            failures.append(f"{kind}: {error}" + (f" ({error.hint})" if error.hint else ""))
            continue
        slowest = max(trial.ended_s for trial in trials)
        print(f"{_counted(f'disks, {kind}', trials)}; ended within {slowest:.2f} s; seed {seed}", flush=True)
        words = ["disks --seed", str(seed), "--disk", kind, *options.words, "--case "]
        again = " ".join(["python tools/torture.py", *words])
        failures += [
            _described(trial, again + str(n))
            for n, trial in zip(numbers, trials, strict=True)
            if trial.problems
        ]
    return failures


def _seed(arguments: argparse.Namespace) -> int:
    return int(arguments.seed) if arguments.seed is not None else random.SystemRandom().getrandbits(32)


def _fail_everywhere(
    places: Iterable[int], attempt: Callable[[int], Trial], jobs: int
) -> Iterator[tuple[int, Trial]]:
    """Yield what came of a fault at each of *places*, up to the first where there was none."""
    waiting = iter(places)
    with ThreadPoolExecutor(jobs) as pool:
        while batch := [at for _, at in zip(range(jobs), waiting, strict=False)]:
            trials = pool.map(attempt, batch)
            for at, trial in zip(batch, list(trials), strict=True):
                if not trial.hit:
                    return
                _note(f"{trial.name}: {trial.outcome}")
                yield at, trial


def _tidied(trial: Trial, *, is_kept: bool) -> Trial:
    """Delete the files of a trial that nobody will want to look at."""
    if trial.files is not None and not trial.problems and not is_kept:
        shutil.rmtree(trial.files)
    return trial


def _options(arguments: argparse.Namespace) -> Options:
    return Options(arguments.log_size, arguments.keep, arguments.sign)


def _counted(what: str, trials: Sequence[Trial]) -> str:
    outcomes = Counter(trial.outcome for trial in trials)
    came = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    if turned := sum(trial.has_turned for trial in trials):
        came += f"; {turned} had let go of their beginning"
    return f"{len(trials)} {what} ({came}), {sum(bool(trial.problems) for trial in trials)} failures"


def _described(trial: Trial, again: str) -> str:
    return "\n".join([trial.name, *trial.problems, f"its files: {trial.files}", f"again: {again}"])


def _note(text: str) -> None:
    print(f"torture: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, _, rest = __doc__.partition("\n")
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="torture.py", description=summary, epilog=rest, formatter_class=plain
    )
    commands = parser.add_subparsers(required=True, metavar="kill|faults|disks")
    kills = commands.add_parser("kill", help="kill recorders at random moments")
    kills.add_argument("--times", type=int, default=200, metavar="N", help="how often (200)")
    kills.add_argument("--seed", type=int, metavar="N", help="default: another one each time")
    kills.add_argument("--case", dest="alone", type=int, metavar="N", help="do this kill alone")
    kills.set_defaults(run=run_kills)
    faults = commands.add_parser("faults", help="let every system call fail in turn")
    faults.add_argument("--fault", nargs="+", choices=FAULTS, help="default: all of them")
    faults.add_argument("--at", dest="alone", type=int, metavar="N", help="let this call fail alone")
    faults.set_defaults(run=run_faults)
    disks = commands.add_parser("disks", help="let file systems fill up, break and become read-only")
    disks.add_argument("--disk", nargs="+", choices=DISKS, help="default: all of them")
    disks.add_argument("--times", type=int, default=6, metavar="N", help="how often each (6)")
    disks.add_argument("--seed", type=int, metavar="N", help="default: another one each time")
    disks.add_argument("--case", dest="alone", type=int, metavar="N", help="do this one alone")
    disks.set_defaults(run=run_disks)
    for each in (kills, faults):
        each.add_argument("--guest", nargs="+", metavar="NAME", help="guests to record")
    for each in (kills, faults, disks):
        each.add_argument(
            "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="recorders at a time"
        )
        each.add_argument("--directory", type=Path, help="where files go (a new temporary directory)")
        each.add_argument(
            "--log-size", metavar="SIZE", help="circular recordings, as 'revirt record' has them"
        )
        each.add_argument("--keep", metavar="TIME", help="likewise")
        each.add_argument(
            "--sign", type=Path, metavar="KEY", help="sealed recordings; KEY.pub has to lie beside KEY"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 if anything failed."""
    return run(_parser(), "torture", arguments)


if __name__ == "__main__":
    sys.exit(main())
