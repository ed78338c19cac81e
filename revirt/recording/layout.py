"""Names in the directory of a recording."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from revirt.checkpoint.format import checkpoint_name, number_of, pages_name
from revirt.log import segment
from revirt.recording import manifest

LOG = "log"
CHECKPOINTS = "checkpoints"
PAGES = "pages"
SEAL = "seal"
LOCK = "lock"
DISKS = "disks"
"""What disks held at first, which is no part of it: see `revirt.recording.disks`."""
_PACKED_DISK = re.compile(rf"{DISKS}/([0-7])\.zst", re.ASCII)
INDEX = "index"
"""Derived from the rest, and no part of it: see `revirt.index`."""

ENTRIES = frozenset(
    {manifest.NAME, f"{manifest.NAME}.tmp", LOG, CHECKPOINTS, PAGES, SEAL, LOCK, DISKS, INDEX}
)
"""Everything that revirt puts there."""

ALWAYS = (LOG, CHECKPOINTS, PAGES)
"""Directories that every recording has."""

SEAL_KEY, SEAL_END = "key.pub", "end"
"""In the seal: the public half of the user's key, and how the recording ended."""
_SEAL_NAME = re.compile(r"(\d{8,20})\.(batch|head|leaves)", re.ASCII)


def batch_name(batch: int) -> str:
    """Return the name of the file with the certificate of *batch*."""
    return f"{batch:08}.batch"


def head_name(epoch: int) -> str:
    """Return the name of the file with the head of *epoch*."""
    return f"{epoch:08}.head"


def seal_number(name: str) -> tuple[str, int] | None:
    """Return which kind of file of a seal is called *name* and its number, None if it is no numbered one."""
    match = _SEAL_NAME.fullmatch(name)
    if match is None or match[1] != f"{int(match[1]):08}":
        return None
    return match[2], int(match[1])


def _is_of_seal(name: str) -> bool:
    return name in (SEAL_KEY, SEAL_END) or seal_number(name) is not None


def _is_numbered(name_of: Callable[[int], str], name: str) -> bool:
    number = number_of(Path(name))
    return number is not None and name == name_of(number)


DIRECTORIES: Mapping[str, Callable[[str], bool]] = {
    LOG: lambda name: segment.index_of(Path(name)) is not None,
    CHECKPOINTS: lambda name: _is_numbered(checkpoint_name, name),
    PAGES: lambda name: _is_numbered(pages_name, name),
    SEAL: _is_of_seal,
}
"""The directories in a recording, and which names of files have a meaning there."""


def is_member(name: str) -> bool:
    """Return whether *name* is that of a file with a part of a recording in it, as ``log/00000000.seg``.

    The lock, and what a recorder that died left behind, are none.
    """
    if name == manifest.NAME:
        return True
    directory, _, rest = name.partition("/")
    return directory in DIRECTORIES and DIRECTORIES[directory](rest) and "/" not in rest


def packed_disk_name(number: int) -> str:
    """Return the name in a pack of the image of disk *number*, which is compressed there."""
    return f"{DISKS}/{number}.zst"


def packed_disk(name: str) -> int | None:
    """Return the number of the disk whose image is called *name* in a pack, None if it is no such name."""
    match = _PACKED_DISK.fullmatch(name)
    return int(match[1]) if match is not None else None


def in_order(name: str) -> tuple[bool, str]:
    """Return what to sort the names of members by: the manifest comes first, others go by name."""
    return name != manifest.NAME, name


def is_locked(path: Path) -> bool:
    """Return whether a recorder is at work on the recording in *path*."""
    try:
        lock = os.open(path / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
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
