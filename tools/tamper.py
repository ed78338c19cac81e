#!/usr/bin/env python3
"""Tampers with sealed recordings, and makes others with which nothing is wrong: verify has to tell them apart.

    python tools/tamper.py attack --times 1000 [--kind NAME ...] [--seed N]
    python tools/tamper.py attack --seed 7 --case 123         one tampering again; its files are kept
    python tools/tamper.py legal --times 1000 [--seed N]
    python tools/tamper.py legal --seed 7 --case 123

*attack* changes copies of sealed recordings as somebody does who knows the format: checks, hashes, chains and counts
are right again.  Verified with the public key, each has to be called tampered, and a finding has to name a file that
has to do with the change.  What nobody can tell from the recording of a recorder that died must not be called intact,
and what is within reach of who stole the recorder's state is counted apart: docs/sealing.md says what that is.  What
means the same as before is no tampering, and another is done in its place.

*legal* makes recordings that turn, are killed, moved, packed, repaired, and read while they are made: none of them
may be called tampered.

Prints a summary, and for every failure how to run it again.  The exit status is 1 if there was any.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tampering.contents import CONTENTS
from tampering.judge import complaint, verify
from tampering.legal import try_legal
from tampering.meaning import is_same, meaning_of
from tampering.samples import Sample, copy, make_samples
from tampering.seals import SEALS
from tampering.tampering import Change
from tampering.thieves import THIEVES
from trials import run

from revirt.errors import RevirtError

KINDS = {**SEALS, **THIEVES, **CONTENTS}
"""Every kind of tampering, by name."""
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Attack:
    """A tampering that was done: of what kind, to which sample, what it was, and what is wrong about the verdict."""

    kind: str
    sample: str
    change: Change
    problem: str | None


def attack(number: int, seed: int, kinds: Sequence[str], samples: Sequence[Sample], path: Path) -> Attack:
    """Do tampering *number* of *seed* to a copy of a sample at *path*."""
    rng = Random(f"{seed}/{number}")
    kind = kinds[number % len(kinds)]
    for _ in range(_TRIES):
        sample = rng.choice(samples)
        shutil.rmtree(path, ignore_errors=True)
        copy(sample, path)
        change = KINDS[kind](sample, path, rng)
        if change is None or is_same(sample.said, meaning_of(path)):
            continue
        try:
            problem = complaint(change, verify(path, sample.key), path)
        except Exception:
            problem = traceback.format_exc()
        return Attack(kind, sample.name, change, problem)
    raise RevirtError(f"nothing of the kind {kind!r} can be done to any sample")


def run_attack(arguments: argparse.Namespace, root: Path) -> list[str]:
    """Tamper with recordings; return the failures, in words."""
    seed = _seed(arguments)
    kinds = arguments.kind or sorted(KINDS)
    started = time.monotonic()
    samples = make_samples(root / "samples")
    numbers = range(arguments.times) if arguments.alone is None else [arguments.alone]
    done = []
    for number in numbers:
        path = root / f"tampered-{number}"
        done.append(attack(number, seed, kinds, samples, path))
        if done[-1].problem is None and arguments.alone is None:
            shutil.rmtree(path)
    counted = Counter(each.change.due.value for each in done if each.problem is None)
    came = ", ".join(f"{count} {what}" for what, count in sorted(counted.items()))
    missed = sum(each.problem is not None for each in done)
    print(
        f"{len(done)} tamperings of {len(kinds)} kinds: {came}, {missed} missed; {_since(started)}, seed {seed}"
    )
    again = f"python tools/tamper.py attack --seed {seed}"
    again += "".join(f" --kind '{kind}'" for kind in arguments.kind or ())
    return [
        f"{each.kind}, {each.sample}: {each.change.what}\n{each.problem}\nagain: {again} --case {number}"
        for number, each in zip(numbers, done, strict=True)
        if each.problem is not None or arguments.alone is not None
    ]


def run_legal(arguments: argparse.Namespace, root: Path) -> list[str]:
    """Make legal recordings; return the false alarms, in words."""
    seed = _seed(arguments)
    started = time.monotonic()
    numbers = range(arguments.times) if arguments.alone is None else [arguments.alone]
    failures: list[str] = []
    outcomes: Counter[str] = Counter()
    looks = 0
    for number in numbers:
        path = root / f"legal-{number}"
        path.mkdir()
        came = try_legal(Random(f"{seed}/{number}"), path)
        outcomes[came.outcome] += 1
        looks += came.looks
        again = f"again: python tools/tamper.py legal --seed {seed} --case {number}"
        failures += ["\n".join([came.what, *came.problems, again])] if came.problems else []
        if not came.problems and arguments.alone is None:
            shutil.rmtree(path)
    counted = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items()))
    print(
        f"{len(numbers)} legal recordings ({counted}), verified {looks} times, "
        f"{len(failures)} false alarms; {_since(started)}, seed {seed}"
    )
    return failures


def _seed(arguments: argparse.Namespace) -> int:
    return arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s"


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, _, rest = __doc__.partition("\n")
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="tamper.py", description=summary, epilog=rest, formatter_class=plain
    )
    commands = parser.add_subparsers(required=True, metavar="attack|legal")
    attacks = commands.add_parser("attack", help="tamper with sealed recordings")
    attacks.add_argument("--kind", action="append", choices=sorted(KINDS), metavar="NAME", help="only this")
    attacks.set_defaults(run=run_attack)
    legal = commands.add_parser("legal", help="make recordings with which nothing is wrong")
    legal.set_defaults(run=run_legal)
    for each in (attacks, legal):
        each.add_argument("--times", type=int, default=1000, metavar="N", help="how many (1000)")
        each.add_argument("--seed", type=int, metavar="N", help="default: another one each time")
        each.add_argument("--case", dest="alone", type=int, metavar="N", help="do this one alone")
        each.add_argument("--directory", type=Path, help="where files go (a new temporary directory)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 if anything failed."""
    return run(_parser(), "tamper", arguments)


if __name__ == "__main__":
    sys.exit(main())
