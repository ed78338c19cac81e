"""Where guests that are built, not bundled, are kept.

``$REVIRT_CACHE``, or revirt's place in the user's cache:

guests/NAME/          a built guest: its files, and build.json with what they were made from and their digests
guests/NAME+KEY/      the same with extra files in its initrd; KEY is a digest of what was added to what
apt/ARCHITECTURE/     a private package index of the host's Debian sources
lock                  held while something is built
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

KERNEL_FILE = "vmlinuz"
INITRD_FILE = "initrd"
FIRMWARE_FILE = "bios.bin"
BUILD_FILE = "build.json"

_RECORD_LIMIT = 64 << 10


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


def is_complete_build(directory: Path, names: Iterable[str]) -> bool:
    """Return whether *directory* holds a built guest with the files *names*."""
    recorded = recorded_digests(directory)
    return all(name in recorded and (directory / name).is_file() for name in names)


def recorded_digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 digests in a build's record, by file name; empty if there is no usable one."""
    try:
        with (directory / BUILD_FILE).open("rb") as file:
            files = json.loads(file.read(_RECORD_LIMIT))["files"]
        return {os.path.basename(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
