"""Names in the directory of a recording."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from revirt.recording import manifest

LOG = "log"
CHECKPOINTS = "checkpoints"
PAGES = "pages"
LOCK = "lock"

ENTRIES = frozenset({manifest.NAME, f"{manifest.NAME}.tmp", LOG, CHECKPOINTS, PAGES, LOCK})
"""Everything that revirt puts there."""


def is_locked(path: Path) -> bool:
    """Return whether a recorder is at work on the recording in *path*."""
    try:
        lock = os.open(path / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # A file system without locks: nobody could hold one.
        return False
    finally:
        os.close(lock)
    return False
