"""Loading checkpoints."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path

from revirt.checkpoint.format import (
    CHECKPOINT_FRAME,
    CHUNK_ENTRY,
    CHUNK_LIMIT,
    CHUNK_PAGES,
    PAGE_SIZE,
    PAGES_FRAME,
    ZERO_PAGE,
    CheckpointHeader,
    CheckpointInfo,
    HashPages,
    checkpoint_name,
    core_hash_pages,
    decode_checkpoint_header,
    decode_map,
    from_bytes,
    number_of,
    pages_name,
    to_bytes,
)
from revirt.errors import CorruptError, RecordingError
from revirt.log.frame import (
    LZ4_RATIO,
    check_of,
    decompress,
    list_directory,
    open_file,
    read_exactly,
    read_file,
    read_start,
    stored_limit,
)

# Chunks given at a time by `LoadedCheckpoint.batches`: 4 MiB.
_BATCH_CHUNKS = 64


class CheckpointReader:
    """The checkpoints in the directories *checkpoints* and *pages*, as they were when first asked for."""

    def __init__(self, checkpoints: Path, pages: Path, hash_pages: HashPages = core_hash_pages) -> None:
        self._checkpoints = checkpoints
        self._pages = pages
        self._hash_pages = hash_pages
        self._hashes = array("Q")
        self._hashed_files = 0
        self._page_file = lru_cache(maxsize=64)(self._open_page_file)

    @cached_property
    def headers(self) -> list[CheckpointHeader]:
        """The headers of all checkpoints, by number; raises CorruptError, also if one is missing."""
        headers: list[CheckpointHeader] = []
        next_page = 1
        for path in list_checkpoints(self._checkpoints):
            header = decode_checkpoint_header(path, read_start(path, CHECKPOINT_FRAME.header_size))
            if header.info.number != len(headers):
                raise CorruptError(path, f"checkpoint {len(headers)} is missing before it")
            if header.first_page != next_page:
                raise CorruptError(path, f"its pages begin at id {header.first_page}, not {next_page}")
            if headers and header.info.branches < headers[-1].info.branches:
                raise CorruptError(path, "stands before the checkpoint before it", offset=0)
            next_page += header.page_count
            headers.append(header)
        return headers

    @property
    def infos(self) -> list[CheckpointInfo]:
        """What all checkpoints are, by number."""
        return [header.info for header in self.headers]

    def size(self, number: int) -> int:
        """Return the bytes on disk of checkpoint *number*, its new pages included."""
        files = (self._checkpoints / checkpoint_name(number), self._pages / pages_name(number))
        try:
            return sum(path.stat().st_size for path in files)
        except OSError as error:
            raise CorruptError(Path(error.filename), "missing") from error

    def load(self, number: int) -> LoadedCheckpoint:
        """Return checkpoint *number*, its state and map checked, its pages not read yet.

        Raises RecordingError if there is none of that number, CorruptError if it is damaged.
        """
        if not 0 <= number < len(self.headers):
            raise RecordingError(f"there is no checkpoint {number}; the last is {len(self.headers) - 1}")
        known = self.headers[number]
        path = self._checkpoints / checkpoint_name(number)
        data = read_file(path, CHECKPOINT_FRAME.header_size + stored_limit(CHECKPOINT_FRAME.raw_limit))
        if decode_checkpoint_header(path, data) != known:
            raise CorruptError(path, "changed while it was being read", offset=0)
        _, raw = CHECKPOINT_FRAME.decode(path, data)
        page_map = decode_map(raw[known.state_size :])
        if max(page_map, default=0) >= known.first_page + known.page_count:
            raise CorruptError(path, f"maps page id {max(page_map)}, which is not stored")
        return LoadedCheckpoint(known.info, raw[: known.state_size], page_map, self)

    def pages(self, ids: array[int]) -> Iterator[tuple[range, bytes]]:
        """Yield the contents of *ids* (ascending, none 0) by chunk: which of *ids*, their pages in a row."""
        firsts = [header.first_page for header in self.headers]
        place = 0
        while place < len(ids):
            position = bisect_right(firsts, ids[place]) - 1
            header = self.headers[position]
            file = self._page_file(position)
            end = place
            while end < len(ids) and ids[end] < header.first_page + header.page_count:
                end += 1
            wanted = ids[place:end]
            for start, length, contents in file.read(wanted):
                yield range(place + start, place + start + length), contents
            place = end

    def verify_pages(self, number: int) -> None:
        """Check every page that is new in checkpoint *number*, and its hash; raises CorruptError."""
        self._open_page_file(number).verify(self._hash_pages)

    def page_hashes(self, page_map: array[int], page_count: int) -> bytes:
        """Return the 64-bit hashes, 8 bytes each, of the *page_count* pages of memory that *page_map* describes.

        They are those in the indices of the stored pages; raises CorruptError.  Every index is read once, however
        often this is called.
        """
        stored = self._stored_hashes(max(page_map, default=0))
        hashes = array("Q", map(stored.__getitem__, page_map))
        return to_bytes(hashes + stored[:1] * (page_count - len(page_map)))

    def _stored_hashes(self, last: int) -> array[int]:
        """Return the hashes of stored pages by id, at least up to the id *last*."""
        if not self._hashes:
            self._hashes.extend(from_bytes("Q", self._hash_pages(ZERO_PAGE)))
        while len(self._hashes) <= last:
            self._hashes.extend(self._page_file(self._hashed_files).hashes)
            self._hashed_files += 1
        return self._hashes

    def _open_page_file(self, number: int) -> _PageFile:
        return _PageFile.open(self._pages / pages_name(number), self.headers[number])


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint in memory, but for its pages.

    ``state`` is the machine's; ``page_map`` has for every page number the id of what it held, 0 for zeros.
    """

    info: CheckpointInfo
    state: bytes
    page_map: array[int]
    _reader: CheckpointReader

    @property
    def page_count(self) -> int:
        """How many pages `batches` gives: those that are not all zeros."""
        return len(self.page_map) - self.page_map.count(0)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every page that is not all zeros: (page numbers, 32-bit little-endian, and their contents).

        Pages come in no particular order, some 1,000 at a time.  Raises CorruptError.
        """
        # Sorted by id: every chunk is then unpacked once.
        pairs = sorted((page_id << 32) | number for number, page_id in enumerate(self.page_map) if page_id)
        numbers = array("I", [pair & 0xFFFF_FFFF for pair in pairs])
        ids = array("I", [pair >> 32 for pair in pairs])
        start, parts = 0, []
        for places, contents in self._reader.pages(ids):
            parts.append(contents)
            if len(parts) == _BATCH_CHUNKS:
                yield to_bytes(numbers[start : places.stop]), b"".join(parts)
                start, parts = places.stop, []
        if parts:
            yield to_bytes(numbers[start:]), b"".join(parts)


@dataclass(frozen=True, slots=True)
class _PageFile:
    """A file of pages, its index checked: ``offsets`` are where chunks begin, and where the last ends."""

    path: Path
    first: int
    count: int
    offsets: list[int]
    checks: list[bytes]
    hashes: array[int]

    @classmethod
    def open(cls, path: Path, header: CheckpointHeader) -> _PageFile:
        """Read the index of *path*, which belongs to the checkpoint with *header*; raises CorruptError."""
        count = header.page_count
        start = PAGES_FRAME.header_size
        with open_file(path) as file:
            frame = PAGES_FRAME.decode_header(path, read_exactly(path, file, 0, start))
            if frame.fields != (number_of(path), header.first_page, count):
                raise CorruptError(path, "does not belong to its checkpoint", offset=0)
            size = os.fstat(file.fileno()).st_size
            index_start = size - frame.stored_size
            if index_start < start:
                raise CorruptError(path, f"cut short: {size} bytes", offset=size)
            stored = read_exactly(path, file, index_start, frame.stored_size)
        index = PAGES_FRAME.decode_payload(path, frame, stored, offset=index_start)
        entries_size = -(-count // CHUNK_PAGES) * CHUNK_ENTRY.size
        if len(index) != entries_size + count * 8:
            raise CorruptError(path, f"an index of {len(index)} bytes for {count} pages", offset=index_start)
        offsets, checks = [start], []
        for chunk_size, check in CHUNK_ENTRY.iter_unpack(index[:entries_size]):
            if chunk_size > CHUNK_LIMIT:
                raise CorruptError(path, f"claims a chunk of {chunk_size} bytes", offset=offsets[-1])
            offsets.append(offsets[-1] + chunk_size)
            checks.append(check)
        # Else a few bytes could claim any number of hashes, which are kept in memory.
        if count * PAGE_SIZE > (index_start - start) * LZ4_RATIO:
            raise CorruptError(
                path, f"{index_start - start} bytes of chunks cannot hold {count} pages", offset=start
            )
        if offsets[-1] != index_start:
            raise CorruptError(path, f"{index_start - start} bytes of chunks, {offsets[-1] - start} expected")
        return cls(path, header.first_page, count, offsets, checks, from_bytes("Q", index[entries_size:]))

    def read(self, ids: array[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield the contents of *ids* of this file (ascending) by chunk: first index, how many, pages."""
        start = 0
        with open_file(self.path) as file:
            for chunk, members in groupby(ids, lambda page_id: (page_id - self.first) // CHUNK_PAGES):
                places = [(page_id - self.first) % CHUNK_PAGES for page_id in members]
                begin, end = self.offsets[chunk], self.offsets[chunk + 1]
                raw = self._unpack(chunk, read_exactly(self.path, file, begin, end - begin))
                if places != list(range(len(raw) // PAGE_SIZE)):
                    raw = b"".join(raw[place * PAGE_SIZE : (place + 1) * PAGE_SIZE] for place in places)
                yield start, len(places), raw
                start += len(places)

    def verify(self, hash_pages: HashPages) -> None:
        """Check all pages against their hashes; raises CorruptError."""
        ids = array("I", range(self.first, self.first + self.count))
        for start, length, contents in self.read(ids):
            if from_bytes("Q", hash_pages(contents)) != self.hashes[start : start + length]:
                offset = self.offsets[start // CHUNK_PAGES]
                raise CorruptError(self.path, "a page does not have the hash in the index", offset=offset)

    def _unpack(self, chunk: int, stored: bytes) -> bytes:
        offset = self.offsets[chunk]
        if check_of(stored) != self.checks[chunk]:
            raise CorruptError(self.path, f"chunk {chunk} does not match its check", offset=offset)
        pages = min(CHUNK_PAGES, self.count - chunk * CHUNK_PAGES)
        return decompress(self.path, stored, pages * PAGE_SIZE, offset=offset)


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoint files in *directory*, in order; raises as `list_directory`."""
    paths = (path for path in list_directory(directory) if path.suffix == ".ckpt")
    return [path for path in paths if number_of(path) is not None]
