"""How tools run that try many things in a directory of their own, and print what failed."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from revirt.errors import RevirtError


def run(parser: argparse.ArgumentParser, name: str, arguments: Sequence[str] | None) -> int:
    """Run what the command line of the tool *name* asks for; return 1 if anything failed.

    *parser* sets ``run``, which takes the options and a directory and returns the failures; ``directory``, where files
    go, None for a temporary directory that is deleted if nothing fails; and ``alone`` if one case is to be done alone,
    whose files are kept.
    """
    options = parser.parse_args(arguments)
    root = options.directory or Path(tempfile.mkdtemp(prefix=f"revirt-{name}-"))
    root.mkdir(parents=True, exist_ok=True)
    try:
        failures = options.run(options, root)
    except RevirtError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    for failure in failures:
        print(failure)
    if options.alone is not None:
        print(f"files: {root}")
    elif not failures and options.directory is None:
        shutil.rmtree(root)
    return 1 if failures else 0
