"""Opening recordings to look around in them, also circular ones that are still being made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from revirt.errors import EvictedError
from revirt.recording import Recording

_PATIENCE = 10
"""How often a circular recording is opened again because its recorder let go of something meanwhile."""
T = TypeVar("T")


def opened(path: Path, look: Callable[[Recording], T]) -> T:
    """Return what *look* makes of the recording in *path*, of which the beginning may go just now."""
    for _ in range(_PATIENCE):
        with suppress(EvictedError):
            return look(Recording.open(path))
    return look(Recording.open(path))
