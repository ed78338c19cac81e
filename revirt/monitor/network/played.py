"""A capture file, played in: its frames arrive at the guest as far apart as they were captured.

They go by the machine's clock and nothing else, so that by the virtual clock two runs are the same.
"""

from __future__ import annotations

from pathlib import Path

from revirt.monitor.network.backend import LARGEST_FRAME, LEAST_FRAME, TAKE_COUNT, Drops
from revirt.packets import CapturedFrame, CaptureError, CaptureReader

_LATEST_NS = 1 << 61
"""When later frames come: as late as leaves the machine's clock room to go on from there (`MAX_NS`)."""


class PlayedBackend:
    """Plays the capture file at *path*: its first frame when the machine's time is *at_ns*.

    What the guest sends goes nowhere; nor is played what the file says was sent there, so that what `revirt net` wrote
    of a guest is what another guest is sent.  A frame that was captured before the one before it comes with that; one
    that no card takes, for its size, is dropped.  Raises CaptureError if the file cannot be read; what is wrong further
    on ends the playing there, as `fault`.
    """

    def __init__(self, path: Path, at_ns: int = 0) -> None:
        self.drops = Drops()
        self._reader = CaptureReader(path)
        self._frames = iter(self._reader)
        self._at_ns = at_ns
        self._due_ns = at_ns
        self._first_ns: int | None = None
        self._fault: str | None = None
        self._next: bytes | None = None
        try:
            self._next = self._read_next()
        except CaptureError:
            self._reader.close()
            raise

    @property
    def fault(self) -> str | None:
        """What is wrong with the file, if it could not be played to its end."""
        return self._fault

    def frames(self) -> list[bytes]:
        return []

    @property
    def is_open(self) -> bool:
        return self._next is not None

    def due_ns(self) -> int | None:
        return self._due_ns if self._next is not None else None

    def take_due(self, now_ns: int) -> list[bytes]:
        taken: list[bytes] = []
        while self._next is not None and self._due_ns <= now_ns and len(taken) < TAKE_COUNT:
            taken.append(self._next)
            try:
                self._next = self._read_next()
            except CaptureError as error:
                self._next, self._fault = None, str(error)
        return taken

    def send(self, frame: bytes) -> None:
        """Nobody is there."""

    def close(self) -> None:
        self._next = None
        self._reader.close()

    def _read_next(self) -> bytes | None:
        """Return the next frame that a card can take, None behind the last, and note when it is due."""
        for frame in self._frames:
            self._note_time(frame)
            if frame.is_outbound:
                continue
            if LEAST_FRAME <= len(frame.data) <= LARGEST_FRAME:
                return frame.data
            self.drops.inbound += 1
        return None

    def _note_time(self, frame: CapturedFrame) -> None:
        if self._first_ns is None:
            self._first_ns = frame.time_ns
        due_ns = self._at_ns + frame.time_ns - self._first_ns
        self._due_ns = min(_LATEST_NS, max(self._due_ns, due_ns))
