"""Loading checkpoints."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

from revirt.checkpoint.format import (
    CHECKPOINT_FRAME,
    MAX_PAGES,
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
from revirt.checkpoint.pages import PageFile, PageRange, list_pages, read_range
from revirt.errors import CorruptError, RecordingError
from revirt.log.frame import list_directory, read_file, read_start, stored_limit

# Chunks given at a time by `LoadedCheckpoint.batches`: 4 MiB.
_BATCH_CHUNKS = 64


class CheckpointReader:
    """The checkpoints in the directories *checkpoints* and *pages*, as they were when first asked for.

    Those before number *first* were evicted, and are passed over where their files are still there; files of pages
    stay for as long as a later checkpoint needs one of them.
    """

    def __init__(
        self, checkpoints: Path, pages: Path, hash_pages: HashPages = core_hash_pages, *, first: int = 0
    ) -> None:
        self._checkpoints = checkpoints
        self._pages = pages
        self._hash_pages = hash_pages
        self._first = first
        self._page_file = cache(PageFile.open)

    @cached_property
    def headers(self) -> list[CheckpointHeader]:
        """The headers of all checkpoints, by number; raises CorruptError, also if one is missing."""
        headers: list[CheckpointHeader] = []
        for path in list_checkpoints(self._checkpoints):
            if (number_of(path) or 0) < self._first:
                continue
            header = decode_checkpoint_header(path, read_start(path, CHECKPOINT_FRAME.header_size))
            if header.info.number != self._first + len(headers):
                raise CorruptError(path, f"checkpoint {self._first + len(headers)} is missing before it")
            if headers:
                before = headers[-1]
                if header.first_page != before.first_page + before.page_count:
                    raise CorruptError(path, f"its pages do not begin behind those of {before.info.number}")
                if header.info.branches < before.info.branches:
                    raise CorruptError(path, "stands before the checkpoint before it", offset=0)
            elif self._first == 0 and header.first_page != 1:
                raise CorruptError(path, f"its pages begin at id {header.first_page}, not 1")
            headers.append(header)
        return headers

    def settle(self) -> None:
        """Look now for all files that there should be, and not when one is read; raises CorruptError."""
        _ = self._ranges

    @property
    def infos(self) -> list[CheckpointInfo]:
        """What all checkpoints are, by number."""
        return [header.info for header in self.headers]

    def size(self, number: int) -> int:
        """Return the bytes on disk of checkpoint *number*, its new pages included.

        The oldest also counts what is left of the pages of those before it.
        """
        try:
            files = [
                self._checkpoints / checkpoint_name(number),
                *(each.path for each in self._files_of(number)),
            ]
            return sum(path.stat().st_size for path in files)
        except OSError as error:
            raise CorruptError(Path(error.filename), "missing") from error

    @property
    def disk_size(self) -> int:
        """Bytes on disk of all checkpoints, and of all pages that they have."""
        pages = [each.path for each in self._ranges]
        own = [self._checkpoints / checkpoint_name(info.number) for info in self.infos]
        try:
            return sum(path.stat().st_size for path in (*own, *pages))
        except OSError as error:
            raise CorruptError(Path(error.filename), "missing") from error

    def load(self, number: int) -> LoadedCheckpoint:
        """Return checkpoint *number*, its state and map checked, its pages not read yet.

        Raises RecordingError if there is none of that number, CorruptError if it is damaged.
        """
        headers = self.headers
        if not headers or not headers[0].info.number <= number <= headers[-1].info.number:
            last = f"; the last is {headers[-1].info.number}" if headers else ""
            raise RecordingError(f"there is no checkpoint {number}{last}")
        known = headers[number - self._first]
        path = self._checkpoints / checkpoint_name(number)
        data = read_file(path, CHECKPOINT_FRAME.header_size + stored_limit(CHECKPOINT_FRAME.raw_limit))
        if decode_checkpoint_header(path, data) != known:
            raise CorruptError(path, "changed while it was being read", offset=0)
        _, raw = CHECKPOINT_FRAME.decode(path, data)
        page_map = decode_map(raw[known.state_size :])
        if max(page_map, default=0) >= known.first_page + known.page_count:
            raise CorruptError(path, f"maps page id {max(page_map)}, which is not stored")
        return LoadedCheckpoint(
            known.info, raw[: known.state_size], page_map, known.first_page + known.page_count, self
        )

    def pages(self, ids: array[int]) -> Iterator[tuple[range, bytes]]:
        """Yield the contents of *ids* (ascending, none 0) by chunk: which of *ids*, their pages in a row."""
        for file, start, mine in self.locate(ids):
            for first, length, contents in file.read(mine):
                yield range(start + first, start + first + length), contents

    def verify_pages(self, number: int) -> None:
        """Check every page that is new in checkpoint *number*, and its hash; raises CorruptError.

        With the oldest, also what is left of the pages of those before it.
        """
        for each in self._files_of(number):
            try:
                self._page_file(each.path).verify(self._hash_pages)
            except CorruptError:
                if not self._went(each.path):
                    raise

    def page_hashes(self, page_map: array[int], page_count: int) -> bytes:
        """Return the 64-bit hashes, 8 bytes each, of the *page_count* pages of memory that *page_map* describes.

        They are those in the indices of the stored pages; raises CorruptError.
        """
        ids = array("Q", sorted(set(page_map) - {0}))
        (zeros,) = from_bytes("Q", self._hash_pages(ZERO_PAGE))
        hashes = {0: zeros}
        for file, _, mine in self.locate(ids):
            hashes.update((page_id, file.hashes[file.place(page_id)]) for page_id in mine)
        whole = array("Q", map(hashes.__getitem__, page_map))
        return to_bytes(whole + array("Q", [zeros]) * (page_count - len(page_map)))

    def page_file(self, number: int) -> PageFile:
        """Return the file of the pages that were new in checkpoint *number*; raises CorruptError."""
        (found,) = (each for each in self._ranges if each.number == number)
        return self._page_file(found.path)

    def _read_range(self, path: Path) -> PageRange | None:
        """Return what the file of pages *path* was made for, None if it went."""
        try:
            return read_range(path)
        except CorruptError:
            if not self._went(path):
                raise
            return None

    def _went(self, path: Path) -> bool:
        """Return whether *path* is the file of pages of a checkpoint that was evicted, and is not there any more.

        A recorder may delete such a file while others read; pages that a checkpoint needs are missed all the same.
        """
        return (number_of(path) or 0) < self._first and not path.exists()

    def _files_of(self, number: int) -> list[PageRange]:
        return [
            each
            for each in self._ranges
            if each.number == number or (number == self._first and each.number < number)
        ]

    def locate(self, ids: array[int]) -> Iterator[tuple[PageFile, int, array[int]]]:
        """Yield where *ids* (ascending, none 0) are: a file, the index of the first of them that it has, and these.

        Raises CorruptError if one is missing.
        """
        ranges = self._ranges
        firsts = [each.first for each in ranges]
        start = 0
        while start < len(ids):
            position = bisect_right(firsts, ids[start]) - 1
            if position < 0 or ids[start] >= ranges[position].end:
                raise CorruptError(self._pages, f"page id {ids[start]} is missing")
            file = self._page_file(ranges[position].path)
            end = bisect_left(ids, file.range.end, start)
            yield file, start, ids[start:end]
            start = end

    @cached_property
    def _ranges(self) -> list[PageRange]:
        """Which ids are in which file; raises CorruptError, also if a file is missing that belongs to a checkpoint."""
        # First what needs them: a recorder puts pages on disk before their checkpoint.
        headers = self.headers
        ranges = [each for path in list_pages(self._pages) if (each := self._read_range(path)) is not None]
        for before, after in pairwise(ranges):
            if after.first < before.end:
                problem = f"its pages do not begin behind those of {before.path.name}"
                raise CorruptError(after.path, problem, offset=0)
        by_number = {each.number: each for each in ranges}
        for header in headers:
            path = self._pages / pages_name(header.info.number)
            found = by_number.get(header.info.number)
            if found is None:
                raise CorruptError(path, "missing")
            if (found.first, found.count) != (header.first_page, header.page_count):
                raise CorruptError(path, "does not belong to its checkpoint", offset=0)
        return ranges


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint in memory, but for its pages.

    ``state`` is the machine's; ``page_map`` has for every page number the id of what it held, 0 for zeros; all of these
    are below ``next_page``.  ``reader`` reads them.
    """

    info: CheckpointInfo
    state: bytes
    page_map: array[int]
    next_page: int
    reader: CheckpointReader

    @property
    def page_count(self) -> int:
        """How many pages `batches` gives: those that are not all zeros."""
        return len(self.page_map) - self.page_map.count(0)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every page that is not all zeros: (page numbers, 32-bit little-endian, and their contents).

        Pages come in no particular order, some 1,000 at a time.  Raises CorruptError.
        """
        # Sorted by id: every chunk is then unpacked once.
        pairs = sorted((page_id << 20) | number for number, page_id in enumerate(self.page_map) if page_id)
        numbers = array("I", [pair & (MAX_PAGES - 1) for pair in pairs])
        ids = array("Q", [pair >> 20 for pair in pairs])
        start, parts = 0, []
        for places, contents in self.reader.pages(ids):
            parts.append(contents)
            if len(parts) == _BATCH_CHUNKS:
                yield to_bytes(numbers[start : places.stop]), b"".join(parts)
                start, parts = places.stop, []
        if parts:
            yield to_bytes(numbers[start:]), b"".join(parts)


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoint files in *directory*, in order; raises as `list_directory`."""
    paths = (path for path in list_directory(directory) if path.suffix == ".ckpt")
    return sorted(
        (path for path in paths if number_of(path) is not None), key=lambda path: number_of(path) or 0
    )
