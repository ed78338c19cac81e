#!/usr/bin/env python3
"""Walks through recordings at random, forwards and backwards, and compares every stop with a straight replay.

    python tools/walk.py --times 10000 [--seed N] [--jobs 2]
    python tools/walk.py --seed 7 --case 123                 one walk again; its files are kept
    python tools/walk.py --recording DIR --times 100         through recordings of one's own
    python tools/walk.py --debian --times 300                through Debian, which is built if it has to be
    python tools/walk.py --finds --times 200                 look for all kinds of conditions in a part of each

A walk is some twenty moves on a new `Timeline`: seeks, steps, searches for code, memory and events, marks and ways back
to them.  Wherever a move ends, the digests of CPU, memory and devices, the program counter and the event to come have
to be those of a replay that goes straight ahead from the oldest checkpoint; what is refused must not move anything.
The samples are the golden recordings, and bundled guests that are recorded anew, under the host's clock.

With --finds it looks for conditions of all kinds in a part of a recording, from one end to the other and back: each
search has to end where a straight replay that looks at every line saw what it looks for, with an index and without.

Prints a summary, and for every failure the fewest moves that go wrong, and how to do the walk again.  The exit status
is 1 if there was any.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random

from trials import run
from walking.finds import compare
from walking.moves import Move, Terrain, random_walk, survey
from walking.samples import debian_makers, make_samples, makers
from walking.walks import check, shrink, walk

from revirt.index import build_index
from revirt.recording import Recording

_AT_ONCE = 40
"""Walks that one straight replay tells about."""
_MOVES = 20
_SPACING = 4_000
"""Branches of an interval of the indices that searches have."""


@dataclass(slots=True)
class Outcome:
    """What came of some walks, or searches: how many, how many stops, which moves, and the failures in words."""

    walks: int = 0
    stops: int = 0
    moves: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take in what *other* has."""
        self.walks += other.walks
        self.stops += other.stops
        self.moves += other.moves
        self.failures += other.failures


def moves_of(number: int, seed: int, terrain: Terrain) -> list[Move]:
    """Return the moves of walk *number* of *seed*."""
    return random_walk(Random(f"{seed}/{number}"), terrain, _MOVES)


def run_walks(path: Path, seed: int, numbers: Sequence[int], again: str) -> Outcome:
    """Do the walks *numbers* of *seed* through the recording in *path*."""
    recording = Recording.open(path)
    # The same for all walks of a seed, whichever of them are done.
    terrain = survey(recording, Random(f"{seed}/{path.name}"))
    walks = [walk(recording, moves_of(number, seed, terrain)) for number in numbers]
    outcome = Outcome(len(walks), sum(len(each.stops) for each in walks))
    for number, problem in zip(numbers, check(recording, walks), strict=True):
        moves = moves_of(number, seed, terrain)
        outcome.moves.update(move.name for move in moves)
        if problem is not None:
            fewest = "\n".join(f"    {move}" for move in shrink(recording, moves))
            outcome.failures.append(
                f"{path.name}, walk {number}: {problem}\n{fewest}\nagain: {again} --case {number}"
            )
    return outcome


def run_finds(path: Path, seed: int, numbers: Sequence[int], again: str) -> Outcome:
    """Look for the conditions that *numbers* of *seed* make in the recording in *path*."""
    recording = Recording.open(path)
    terrain = survey(recording, Random(f"{seed}/{path.name}"))
    outcome = Outcome(len(numbers))
    for number in numbers:
        outcome.failures += [
            f"{path.name}, search {number}: {problem}\nagain: {again} --case {number}"
            for problem in compare(recording, terrain, Random(f"{seed}/{number}"))
        ]
    return outcome


def run_all(arguments: argparse.Namespace, root: Path) -> list[str]:
    """Do all walks that are asked for; return the failures, in words."""
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    started = time.monotonic()
    paths = arguments.recording or make_samples(
        debian_makers() if arguments.debian else makers(), root / "samples"
    )
    again = f"python tools/walk.py --seed {seed}{_again(arguments)} --directory {root}"
    if arguments.finds and not arguments.recording:
        for path in paths[::2]:
            build_index(Recording.open(path), jobs=1, spacing=_SPACING)
    total = Outcome()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        tasks = [
            pool.submit(run_finds if arguments.finds else run_walks, path, seed, numbers, again)
            for path, numbers in _share(arguments, paths)
        ]
        for task in as_completed(tasks):
            total.add(task.result())
    moved = ", ".join(f"{count} {name}" for name, count in sorted(total.moves.items()))
    print(
        f"{total.walks} walks through {len(paths)} recordings, {total.stops} stops compared ({moved}), "
        f"{len(total.failures)} failures; {time.monotonic() - started:.0f} s, seed {seed}"
    )
    return total.failures


def _share(arguments: argparse.Namespace, paths: Sequence[Path]) -> Iterator[tuple[Path, Sequence[int]]]:
    """Yield which walks go through which recording, as many as one task does."""
    numbers = range(arguments.times) if arguments.alone is None else [arguments.alone]
    for place, path in enumerate(paths):
        here = [number for number in numbers if number % len(paths) == place]
        for start in range(0, len(here), _AT_ONCE):
            yield path, here[start : start + _AT_ONCE]


def _again(arguments: argparse.Namespace) -> str:
    finds = " --finds" if arguments.finds else ""
    if arguments.recording:
        return finds + "".join(f" --recording {path}" for path in arguments.recording)
    return f"{finds} --debian" if arguments.debian else finds


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, _, rest = __doc__.partition("\n")
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="walk.py", description=summary, epilog=rest, formatter_class=plain)
    parser.add_argument("--times", type=int, default=1000, metavar="N", help="how many walks (1000)")
    parser.add_argument("--seed", type=int, metavar="N", help="default: another one each time")
    parser.add_argument("--case", dest="alone", type=int, metavar="N", help="do this one alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--finds", action="store_true", help="compare searches, not walks")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--recording", action="append", type=Path, metavar="DIR", help="walk through this one")
    which.add_argument("--debian", action="store_true", help="walk through Debian")
    parser.add_argument("--directory", type=Path, help="where files go (a new temporary directory)")
    parser.set_defaults(run=run_all)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 if anything failed."""
    return run(_parser(), "walk", arguments)


if __name__ == "__main__":
    sys.exit(main())
