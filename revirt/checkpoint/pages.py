"""A file of pages, as it is read: an index of what is there, and chunks of 16 pages."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from revirt.checkpoint.format import (
    CHUNK_ENTRY,
    CHUNK_LIMIT,
    CHUNK_PAGES,
    MAX_PAGES,
    PAGE_SIZE,
    PAGES_FRAME,
    HashPages,
    from_bytes,
    number_of,
)
from revirt.errors import CorruptError
from revirt.log.frame import (
    LZ4_RATIO,
    Header,
    check_of,
    decompress,
    list_directory,
    open_file,
    read_exactly,
    read_start,
)


@dataclass(frozen=True, slots=True)
class PageRange:
    """Which ids the file of pages *path* was made for: ``count`` from ``first`` on, of which ``present`` are there."""

    path: Path
    number: int
    first: int
    count: int
    present: int

    @property
    def end(self) -> int:
        """The id behind its last."""
        return self.first + self.count


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of pages, its index checked: pages by their place among those that are there.

    ``there`` are their ids less the first one, ascending (None: all are there), ``hashes`` theirs; ``offsets`` are
    where chunks begin, and where the last ends.
    """

    range: PageRange
    header: bytes
    there: array[int] | None
    hashes: array[int]
    offsets: list[int]
    checks: list[bytes]

    @classmethod
    def open(cls, path: Path) -> PageFile:
        """Read the index of *path*; raises CorruptError."""
        start = PAGES_FRAME.header_size
        with open_file(path) as file:
            header = read_exactly(path, file, 0, start)
            frame, pages = _decode_range(path, header)
            size = os.fstat(file.fileno()).st_size
            index_start = size - frame.stored_size
            if index_start < start:
                raise CorruptError(path, f"cut short: {size} bytes", offset=size)
            stored = read_exactly(path, file, index_start, frame.stored_size)
        chunks_size = index_start - start
        # Else a few bytes could claim any number of hashes, which are kept in memory.
        if pages.present * PAGE_SIZE > chunks_size * LZ4_RATIO:
            problem = f"{chunks_size} bytes of chunks cannot hold {pages.present} pages"
            raise CorruptError(path, problem, offset=start)
        index = PAGES_FRAME.decode_payload(path, frame, stored, offset=index_start)
        hashes_start = -(-pages.present // CHUNK_PAGES) * CHUNK_ENTRY.size
        bitmap_start = hashes_start + pages.present * 8
        if len(index) != bitmap_start + -(-pages.count // 8):
            problem = f"an index of {len(index)} bytes for {pages.present} pages"
            raise CorruptError(path, problem, offset=index_start)
        offsets, checks = [start], []
        for chunk_size, check in CHUNK_ENTRY.iter_unpack(index[:hashes_start]):
            if chunk_size > CHUNK_LIMIT:
                raise CorruptError(path, f"claims a chunk of {chunk_size} bytes", offset=offsets[-1])
            offsets.append(offsets[-1] + chunk_size)
            checks.append(check)
        if offsets[-1] != index_start:
            raise CorruptError(path, f"{chunks_size} bytes of chunks, {offsets[-1] - start} expected")
        hashes = from_bytes("Q", index[hashes_start:bitmap_start])
        return cls(pages, header, _decode_bitmap(pages, index[bitmap_start:]), hashes, offsets, checks)

    @property
    def path(self) -> Path:
        """The file."""
        return self.range.path

    @property
    def ids(self) -> Iterable[int]:
        """The ids of all pages that are there, ascending."""
        first = self.range.first
        return range(first, self.range.end) if self.there is None else [first + each for each in self.there]

    def place(self, page_id: int) -> int:
        """Return the place of *page_id*, which the file was made for; raises CorruptError if it is not there."""
        index = page_id - self.range.first
        if self.there is None:
            return index
        place = bisect_left(self.there, index)
        if place == len(self.there) or self.there[place] != index:
            raise CorruptError(self.path, f"page id {page_id} is missing")
        return place

    def read(self, ids: Sequence[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield the pages with *ids* (ascending) by chunk: index of the first of *ids*, how many, contents."""
        with open_file(self.path) as file:
            if read_exactly(self.path, file, 0, len(self.header)) != self.header:
                # The recorder has put another one in its place, with fewer pages.
                yield from PageFile.open(self.path).read(ids)
                return
            start = 0
            for chunk, members in groupby(map(self.place, ids), lambda place: place // CHUNK_PAGES):
                inside = [place % CHUNK_PAGES for place in members]
                raw = self._unpack(file, chunk)
                if inside != list(range(len(raw) // PAGE_SIZE)):
                    raw = b"".join(raw[place * PAGE_SIZE : (place + 1) * PAGE_SIZE] for place in inside)
                yield start, len(inside), raw
                start += len(inside)

    def verify(self, hash_pages: HashPages) -> None:
        """Check all pages against their hashes, and if another file took the place of this one, those of that.

        Raises CorruptError.
        """
        try:
            self._verify(hash_pages)
        except CorruptError:
            now = PageFile.open(self.path)
            if now.header == self.header:
                raise
            now.verify(hash_pages)

    def _verify(self, hash_pages: HashPages) -> None:
        for start, length, contents in self.read(list(self.ids)):
            if from_bytes("Q", hash_pages(contents)) != self.hashes[start : start + length]:
                offset = self.offsets[start // CHUNK_PAGES]
                raise CorruptError(self.path, "a page does not have the hash in the index", offset=offset)

    def _unpack(self, file: BinaryIO, chunk: int) -> bytes:
        begin, end = self.offsets[chunk], self.offsets[chunk + 1]
        stored = read_exactly(self.path, file, begin, end - begin)
        if check_of(stored) != self.checks[chunk]:
            raise CorruptError(self.path, f"chunk {chunk} does not match its check", offset=begin)
        pages = min(CHUNK_PAGES, len(self.hashes) - chunk * CHUNK_PAGES)
        return decompress(self.path, stored, pages * PAGE_SIZE, offset=begin)


def read_range(path: Path) -> PageRange:
    """Return what the header of the file of pages *path* says; raises CorruptError."""
    return _decode_range(path, read_start(path, PAGES_FRAME.header_size))[1]


def _decode_range(path: Path, data: bytes) -> tuple[Header, PageRange]:
    frame = PAGES_FRAME.decode_header(path, data)
    number, first, count, present = frame.fields
    if number != number_of(path):
        raise CorruptError(path, f"calls itself number {number}", offset=0)
    if not (0 < first <= first + count < 1 << 64 and present <= count <= MAX_PAGES):
        raise CorruptError(path, f"claims {present} of {count} pages from id {first}", offset=0)
    return frame, PageRange(path, number, first, count, present)


def list_pages(directory: Path) -> list[Path]:
    """Return the files of pages in *directory*, by number; raises as `list_directory`."""
    paths = (path for path in list_directory(directory) if path.suffix == ".pages")
    return sorted(
        (path for path in paths if number_of(path) is not None), key=lambda path: number_of(path) or 0
    )


def encode_bitmap(there: Iterable[int], count: int) -> bytes:
    """Return *count* bits, those of the places *there* set; low bits first."""
    bits = bytearray(-(-count // 8))
    for place in there:
        bits[place >> 3] |= 1 << (place & 7)
    return bytes(bits)


def _decode_bitmap(pages: PageRange, bitmap: bytes) -> array[int] | None:
    """Return the places that are set in *bitmap*, None for all of them; raises CorruptError if they are not as many
    as *pages* says.
    """
    bits = int.from_bytes(bitmap, "little")
    if bits >> pages.count or bits.bit_count() != pages.present:
        raise CorruptError(pages.path, f"an index of other pages than the {pages.present} that it claims")
    if pages.present == pages.count:
        return None
    # By bytes: of a header that claims a million pages, few may be there.
    set_bytes = ((start, byte) for start, byte in zip(range(0, pages.count, 8), bitmap, strict=True) if byte)
    return array("I", [start + bit for start, byte in set_bytes for bit in range(8) if byte >> bit & 1])
