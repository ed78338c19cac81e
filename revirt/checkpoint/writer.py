"""Storing checkpoints: only pages that no earlier one had are packed and written.

Whether a page was stored before is asked of a table of 64-bit hashes, and decided by comparing the bytes: a
guest that makes hashes collide gets a larger recording, not a wrong one.  Comparing is cheaper than a
cryptographic hash of everything: nearly all pages that are given are new, and a stored page that must be
looked at again costs some 25 us for its chunk, which serves its neighbours too, against 3 us of BLAKE2b for
every page.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import lz4.block

from revirt.checkpoint.format import (
    CHECKPOINT_FRAME,
    CHUNK_ENTRY,
    CHUNK_PAGES,
    MAX_PAGES,
    MAX_STATE,
    PAGE_SIZE,
    PAGES_FRAME,
    ZERO_PAGE,
    CheckpointInfo,
    HashPages,
    checkpoint_name,
    core_hash_pages,
    encode_map,
    from_bytes,
    pages_name,
    to_bytes,
)
from revirt.log.frame import check_of, compress_fast, write_all, write_whole

# A bound on memory (some 100 MB), not a rule of the format: past it, equal pages may be stored again.
_KNOWN_LIMIT = 1 << 20
_CACHED_CHUNKS = 16


class CheckpointWriter:
    """Stores checkpoints in *checkpoints* and *pages*, directories that exist and are empty.

    One checkpoint is stored by `begin`, any number of `add_pages`, then `commit` (or `abandon`).
    All of them raise OSError if the host's file system does.
    """

    def __init__(self, checkpoints: Path, pages: Path, hash_pages: HashPages = core_hash_pages) -> None:
        self._checkpoints = checkpoints
        self._hash_pages = hash_pages
        self._store = _PageStore(pages)
        (self._zero_hash,) = from_bytes("Q", hash_pages(ZERO_PAGE))
        self._map = array("I")
        self._known: dict[int, int] = {}
        self._info: CheckpointInfo | None = None
        self._state = b""
        self.count = 0
        """Checkpoints on disk so far."""
        self.size = 0
        """Bytes of checkpoints on disk so far, pages included."""

    def begin(self, info: CheckpointInfo, state: bytes) -> None:
        """Start a checkpoint with the machine state *state*; pages not added are as in the one before.

        Raises ValueError if there is more state than ``MAX_STATE`` bytes.
        """
        if len(state) > MAX_STATE:
            raise ValueError(f"a machine state of {len(state)} bytes is over the limit of {MAX_STATE}")
        if self._info is not None:
            raise ValueError(f"checkpoint {self._info.number} is not finished")
        self._info, self._state = info, state
        self._store.begin(info.number)

    def add_pages(self, numbers: bytes, contents: bytes | memoryview) -> None:
        """Add the pages with these *numbers* (32-bit little-endian) and *contents* (4096 bytes each).

        Raises ValueError if sizes do not match or a number is beyond ``MAX_PAGES``.
        """
        pages = from_bytes("I", numbers)
        if len(contents) != len(pages) * PAGE_SIZE:
            raise ValueError(f"{len(contents)} bytes for {len(pages)} pages")
        if not pages:
            return
        self._grow(max(pages) + 1)
        if len(self._known) > _KNOWN_LIMIT:
            self._known.clear()
        page_map, known, store, zero_hash = self._map, self._known, self._store, self._zero_hash
        view, start = memoryview(contents), 0
        for number, page_hash in zip(pages, from_bytes("Q", self._hash_pages(contents)), strict=True):
            page = view[start : start + PAGE_SIZE]
            start += PAGE_SIZE
            stored = known.get(page_hash)
            if stored is not None and store.holds(stored, bytes(page)):
                page_map[number] = stored
            elif page_hash == zero_hash and bytes(page) == ZERO_PAGE:
                page_map[number] = 0
            else:
                page_map[number] = known[page_hash] = store.add(page, page_hash)

    def commit(self) -> None:
        """Finish the checkpoint: it is on disk when this returns."""
        info = self._info
        assert info is not None
        first, count, size = self._store.commit()
        fields = (
            *(info.number, info.event, info.branches, info.pc, info.halted, info.guest_ns),
            *(len(self._state), len(self._map), first, count),
        )
        raw = self._state + encode_map(self._map)
        parts = CHECKPOINT_FRAME.encode(fields, raw, compress_fast)
        self.size += size + write_whole(self._checkpoints / checkpoint_name(info.number), *parts)
        self.count += 1
        self._info, self._state = None, b""

    def abandon(self) -> None:
        """Forget the checkpoint that was begun, if any; no other can be stored after it."""
        self._store.abandon()

    def _grow(self, length: int) -> None:
        if length > MAX_PAGES:
            raise ValueError(f"page number {length - 1} is not below {MAX_PAGES}")
        if length > len(self._map):
            self._map.extend(bytes(length - len(self._map)))


class _Written(NamedTuple):
    """A file of pages: the id of its first, its number, where its chunks begin and where the last ends."""

    first: int
    number: int
    offsets: array[int]


class _PageStore:
    """Pages by id, in chunks, in a file for each checkpoint."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self._file: FileIO | None = None
        self._next_id = 1
        self._first_id = 1
        self._open_chunk: list[memoryview] = []
        self._index: list[bytes] = []
        self._hashes = array("Q")
        self._end = 0
        self._files: list[_Written] = []
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def begin(self, number: int) -> None:
        """Start the file for checkpoint *number*."""
        self._number = number
        self._first_id = self._next_id
        self._end = PAGES_FRAME.header_size
        self._index, self._hashes = [], array("Q")
        self._file = open(self._temporary, "w+b", buffering=0)  # noqa: SIM115 - closed by commit and abandon
        self._file.seek(self._end)
        self._files.append(_Written(self._first_id, number, array("Q", [self._end])))

    def add(self, page: memoryview, page_hash: int) -> int:
        """Store *page*; return its id."""
        self._open_chunk.append(page)
        self._hashes.append(page_hash)
        self._next_id += 1
        if len(self._open_chunk) == CHUNK_PAGES:
            self._close_chunk()
        return self._next_id - 1

    def holds(self, page_id: int, page: bytes) -> bool:
        """Return whether what is stored as *page_id* equals *page*."""
        position = bisect_right(self._files, page_id, key=lambda file: file.first) - 1
        chunk, place = divmod(page_id - self._files[position].first, CHUNK_PAGES)
        if position == len(self._files) - 1 and chunk == len(self._index):
            return self._open_chunk[place] == page
        stored = self._chunk(position, chunk)
        return stored[place * PAGE_SIZE : (place + 1) * PAGE_SIZE] == page

    def commit(self) -> tuple[int, int, int]:
        """Finish the file; return the id of its first page, how many it has, and its size in bytes."""
        assert self._file is not None
        if self._open_chunk:
            self._close_chunk()
        count = len(self._hashes)
        raw = b"".join(self._index) + to_bytes(self._hashes)
        header, stored = PAGES_FRAME.encode((self._number, self._first_id, count), raw, compress_fast)
        with self._file as file:
            write_all(file, stored)
            file.seek(0)
            write_all(file, header)
        os.replace(self._temporary, self._directory / pages_name(self._number))
        self._file = None
        return self._first_id, count, self._end + len(stored)

    def abandon(self) -> None:
        """Close and delete the file that was begun, if any."""
        if self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            self._file = None

    @property
    def _temporary(self) -> Path:
        return self._directory / (pages_name(self._number) + ".tmp")

    def _close_chunk(self) -> None:
        assert self._file is not None
        stored = compress_fast(b"".join(self._open_chunk))
        write_all(self._file, stored)
        self._index.append(CHUNK_ENTRY.pack(len(stored), check_of(stored)))
        self._end += len(stored)
        self._files[-1].offsets.append(self._end)
        self._open_chunk = []

    def _chunk(self, position: int, chunk: int) -> bytes:
        """Return chunk number *chunk* of the file at *position*, unpacked."""
        raw = self._cache.get((position, chunk))
        if raw is None:
            file = self._files[position]
            start, end = file.offsets[chunk : chunk + 2]
            if position == len(self._files) - 1 and self._file is not None:
                stored = os.pread(self._file.fileno(), end - start, start)
            else:
                with open(self._directory / pages_name(file.number), "rb") as source:
                    stored = os.pread(source.fileno(), end - start, start)
            raw = lz4.block.decompress(stored, uncompressed_size=CHUNK_PAGES * PAGE_SIZE)
            self._cache[position, chunk] = raw
            if len(self._cache) > _CACHED_CHUNKS:
                self._cache.popitem(last=False)
        return raw
