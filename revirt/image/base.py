"""Disk images that are only read, and known by their digests.

Hashing a large image takes seconds, and every process that replays has to know that it is the right one.  So a digest
that was found is noted in the cache, with everything that changes when a file does: the image's device, inode, size,
and times of change to the nanosecond.  One of these times also changes when a file gets or loses a name, as images of
recordings do: whoever does that lets `digests_kept` note the digests anew.

An image can be kept under another name, so that it outlives what happens to the first: see `BaseImage.keep`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Self

from revirt.errors import GuestError, HostError
from revirt.image.cache import cache_directory
from revirt.image.sparse import PIECE, clone, copy_sparse, pieces

SECTOR_SIZE = 512
_NOTED = 256
"""How many digests are noted."""

Progress = Callable[[int, int], None]
"""Told how many bytes of how many were hashed."""


class Kept(StrEnum):
    """How an image is kept under another name.

    A clone shares the image's space until one of them is written to, a hard link is the same file, a symbolic link only
    says where it is, a copy takes space of its own.
    """

    CLONE = "clone"
    HARD_LINK = "hard link"
    SYMBOLIC_LINK = "symbolic link"
    COPY = "copy"


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
        try:
            _check(path, status)
        except GuestError:
            os.close(fd)
            raise
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
        data = b""
        try:
            # Short at the end of the file, and where the host would not give all at once.
            while len(data) < size and (more := os.pread(self._fd, size - len(data), offset + len(data))):
                data = data + more if data else more
        except OSError as error:
            raise HostError(
                f"the disk image {self.path} cannot be read at byte {offset + len(data)}: {error.strerror}"
            ) from error
        return data if len(data) == size else data + bytes(size - len(data))

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
        """Whether the file holds what it did when it was opened, as far as its size and its time of change tell."""
        now, then = os.fstat(self._fd), self._status
        return (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)

    def digest(self, progress: Progress | None = None, *, fresh: bool = False) -> str:
        """Return the SHA-256 digest of the file, as hex digits; what is noted does for that unless *fresh*.

        Raises HostError if the file cannot be read, or changes meanwhile.
        """
        mark = _mark(os.fstat(self._fd))
        known = None if fresh else _Notes().find(mark)
        if known is None or not self.is_unchanged:
            known = self._hash(progress)
            _Notes().add({mark: known})
        return known

    def pieces(self) -> Iterator[bytes | int]:
        """Yield all of the file, as `revirt.image.sparse.pieces` does; raises HostError if it cannot be read."""
        try:
            yield from pieces(self._fd, self._status.st_size)
        except OSError as error:
            raise HostError(f"the disk image {self.path} cannot be read: {error.strerror}") from error

    def keep(self, place: Path, *, is_copied: bool = False) -> Kept:
        """Give the image the new name *place*, where it outlives what happens to its own; return how that was done.

        That is the best that the host can do.  Where it can do no better a symbolic link stands for the image, or with
        *is_copied* a copy.  From a clone, or a copy, it is read from then on.  Raises OSError, leaving nothing at
        *place*.
        """
        with digests_kept([self.path, place]):
            known = _Notes().find(_mark(os.fstat(self._fd)))
            if self._duplicate(place, by=clone):
                how = Kept.CLONE
            elif self._link(place):
                return Kept.HARD_LINK
            elif not is_copied:
                place.symlink_to(os.path.realpath(self.path))
                return Kept.SYMBOLIC_LINK
            else:
                self._duplicate(place, by=self._copy)
                how = Kept.COPY
        if self.is_unchanged:
            self._turn_to(place)
            if known is not None:
                _Notes().add({_mark(self._status): known})
        return how

    def _hash(self, progress: Progress | None) -> str:
        found, done = hashlib.sha256(), 0
        try:
            while data := os.pread(self._fd, PIECE, done):
                found.update(data)
                done += len(data)
                if progress is not None:
                    progress(done, self._status.st_size)
        except OSError as error:
            raise HostError(
                f"the disk image {self.path} cannot be read at byte {done}: {error.strerror}"
            ) from error
        if not self.is_unchanged:
            raise HostError(f"the disk image {self.path} was changed while it was read")
        return found.hexdigest()

    def _duplicate(self, place: Path, *, by: Callable[[int, int], bool]) -> bool:
        """Make the new file *place* of the image *by* that; return whether it can be done."""
        target = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        is_made = False
        try:
            is_made = by(self._fd, target)
        finally:
            os.close(target)
            if not is_made:
                place.unlink()
        return is_made

    def _copy(self, source: int, target: int) -> bool:
        copy_sparse(source, target, self._status.st_size)
        return True

    def _link(self, place: Path) -> bool:
        """Make *place* another name of the file; return whether that can be done."""
        try:
            os.link(os.path.realpath(self.path), place)
        except OSError:
            return False
        if os.path.samestat(os.stat(place), self._status):
            return True
        # Somebody has put another file there since it was opened.
        place.unlink()
        return False

    def _turn_to(self, place: Path) -> None:
        """Read from *place* from now on, which holds the same."""
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        os.close(self._fd)
        self.path, self._fd, self._status = place, fd, os.fstat(fd)


def changed_images(images: Sequence[BaseImage], consequence: str) -> list[str]:
    """Return a sentence for each of the *images*, of disks in order, that was changed since it was opened."""
    return [
        f"the image of disk {number}, {image.path}, was changed meanwhile: {consequence}"
        for number, image in enumerate(images)
        if not image.is_unchanged
    ]


@contextmanager
def digests_kept(paths: Iterable[Path]) -> Iterator[None]:
    """Note the digests that are known of the files *paths* again if these get or lose names while the block runs.

    What cannot be opened, or is a symbolic link to nothing, is passed over.
    """
    with ExitStack() as stack:
        images = []
        for path in paths:
            with suppress(GuestError):
                images.append(BaseImage.open(path))
                stack.callback(images[-1].close)
        before = [(image, _mark(image._status)) for image in images]
        notes = _Notes() if before else None
        known = [(image, mark, notes.find(mark)) for image, mark in before] if notes is not None else []
        yield
        now = {
            _mark(os.fstat(image._fd)): digest
            for image, mark, digest in known
            if digest is not None and image.is_unchanged and os.fstat(image._fd).st_nlink
            if _mark(os.fstat(image._fd)) != mark
        }
        if now:
            _Notes().add(now)


def note_digest(path: Path, digest: str) -> None:
    """Note that the file *path* has the SHA-256 digest *digest*, which whoever made it knows; raises OSError."""
    _Notes().add({_mark(os.stat(path)): digest})


def _check(path: Path, status: os.stat_result) -> None:
    """Raise GuestError if the file *path* is nothing that can be pinned and read as an image."""
    if stat.S_ISBLK(status.st_mode):
        raise GuestError(
            f"{path} is a block device, which may change without a trace",
            hint=f"copy what is on it to a file: dd if={path} of=disk.img bs=1M conv=sparse",
        )
    if not stat.S_ISREG(status.st_mode):
        raise GuestError(f"{path} is not a disk image: it is not a file")
    if not status.st_size:
        raise GuestError(f"{path} is not a disk image: it is empty")


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

    def add(self, digests: dict[str, str]) -> None:
        """Note *digests*, by the marks of their files."""
        kept = list(self._noted.items())[-_NOTED + len(digests) :]
        temporary = self._path.with_name(f"digests.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({**dict(kept), **digests}))
            temporary.replace(self._path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
