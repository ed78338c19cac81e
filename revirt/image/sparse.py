"""Files with holes: large ones of which little is anything but zeros.

Rules:
- What is all zeros, in whole blocks, is not written.  It reads as zeros, and takes no space.
- The size of a file is set at the end: also of one that ends with a hole.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

BLOCK_SIZE = 4096
"""Bytes that are left out together, or not."""
PIECE = 1 << 20
"""Bytes that are read at a time."""

_FICLONE = 0x40049409
"""_IOW(0x94, 9, int), as linux/fs.h has it; not in Python's fcntl before 3.12."""
_ZEROS = bytes(PIECE)


class SparseWriter:
    """Writes a new file *fd* from its beginning, leaving out zeros; every call but the last with whole blocks."""

    def __init__(self, fd: int) -> None:
        self.size = 0
        """Bytes so far."""
        self._fd = fd

    def write(self, data: bytes | memoryview) -> None:
        """Add *data*; raises OSError."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            # As bytes: these are compared a hundred times faster than views.
            self._write_piece(bytes(view[start : start + PIECE]))

    def skip(self, size: int) -> None:
        """Add *size* zeros."""
        self.size += size

    def finish(self) -> None:
        """Give the file its size; raises OSError."""
        os.ftruncate(self._fd, self.size)

    def _write_piece(self, piece: bytes) -> None:
        if piece != (_ZEROS if len(piece) == PIECE else bytes(len(piece))):
            for start, end in _runs(piece):
                _write_at(self._fd, memoryview(piece)[start:end], self.size + start)
        self.size += len(piece)


def pieces(fd: int, size: int) -> Iterator[bytes | int]:
    """Yield the first *size* bytes of the file *fd*, in order: as bytes, or for a hole as how many zeros it has.

    What the file lacks of them is a hole.  Raises OSError.
    """
    done = 0
    while done < size:
        start = _next_data(fd, done, size)
        if start > done:
            yield start - done
            done = start
            continue
        end = _next_hole(fd, done, size)
        while done < end:
            data = os.pread(fd, min(PIECE, end - done), done)
            if not data:
                # Somebody has cut it short meanwhile.
                yield size - done
                return
            yield data
            done += len(data)


def copy_sparse(source: int, target: int, size: int) -> None:
    """Copy the first *size* bytes of the file *source* to the new file *target*; raises OSError."""
    writer = SparseWriter(target)
    for piece in pieces(source, size):
        if isinstance(piece, int):
            writer.skip(piece)
        else:
            writer.write(piece)
    writer.finish()


def clone(source: int, target: int) -> bool:
    """Let the new file *target* share all of the file *source*; return whether the file system can do that."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def allocated_size(status: os.stat_result) -> int:
    """Return how many bytes a file takes on disk."""
    return status.st_blocks * 512


def _runs(piece: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the blocks of *piece* that hold something begin and end, adjoining ones together."""
    zeros = _ZEROS[:BLOCK_SIZE]
    first: int | None = None
    for start in range(0, len(piece), BLOCK_SIZE):
        block = piece[start : start + BLOCK_SIZE]
        is_empty = block == zeros[: len(block)]
        if is_empty and first is not None:
            yield first, start
            first = None
        elif not is_empty and first is None:
            first = start
    if first is not None:
        yield first, len(piece)


def _next_data(fd: int, offset: int, size: int) -> int:
    try:
        return min(size, os.lseek(fd, offset, os.SEEK_DATA))
    except OSError as error:
        # ENXIO: there is none.  Else the file system knows no holes.
        return size if error.errno == errno.ENXIO else offset


def _next_hole(fd: int, offset: int, size: int) -> int:
    try:
        return min(size, os.lseek(fd, offset, os.SEEK_HOLE))
    except OSError:
        return size


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
