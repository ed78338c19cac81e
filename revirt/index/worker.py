"""A process that makes the index of one stretch: ``python -m revirt.index.worker``, as `revirt.index.building` does.

It is told on its standard input what to make.  On its standard output it tells how far it is, then None, or what went
wrong.
"""

from __future__ import annotations

import pickle
import sys
from typing import BinaryIO

from revirt.errors import RevirtError
from revirt.index.building import Failure, make_stretch
from revirt.recording import Recording


def main(orders: BinaryIO, news: BinaryIO) -> None:
    """Do what *orders* say, and tell it to *news*."""

    def tell(what: object) -> None:
        pickle.dump(what, news)
        news.flush()

    path, stretch, spacing = pickle.load(orders)
    try:
        make_stretch(Recording.open(path), stretch, spacing, lambda *done: tell(done))
    except RevirtError as error:
        tell(Failure.of(error))
    else:
        tell(None)


if __name__ == "__main__":
    try:
        main(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        # Nobody waits for it any more.
        sys.exit(1)
