"""Disk images that are only read, and known by their digests.

Hashing a large image takes seconds, and every process that replays has to know that it is the right one.  So a digest
that was found is noted in the cache, with everything that changes when a file does: device, inode, size, and
times of change to the nanosecond.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from revirt.errors import GuestError, HostError
from revirt.image.cache import cache_directory

SECTOR_SIZE = 512
_CHUNK = 1 << 20
_NOTED = 256
"""How many digests are noted."""

Progress = Callable[[int, int], None]
"""Told how many bytes of how many were hashed."""


class BaseImage:
    """An open disk image of *size* bytes: whole sectors, what the file lacks of the last reads as zeros."""

    def __init__(self, path: Path, fd: int, status: os.stat_result) -> None:
        self.path = path
        self._fd = fd
        self._status = status
        self.size = -(-status.st_size // SECTOR_SIZE) * SECTOR_SIZE

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the image *path*; raises GuestError if there is none that can be read."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise GuestError(f"the disk image {path} cannot be read: {error.strerror}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            os.close(fd)
            raise GuestError(f"{path} is not a disk image: it is not a file with something in it")
        return cls(path, fd, status)

    def close(self) -> None:
        """Close the file; nothing is read after that."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def read(self, offset: int, size: int) -> bytes:
        """Return *size* bytes from *offset*; raises HostError if the host cannot read them."""
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            raise HostError(f"the disk image {self.path} cannot be read: {error.strerror}") from error
        if len(data) < size:
            # Short at the end of the file, and where the host would not give all at once.
            more = data
            while more and len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                data += more
            data += bytes(size - len(data))
        return data

    def is_in_memory(self, offset: int, size: int) -> bool:
        """Return whether the host has all of it in memory, as far as it can tell at once.

        It may lie behind the end, where nothing is, and where no file could have anything.
        """
        buffer = bytearray(self._within(offset, size))
        if not buffer:
            return True
        try:
            return os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except OSError:
            return False

    def fetch(self, offset: int, size: int) -> None:
        """Let the host read *size* bytes from *offset* into its memory; errors show when they are used."""
        if size := self._within(offset, size):
            with suppress(OSError):
                os.pread(self._fd, size, offset)

    def _within(self, offset: int, size: int) -> int:
        """Return how many of *size* bytes from *offset* on are before the end."""
        return max(0, min(size, self._status.st_size - offset))

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is still what it was when it was opened, as far as its times and its size tell."""
        return _mark(os.fstat(self._fd)) == _mark(self._status)

    def digest(self, progress: Progress | None = None) -> str:
        """Return the SHA-256 digest of the file, as hex digits; raises HostError if it changes meanwhile."""
        noted = _Notes()
        mark = _mark(self._status)
        known = noted.find(mark)
        if known is not None and self.is_unchanged:
            return known
        found, done = hashlib.sha256(), 0
        while data := os.pread(self._fd, _CHUNK, done):
            found.update(data)
            done += len(data)
            if progress is not None:
                progress(done, self._status.st_size)
        if not self.is_unchanged:
            raise HostError(f"the disk image {self.path} was changed while it was read")
        noted.add(mark, found.hexdigest())
        return found.hexdigest()


def _mark(status: os.stat_result) -> str:
    """Return what is another when a file was changed."""
    fields = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, fields))


class _Notes:
    """Digests that were found, in the cache; where that cannot be read or written there are none."""

    def __init__(self) -> None:
        self._path = cache_directory() / "digests.json"
        try:
            noted = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            noted = {}
        self._noted: dict[str, str] = noted if isinstance(noted, dict) else {}

    def find(self, mark: str) -> str | None:
        found = self._noted.get(mark)
        return found if isinstance(found, str) and len(found) == 2 * hashlib.sha256().digest_size else None

    def add(self, mark: str, digest: str) -> None:
        kept = list(self._noted.items())[-_NOTED + 1 :]
        temporary = self._path.with_name(f"digests.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({**dict(kept), mark: digest}))
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
