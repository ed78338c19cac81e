"""Waiting for what threads and other programs do: until it is so, and not for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from revirt.monitor.network import Backend

PATIENCE_S = 30.0
T = TypeVar("T")


def until(look: Callable[[], T], what: str = "what was waited for") -> T:
    """Return what *look* returns as soon as that is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.001)
    return found


class Wakes:
    """A function to be woken by."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> None:
        self._event.set()

    def wait(self) -> None:
        """Block until it is called, or was since the last wait."""
        assert self._event.wait(PATIENCE_S), "nobody woke the monitor"
        self._event.clear()


def take(backend: Backend, count: int) -> list[bytes]:
    """Return the next *count* frames of *backend*, and whatever comes with them."""
    frames: list[bytes] = []
    until(lambda: frames.extend(backend.frames()) or len(frames) >= count, f"{count} frames")
    return frames
