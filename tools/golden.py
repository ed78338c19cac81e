#!/usr/bin/env python3
"""Makes the golden recordings of the present format, and checks them.

    python tools/golden.py make [NAME ...]      those of the table that are not there yet, or these
    python tools/golden.py check [NAME ...]     all that are there, or these
    python tools/golden.py list                 those of the table, and which of them are there

What there is to make stands in tools/goldens/table.py; `make` needs gcc that accepts -m32.  A recording that is there
is never made again: `make` refuses a NAME that is.  `check` compares the files with their digests, and what replays
come to, from every checkpoint, to the end and to some positions, with what was noted down.  The exit status is 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from goldens.check import check, check_directory
from goldens.make import make, read_index
from goldens.table import DIRECTORY, TABLE

from revirt.errors import RevirtError, UsageError

ROOT = Path(__file__).resolve().parents[1]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line *words* (default: that of the process) and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("act", choices=sorted(_ACTS))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--directory", type=Path, default=ROOT / DIRECTORY, help=f"where they are (default: {DIRECTORY})"
    )
    arguments = parser.parse_args(words)
    try:
        return _ACTS[arguments.act](arguments.directory, arguments.names)
    except RevirtError as error:
        print(f"golden: {error}\n        {error.hint}", file=sys.stderr)
        return error.exit_status


def _make(directory: Path, names: Sequence[str]) -> int:
    there = read_index(directory)
    for golden in TABLE:
        if golden.name in _known(names, [each.name for each in TABLE]) or (
            not names and golden.name not in there
        ):
            make(directory, golden)
            print(f"made {golden.name}", flush=True)
    return 0


def _check(directory: Path, names: Sequence[str]) -> int:
    problems = [] if names else list(check_directory(directory))
    for name in _known(names, list(read_index(directory))) or read_index(directory):
        found = list(check(directory, name))
        problems += (f"{name}: {problem}" for problem in found)
        print(f"{name}: {'as it was' if not found else 'DIFFERENT'}", flush=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _list(directory: Path, _names: Sequence[str]) -> int:
    there = read_index(directory)
    for golden in TABLE:
        print(f"{golden.name:<16} {'' if golden.name in there else '(not made) '}{golden.what}")
    return 0


def _known(names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in known:
            raise UsageError(f"no golden recording is called {name!r}", hint=f"there are {', '.join(known)}")
    return names


_ACTS: dict[str, Callable[[Path, Sequence[str]], int]] = {"make": _make, "check": _check, "list": _list}


if __name__ == "__main__":
    sys.exit(main())
