"""Where guests that are built, not bundled, are kept.

``$REVIRT_CACHE``, or revirt's place in the user's cache:

guests/NAME/          a built guest: vmlinuz, initrd, build.json
guests/NAME+KEY/      the same with extra files in its initrd; KEY is a digest of what was added to what
apt/ARCHITECTURE/     a private package index of the host's Debian sources
lock                  held while something is built
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return the root of the cache; it may not exist yet."""
    if chosen := os.environ.get("REVIRT_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "revirt"


def built_directory(name: str) -> Path:
    """Return where the built guest *name* is kept."""
    return cache_directory() / "guests" / name
