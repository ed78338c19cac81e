"""Archives in the *newc* format of cpio, which Linux unpacks as its initial RAM file system.

    entry:   header (110 bytes: "070701" and 13 fields of 8 hex digits), name and NUL, padding, data, padding
    archive: entries, then one named TRAILER!!!, padded to a multiple of 512

Names and data are padded to multiples of 4 (Linux,
Documentation/driver-api/early-userspace/buffer-format.rst).  Archives may follow one another; a later entry
replaces an earlier one of the same name.  Equal entries give equal bytes: owners, times and inode numbers do
not depend on the host, and device nodes need no privileges.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_ALIGNMENT = 4
_BLOCK_SIZE = 512
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: ``mode`` as in stat(2), type included; ``device`` is (major, minor) of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Entry:
    """Return the directory *name*."""
    return Entry(name, stat.S_IFDIR | 0o755)


def executable(name: str, data: bytes) -> Entry:
    """Return an executable file."""
    return Entry(name, stat.S_IFREG | 0o755, data)


def regular(name: str, data: bytes) -> Entry:
    """Return a file that is not executable."""
    return Entry(name, stat.S_IFREG | 0o644, data)


def symlink(name: str, target: str) -> Entry:
    """Return a symbolic link to *target*."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, permissions: int, major: int, minor: int) -> Entry:
    """Return a character device node."""
    return Entry(name, stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return an archive of *entries*, in their order."""
    out = bytearray()
    for inode, entry in enumerate(entries, start=1):
        _append(out, entry, inode, links=2 if stat.S_ISDIR(entry.mode) else 1)
    _append(out, Entry(_TRAILER, 0), 0, links=1)
    out += bytes(-len(out) % _BLOCK_SIZE)
    return bytes(out)


def _append(out: bytearray, entry: Entry, inode: int, *, links: int) -> None:
    name = entry.name.encode() + b"\0"
    owner = group = mtime = device_major = device_minor = checksum = 0
    fields = (
        *(inode, entry.mode, owner, group, links, mtime, len(entry.data)),
        *(device_major, device_minor, *entry.device, len(name), checksum),
    )
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
    out += bytes(-len(out) % _ALIGNMENT)
    out += entry.data
    out += bytes(-len(out) % _ALIGNMENT)
