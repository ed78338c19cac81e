#!/usr/bin/env python3
"""Records a Debian under live traffic and disk load, and lets every recording be replayed exactly.

    python tools/load.py [--recordings 20] [--megabytes 50] [--jobs 2] [--seed N]
    python tools/load.py --seed 7 --case 3          one recording again; its files are kept

Each guest exchanges data with this host over several TCP connections at once, half of which it makes itself, through
a cable that loses, doubles and reorders frames; is pinged as fast as it answers, for some seconds; and does
random operations on a file: writes, mappings, reads behind the cache, truncations, fsync.  Both ends compare the
SHA-256 of all data; the guest compares what it reads of its file.  Every fourth recorder is killed in the middle, as by
a power cut.

What was recorded has to verify, and to replay exactly, every outgoing frame and every disk write being compared: in a
new process from the beginning to the end, and from every checkpoint as far as the next (--whole: to the
end).

Prints a line for each recording, or JSON; for a failure how to do it again.  The exit status is 1 if there was any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path

from loading import MEGABYTE, Load, Trial
from loading.ends import ENDS
from loading.guest import build_guest
from loading.trial import attempt

from revirt.errors import RevirtError

_SHOWN = ("frames_in", "frames_out", "writes", "checkpoints", "replays")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return 1 if anything failed."""
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    load = Load(**{each.name: getattr(options, each.name) for each in fields(Load)})
    root = options.directory or Path(tempfile.mkdtemp(prefix="revirt-load-"))
    root.mkdir(parents=True, exist_ok=True)
    try:
        trials = _attempt_all(options, seed, load, root)
    except RevirtError as error:
        print(f"load: {error}", file=sys.stderr)
        return error.exit_status
    failed = [trial for trial in trials if trial.problems]
    if options.json:
        plain = [trial.to_plain() for trial in trials]
        json.dump({"seed": seed, "failed": len(failed), "trials": plain}, sys.stdout, indent=2)
        print()
    else:
        print(f"{len(trials)} recordings under load, {len(failed)} failures; seed {seed}")
    if not failed and options.directory is None and options.alone is None:
        shutil.rmtree(root)
    return 1 if failed else 0


def _attempt_all(options: argparse.Namespace, seed: int, load: Load, root: Path) -> list[Trial]:
    guest = build_guest()
    numbers = range(options.recordings) if options.alone is None else [options.alone]
    out = sys.stderr if options.json else sys.stdout
    trials, started = [], time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(attempt, number, seed, load, guest, root, is_whole=options.whole)
            for number in numbers
        ]
        for future in as_completed(futures):
            trial = future.result()
            trials.append(trial)
            print(
                f"{len(trials)} of {len(numbers)}, {time.monotonic() - started:.0f} s: {_line(trial)}",
                file=out,
            )
            if trial.problems:
                print(_failure(trial, seed, load), file=out)
            elif options.directory is None and options.alone is None and trial.files is not None:
                shutil.rmtree(trial.files)
            out.flush()
    return trials


def _line(trial: Trial) -> str:
    verdict = "FAILED" if trial.problems else "exact"
    counts = ", ".join(f"{trial.counts.get(name, 0):,} {name}".replace("_", " ") for name in _SHOWN)
    moved = trial.counts.get("moved", 0) / MEGABYTE
    return f"{trial.name}, {trial.outcome}: {verdict}; {moved:.1f} MB, {counts}; {trial.seconds.get('all', 0):.0f} s"


def _failure(trial: Trial, seed: int, load: Load) -> str:
    words = [f"--{each.name.replace('_', '-')} {getattr(load, each.name)}" for each in fields(Load)]
    number = trial.name.rpartition(" ")[2]
    again = f"again: python tools/load.py --seed {seed} {' '.join(words)} --case {number}"
    return "\n".join([*trial.problems, f"its files: {trial.files}", again])


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="load.py",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recordings", type=int, default=20, metavar="N", help="how many (20)")
    parser.add_argument("--seed", type=int, metavar="N", help="default: another one each time")
    parser.add_argument("--case", dest="alone", type=int, metavar="N", help="make this recording alone")
    parser.add_argument("--whole", action="store_true", help="replay to the end from every checkpoint")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="recorders at a time"
    )
    parser.add_argument("--directory", type=Path, help="where files go, and stay (a new temporary directory)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    helps = {
        "megabytes": "each way",
        "connections": "over so many connections",
        "operations": "on the file",
        "flood_s": "seconds of pings",
        "drop": "of a million frames",
        "duplicate": "of a million frames",
        "reorder": "of a million frames",
    }
    parser.add_argument("--end", choices=ENDS, default=ENDS[0], help="what is at the cable's far end (tap)")
    for each in fields(Load):
        if each.name not in helps:
            continue
        name, kind = each.name, type(each.default)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=each.default,
            metavar="N",
            help=f"{helps[name]} ({each.default:g})",
        )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
