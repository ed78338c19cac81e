"""Pages by id, in chunks, in a file for each checkpoint; and which of them are still needed.

Rules:
- Ids count up and are never used again; a page keeps its id and its file for as long as it is there.
- A page is needed while it is in the map of a checkpoint that is kept.  Checkpoints go oldest first, so it is enough
  to know, of a page that memory does not hold any more, the first checkpoint that was without it.
- A file from which pages went is written anew beside itself and renamed: readers that have the old one open go on
  reading that.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import lz4.block

from revirt.checkpoint.format import (
    CHUNK_ENTRY,
    CHUNK_PAGES,
    PAGE_SIZE,
    PAGES_FRAME,
    pages_name,
    to_bytes,
)
from revirt.checkpoint.pages import PageFile, encode_bitmap
from revirt.log.frame import check_of, compress_fast, write_all

_CACHED_CHUNKS = 16
_WORTH_REWRITING = 4
"""A file is written anew when one in so many of its pages is not needed."""


class PageStore:
    """The files of pages in *directory*; *evicts* says whether `evict` will be called, which takes bookkeeping.

    Ids count up from *next_id* on.  Everything raises OSError if the host's file system does.
    """

    def __init__(self, directory: Path, *, evicts: bool, next_id: int = 1) -> None:
        self.evicts = evicts
        self.size = 0
        """Bytes on disk, but for the file that is being written."""
        self._directory = directory
        self._next_id = next_id
        self._files: list[_Stored] = []
        self._new: _NewFile | None = None
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def begin(self, number: int) -> None:
        """Start the file for checkpoint *number*."""
        self._new = _NewFile(self._directory / (pages_name(number) + ".tmp"))
        self._files.append(_Stored(number, self._next_id, self._new.offsets))

    def add(self, page: memoryview, page_hash: int) -> int:
        """Store *page*; return its id."""
        assert self._new is not None
        self._new.add(page, page_hash)
        if self.evicts:
            self._files[-1].uses.append(0)
            self._files[-1].unused_since.append(0)
        self._files[-1].count += 1
        self._next_id += 1
        return self._next_id - 1

    def holds(self, page_id: int, page: bytes) -> bool:
        """Return whether what is stored as *page_id* equals *page*; false if it went."""
        file = self._file_of(page_id)
        place = file.place(page_id) if file is not None else None
        if file is None or place is None:
            return False
        chunk, inside = divmod(place, CHUNK_PAGES)
        if self._new is not None and file is self._files[-1] and chunk == len(self._new.index):
            return bytes(self._new.chunk[inside]) == page
        stored = self._chunk(file, chunk)
        return stored[inside * PAGE_SIZE : (inside + 1) * PAGE_SIZE] == page

    def use(self, page_id: int) -> None:
        """Note that one more page of memory is *page_id*."""
        file = self._file_of(page_id)
        if file is not None:
            file.uses[page_id - file.first] += 1

    def release(self, page_id: int) -> None:
        """Note that one page of memory is not *page_id* any more, from the checkpoint on that was begun."""
        file = self._file_of(page_id)
        if file is not None:
            file.uses[page_id - file.first] -= 1
            file.unused_since[page_id - file.first] = self._files[-1].number

    def commit(self) -> tuple[int, int]:
        """Finish the file; return the id of its first page and how many it has."""
        assert self._new is not None
        file = self._files[-1]
        count = file.count
        path = self._directory / pages_name(file.number)
        file.size = self._new.finish(path, (file.number, file.first, count), range(count), count)
        self.size += file.size
        self._new = None
        return file.first, count

    def abandon(self) -> None:
        """Close and delete the file that was begun, if any."""
        if self._new is not None:
            self._new.abandon()
            self._new = None

    @property
    def largest(self) -> int:
        """Bytes of the largest file: what `evict` may need for a moment, to write one anew beside the old."""
        return max((file.size for file in self._files), default=0)

    @property
    def pending(self) -> int:
        """Bytes of the file that is being written, so far."""
        return self._new.offsets[-1] if self._new is not None else 0

    def evict(self, oldest: int, *, all_of_it: bool = False) -> None:
        """Drop pages that no checkpoint from number *oldest* on has, wherever it is worth it, or *all_of_it*."""
        finished = self._files[:-1] if self._new is not None else list(self._files)
        for file in finished:
            needed = [
                place
                for place, (uses, since) in enumerate(zip(file.uses, file.unused_since, strict=True))
                if uses or since > oldest
            ]
            there = file.count if file.there is None else len(file.there)
            if not needed and file.number < oldest:
                (self._directory / pages_name(file.number)).unlink(missing_ok=True)
                self.size -= file.size
                self._files.remove(file)
            elif there > len(needed) and (all_of_it or (there - len(needed)) * _WORTH_REWRITING >= there):
                self._rewrite(file, needed)

    def _rewrite(self, file: _Stored, needed: list[int]) -> None:
        path = self._directory / pages_name(file.number)
        size, offsets = copy_pages(PageFile.open(path), [file.first + each for each in needed], path)
        self.size += size - file.size
        file.size, file.offsets = size, offsets
        file.there = array("I", needed)
        for key in [key for key in self._cache if key[0] == file.number]:
            del self._cache[key]

    def _file_of(self, page_id: int) -> _Stored | None:
        position = bisect_right(self._files, page_id, key=lambda file: file.first) - 1
        if position < 0 or page_id >= self._files[position].first + self._files[position].count:
            return None
        return self._files[position]

    def _chunk(self, file: _Stored, chunk: int) -> bytes:
        """Return chunk number *chunk* of *file*, unpacked."""
        raw = self._cache.get((file.number, chunk))
        if raw is None:
            start, end = file.offsets[chunk : chunk + 2]
            if self._new is not None and file is self._files[-1]:
                stored = self._new.read(start, end)
            else:
                with open(self._directory / pages_name(file.number), "rb") as source:
                    stored = os.pread(source.fileno(), end - start, start)
            raw = lz4.block.decompress(stored, uncompressed_size=CHUNK_PAGES * PAGE_SIZE)
            self._cache[file.number, chunk] = raw
            if len(self._cache) > _CACHED_CHUNKS:
                self._cache.popitem(last=False)
        return raw


def copy_pages(source: PageFile, ids: Sequence[int], path: Path) -> tuple[int, array[int]]:
    """Write the file of pages *path*: that of *source* with no more than the pages *ids* (ascending) in it.

    It takes the place of what is at *path*, also of *source* itself.  Return its size in bytes, and where its chunks
    begin and the last ends.  Raises CorruptError if *source* is damaged or does not have them, and OSError.
    """
    pages = source.range
    hashes = [source.hashes[source.place(page_id)] for page_id in ids]
    new = _NewFile(path.with_name(path.name + ".tmp"))
    try:
        for start, length, contents in source.read(ids):
            for index in range(length):
                page = memoryview(contents)[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
                new.add(page, hashes[start + index])
        there = [page_id - pages.first for page_id in ids]
        size = new.finish(path, (pages.number, pages.first, pages.count), there, pages.count)
    except BaseException:
        new.abandon()
        raise
    return size, new.offsets


@dataclass(slots=True, eq=False)
class _Stored:
    """A file of pages: ``count`` ids from ``first`` on, or of these the ones at ``there``."""

    number: int
    first: int
    offsets: array[int]
    count: int = 0
    size: int = 0
    there: array[int] | None = None
    uses: array[int] = field(default_factory=lambda: array("I"))
    unused_since: array[int] = field(default_factory=lambda: array("I"))

    def place(self, page_id: int) -> int | None:
        """Return the place of *page_id* among the pages that are there."""
        index = page_id - self.first
        if self.there is None:
            return index
        place = bisect_right(self.there, index) - 1
        return place if place >= 0 and self.there[place] == index else None


class _NewFile:
    """A file of pages that is being written, at *temporary*."""

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._file: FileIO = open(temporary, "w+b", buffering=0)  # noqa: SIM115 - closed by finish and abandon
        self._file.seek(PAGES_FRAME.header_size)
        self.offsets = array("Q", [PAGES_FRAME.header_size])
        self.index: list[bytes] = []
        self.chunk: list[memoryview] = []
        self._hashes = array("Q")

    def add(self, page: memoryview, page_hash: int) -> None:
        """Add *page*."""
        self.chunk.append(page)
        self._hashes.append(page_hash)
        if len(self.chunk) == CHUNK_PAGES:
            self._close_chunk()

    def read(self, start: int, end: int) -> bytes:
        """Return what was written from *start* to *end*."""
        return os.pread(self._file.fileno(), end - start, start)

    def finish(self, path: Path, fields: tuple[int, int, int], there: Sequence[int], count: int) -> int:
        """Finish the file, of the pages at *there* of *count*, and rename it to *path*; return its size in bytes."""
        if self.chunk:
            self._close_chunk()
        raw = b"".join(self.index) + to_bytes(self._hashes) + encode_bitmap(there, count)
        header, stored = PAGES_FRAME.encode((*fields, len(self._hashes)), raw, compress_fast)
        with self._file as file:
            write_all(file, stored)
            file.seek(0)
            write_all(file, header)
        os.replace(self._temporary, path)
        return self.offsets[-1] + len(stored)

    def abandon(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _close_chunk(self) -> None:
        stored = compress_fast(b"".join(self.chunk))
        write_all(self._file, stored)
        self.index.append(CHUNK_ENTRY.pack(len(stored), check_of(stored)))
        self.offsets.append(self.offsets[-1] + len(stored))
        self.chunk = []
