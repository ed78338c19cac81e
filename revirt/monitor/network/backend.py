"""What all backends have in common: the protocol, the queue of frames, and the thread that fills it."""

from __future__ import annotations

import os
import select
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

LARGEST_FRAME = 65535 + 14 + 4
"""Most bytes of a frame: a header, a tag, and the largest packet that IPv4 knows."""
LEAST_FRAME = 14
"""Fewest bytes of a frame: its header."""
_WAITING_SIZE = 512 << 10
"""Bytes that may wait for the guest before no more are read.

A slow guest takes so many in part of a second: what waits for longer is sent again, and then there is more of it.
"""
_FRAME_COST = 128
"""Bytes that a frame takes beyond its own."""
TAKE_COUNT = 64


@dataclass(slots=True)
class Drops:
    """Frames that were lost: on the way to the guest for their size, from it for want of room or of a peer."""

    inbound: int = 0
    outbound: int = 0


class Backend(Protocol):
    """The far end of a network card's cable."""

    drops: Drops

    @property
    def fault(self) -> str | None:
        """Why nothing comes and goes any more; None as long as it may."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether more frames may come."""
        ...

    def frames(self) -> list[bytes]:
        """Return some of the frames that wait, the oldest first; none only if none do.  Never blocks."""
        ...

    def due_ns(self) -> int | None:
        """Return the machine's time at which `take_due` has the next frame; None if none is to come by that clock."""
        ...

    def take_due(self, now_ns: int, /) -> list[bytes]:
        """Return some of the frames that are due at the machine's time *now_ns*; until none are left."""
        ...

    def send(self, frame: bytes, /) -> None:
        """Pass on a frame that the guest sends, or drop it.  Never blocks."""
        ...

    def close(self) -> None:
        """Let go of everything on the host; the backend is not used after that."""
        ...


class UnpluggedBackend:
    """No cable: nothing comes, and what is sent is lost."""

    def __init__(self) -> None:
        self.drops = Drops()

    @property
    def fault(self) -> str | None:
        return None

    @property
    def is_open(self) -> bool:
        return False

    def frames(self) -> list[bytes]:
        return []

    def due_ns(self) -> int | None:
        return None

    def take_due(self, _now_ns: int) -> list[bytes]:
        return []

    def send(self, _frame: bytes) -> None:
        """Nobody is there."""

    def close(self) -> None:
        """Nothing to let go of."""


class LiveBackend(ABC):
    """A backend that reads in a thread of its own; from there it calls *wake* when a frame waits or there is a fault.

    *wake* is called when something waits where nothing did: whoever takes only some of it comes back for the rest.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._waiting_size = 0
        self._fault: str | None = None
        self._poke_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_closing = False
        self._is_holding_back = False
        self._thread = threading.Thread(target=self._read, name=type(self).__name__, daemon=True)
        self.drops = Drops()

    @property
    def fault(self) -> str | None:
        return self._fault

    @property
    def is_open(self) -> bool:
        return self._fault is None or self.pending

    @property
    def pending(self) -> bool:
        """Whether `frames` has something to return."""
        return bool(self._waiting)

    def frames(self, most: int = TAKE_COUNT) -> list[bytes]:
        """Return up to *most* of the frames that wait, the oldest first."""
        if not self._waiting:
            return []
        with self._lock:
            taken = list(islice(self._waiting, most))
            for frame in taken:
                self._waiting.popleft()
                self._waiting_size -= len(frame) + _FRAME_COST
            wants_more = self._is_holding_back and self._has_room
        if wants_more:
            self._poke()
        return taken

    def due_ns(self) -> int | None:
        return None

    def take_due(self, _now_ns: int) -> list[bytes]:
        return []

    @abstractmethod
    def send(self, frame: bytes, /) -> None: ...

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._poke()
        if self._thread.ident is not None:
            self._thread.join()
        self._release()
        os.close(self._poke_fd)

    @abstractmethod
    def _serve(self) -> str | None:
        """Read until `_is_closing`, or return why there is nothing more to read; runs in the thread."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of what the backend holds; the thread has ended, or was never started."""

    def _start(self) -> None:
        """Start the thread; what `_serve` needs is there."""
        self._thread.start()

    def _read(self) -> None:
        fault = self._serve()
        if not self._is_closing:
            self._fault = fault
            self._wake()

    def _arrived(self, frames: Iterable[bytes]) -> None:
        """Let *frames* wait for the guest; those that are none are dropped."""
        with self._lock:
            had_none = not self._waiting
            for frame in frames:
                if LEAST_FRAME <= len(frame) <= LARGEST_FRAME:
                    self._waiting.append(frame)
                    self._waiting_size += len(frame) + _FRAME_COST
                else:
                    self.drops.inbound += 1
            wakes = had_none and bool(self._waiting)
        if wakes:
            self._wake()

    @property
    def _has_room(self) -> bool:
        return self._waiting_size < _WAITING_SIZE

    def _input(self) -> int:
        """Return what to poll for where frames come from: nothing as long as enough wait, until somebody pokes."""
        with self._lock:
            self._is_holding_back = not self._has_room
        return 0 if self._is_holding_back else select.POLLIN

    def _poke(self) -> None:
        """Make `_wait` return."""
        os.eventfd_write(self._poke_fd, 1)

    def _wait(self, *wanted: tuple[int, int], timeout_s: float | None = None) -> Sequence[tuple[int, int]]:
        """Block until one of the file descriptors is ready for the events *wanted*, or somebody pokes.

        Returns those that are ready, with their events.
        """
        poll = select.poll()
        poll.register(self._poke_fd, select.POLLIN)
        for fd, events in wanted:
            poll.register(fd, events)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        if any(fd == self._poke_fd for fd, _ in ready):
            os.eventfd_read(self._poke_fd)
        return [each for each in ready if each[0] != self._poke_fd]
