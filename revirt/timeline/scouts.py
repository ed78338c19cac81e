"""Other processes that search pieces of a recording while this one searches the piece that is asked for first.

Each is a replay of its own (``revirt.timeline.worker``), started when there is much to search, and kept for the next
time.  A piece that one of them cannot search, for whatever reason, is searched here, where errors are for the caller.

Rules:
- One order, one answer.  To cancel is to hurry: the answer comes all the same, and is dropped.
- They end when their standard input does.
"""

from __future__ import annotations

import pickle
import selectors
import subprocess
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from revirt.replay.children import start_child
from revirt.timeline.watch import Hit, Watch

Piece = tuple[int, int]
"""Lines from a branch to before another."""
Order = tuple[Watch, int, int] | None
"""What to search; None: no more need for the last answer."""
CANCELLED: Final = "cancelled"
Answer = Hit | str | None
"""The last hit, None if there is none, or `CANCELLED`."""

_PATIENCE_S = 0.05
"""How long to wait for news before looking whether somebody wants the search to end."""


@dataclass(slots=True)
class _Scout:
    """A process; ``piece`` is the number of what it searches, None if nothing, or nothing that is wanted any more."""

    process: subprocess.Popen[bytes]
    is_busy: bool = False
    piece: int | None = None


@dataclass(slots=True)
class _Hunt:
    """A search in progress: what of *pieces* is done, and what is not taken yet."""

    pieces: Sequence[Piece]
    done: dict[int, Hit | None] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    decided: int = 0

    def next(self) -> int | None:
        """Take the first piece that nobody has."""
        return self.waiting.pop(0) if self.waiting else None

    def give_back(self, piece: int | None) -> None:
        """Let somebody else take *piece*, whose searcher failed."""
        if piece is not None:
            self.waiting = sorted([*self.waiting, piece])

    def is_decided(self) -> bool:
        """Return whether there is a hit with nothing open before it, or nothing at all; ``decided`` is which."""
        while self.done.get(self.decided, CANCELLED) is None:
            self.decided += 1
        return self.decided in self.done or self.decided == len(self.pieces)

    @property
    def hit(self) -> Hit | None:
        """The hit, once it is decided."""
        return self.done.get(self.decided)


class Scouts:
    """Up to *count* processes that search the recording at *path*."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._scouts: list[_Scout] = []
        self._selector = selectors.DefaultSelector()
        self._finalizer = weakref.finalize(self, _end, self._scouts, self._selector)

    def __bool__(self) -> bool:
        return self._count > 0

    def search(
        self,
        watch: Watch,
        pieces: Sequence[Piece],
        search: Callable[[Watch, int, int], Hit | None],
        look_up: Callable[[], None],
    ) -> Hit | None:
        """Return the hit of the first of *pieces* that has one; *search* searches one here.

        *look_up* is called now and then while there is nothing to do but wait.
        """
        self._start(min(self._count, len(pieces) - 1))
        hunt = _Hunt(pieces, waiting=list(range(len(pieces))))
        try:
            while True:
                self._hear(hunt, 0)
                if hunt.is_decided():
                    return hunt.hit
                mine = hunt.next()
                self._send_out(watch, hunt)
                if mine is not None:
                    hunt.done[mine] = search(watch, *pieces[mine])
                else:
                    self._hear(hunt, _PATIENCE_S)
                    look_up()
        finally:
            self._call_back()

    def _start(self, count: int) -> None:
        while len(self._scouts) < count:
            process = start_child("revirt.timeline.worker", stderr=subprocess.DEVNULL)
            scout = _Scout(process)
            self._scouts.append(scout)
            assert process.stdout is not None
            self._selector.register(process.stdout, selectors.EVENT_READ, scout)
            self._tell(scout, self._path)

    def _send_out(self, watch: Watch, hunt: _Hunt) -> None:
        """Give those that have nothing to do the next pieces."""
        for scout in [each for each in self._scouts if not each.is_busy]:
            piece = hunt.next()
            if piece is None:
                return
            scout.is_busy, scout.piece = True, piece
            if not self._tell(scout, (watch, *hunt.pieces[piece])):
                hunt.give_back(piece)

    def _hear(self, hunt: _Hunt, seconds: float) -> None:
        """Take the answers that are there, waiting up to so many *seconds* for the first."""
        for key, _ in self._selector.select(seconds):
            scout: _Scout = key.data
            try:
                answer: Answer = pickle.load(scout.process.stdout)  # type: ignore[arg-type]
            except (EOFError, OSError, pickle.UnpicklingError):
                hunt.give_back(scout.piece)
                self._drop(scout)
                continue
            piece, scout.piece, scout.is_busy = scout.piece, None, False
            if isinstance(answer, str):
                hunt.give_back(piece)
            elif piece is not None:
                hunt.done[piece] = answer

    def _call_back(self) -> None:
        """Want no answers any more."""
        for scout in [each for each in self._scouts if each.piece is not None]:
            scout.piece = None
            self._tell(scout, None)

    def _tell(self, scout: _Scout, order: object) -> bool:
        try:
            pickle.dump(order, scout.process.stdin)  # type: ignore[arg-type]
            scout.process.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            self._drop(scout)
            return False
        return True

    def _drop(self, scout: _Scout) -> None:
        """Do without *scout*, and without another in its place."""
        self._count = min(self._count, len(self._scouts) - 1)
        self._scouts.remove(scout)
        self._selector.unregister(scout.process.stdout)  # type: ignore[arg-type]
        _end_one(scout)


def _end(scouts: list[_Scout], selector: selectors.BaseSelector) -> None:
    selector.close()
    for scout in scouts:
        _end_one(scout)


def _end_one(scout: _Scout) -> None:
    process = scout.process
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    process.wait()
