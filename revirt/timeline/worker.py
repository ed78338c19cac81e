"""A process that searches pieces of a recording, ``python -m revirt.timeline.worker``: one of `revirt.timeline.scouts`.

It is told on its standard input which recording, and then what to search; on its standard output it tells what it
found.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from revirt.index import Index
from revirt.recording import Recording
from revirt.replay.session import ReplaySession
from revirt.timeline.conditions import When
from revirt.timeline.events import Events
from revirt.timeline.scouts import CANCELLED, Answer, Order
from revirt.timeline.search import Searcher
from revirt.timeline.walker import InterruptedSearchError, Walker
from revirt.timeline.watch import Watch


class Worker:
    """Searches the recording at *path* as it is told."""

    def __init__(self, path: Path) -> None:
        recording = Recording.open(path)
        session = ReplaySession(recording, events=Events(recording).after)
        info = session.info
        self._walker = Walker(session, Index(recording))
        self._searcher = Searcher(self._walker, info.branches + info.halted, recording.end_branches, _refuse)
        self._orders: queue.SimpleQueue[tuple[Watch, int, int]] = queue.SimpleQueue()

    def listen(self, orders: BinaryIO) -> None:
        """Take what is told, until nobody is there any more; then end the process."""
        try:
            while True:
                order: Order = pickle.load(orders)
                if order is None:
                    self._walker.interrupt()
                else:
                    self._orders.put(order)
        except (EOFError, OSError):
            os._exit(0)

    def answer(self) -> Answer:
        """Wait for an order, and return what it comes to."""
        watch, start, end = self._orders.get()
        try:
            with self._searcher.searching():
                return self._searcher.last_hit_in(watch, start, end)
        except InterruptedSearchError:
            return CANCELLED


def _refuse(_: When) -> bool:
    raise AssertionError("predicates stay where they are")


def main(orders: BinaryIO, news: BinaryIO) -> None:
    """Do what *orders* say, and tell it to *news*."""
    worker = Worker(pickle.load(orders))
    threading.Thread(target=worker.listen, args=(orders,), daemon=True).start()
    while True:
        pickle.dump(worker.answer(), news)
        news.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
