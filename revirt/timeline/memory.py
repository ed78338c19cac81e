"""A machine's memory as it was at several moments: each page's contents kept once, and only what differs restored.

A moment's memory is a *map*: for every page an id of its contents.  Ids are those of the recording's stored pages
(0: zeros), and above `OWN` those of pages that were copied from the machine while it stood at a snapshot.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator

from revirt.checkpoint.format import PAGE_SIZE, ZERO_PAGE, from_bytes, to_bytes
from revirt.core import Core

OWN = 1 << 62
"""From here on ids are of pages kept in memory; below they are of pages on disk."""
_UNKNOWN = (1 << 64) - 1
_STRIDE = 512
"""Entries of a map that are compared at once."""
_BATCH = 1024

ReadPages = Callable[["array[int]"], Iterator[tuple[range, bytes]]]
"""Reads stored pages by their ids (ascending), as `revirt.checkpoint.CheckpointReader.pages` does."""


class Memory:
    """The memory of *core*, which stands where *page_map* says, and the maps of other moments.

    *read_pages* reads pages of the recording.  Whoever runs the machine needs do nothing: what changed since is found
    when it is asked for.
    """

    def __init__(self, core: Core, page_map: array[int], read_pages: ReadPages) -> None:
        self._core = core
        self._read_pages = read_pages
        self._own: dict[int, bytes] = {}
        self._next_id = OWN
        self._map = array("Q", page_map)
        self._forget_changes()

    @property
    def size(self) -> int:
        """Bytes of pages kept in memory."""
        return len(self._own) * PAGE_SIZE

    def take(self) -> array[int]:
        """Return the map of memory as it is now; pages that no map had before are copied."""
        numbers = self._changed()
        contents = memoryview(self._core.read_pages(to_bytes(numbers)))
        for index, number in enumerate(numbers):
            self._own[self._next_id] = bytes(contents[index * PAGE_SIZE : (index + 1) * PAGE_SIZE])
            self._map[number] = self._next_id
            self._next_id += 1
        return array("Q", self._map)

    def restore(self, page_map: array[int]) -> None:
        """Make memory what it was when *page_map* was taken; raises CorruptError if a stored page is damaged."""
        for number in self._changed():
            self._map[number] = _UNKNOWN
        differing = list(_differences(self._map, page_map))
        own = [number for number in differing if page_map[number] >= OWN]
        for start in range(0, len(own), _BATCH):
            batch = own[start : start + _BATCH]
            self._write(batch, b"".join([self._own[page_map[number]] for number in batch]))
        zeros = [number for number in differing if page_map[number] == 0]
        for start in range(0, len(zeros), _BATCH):
            batch = zeros[start : start + _BATCH]
            self._write(batch, ZERO_PAGE * len(batch))
        self._restore_stored(
            sorted((page_map[number], number) for number in differing if 0 < page_map[number] < OWN)
        )
        self._map = array("Q", page_map)
        self._forget_changes()

    def keep_only(self, page_maps: Iterable[array[int]]) -> None:
        """Forget pages that are in none of *page_maps*, nor in memory now."""
        needed = set(self._map)
        for page_map in page_maps:
            needed.update(page_map)
        self._own = {page_id: page for page_id, page in self._own.items() if page_id in needed}

    def _restore_stored(self, pairs: list[tuple[int, int]]) -> None:
        ids = array("Q", [page_id for page_id, _ in pairs])
        for places, contents in self._read_pages(ids):
            self._write([pairs[place][1] for place in places], contents)

    def _write(self, numbers: list[int], contents: bytes) -> None:
        self._core.write_pages(to_bytes(array("I", numbers)), contents)

    def _changed(self) -> array[int]:
        self._core.scan()
        return from_bytes("I", self._core.take_changed())

    def _forget_changes(self) -> None:
        self._changed()


def _differences(one: array[int], other: array[int]) -> Iterator[int]:
    """Yield the indices at which the maps differ."""
    left, right = one.tobytes(), other.tobytes()
    stride = _STRIDE * one.itemsize
    for start in range(0, len(left), stride):
        if left[start : start + stride] != right[start : start + stride]:
            first = start // one.itemsize
            end = min(first + _STRIDE, len(one))
            yield from (number for number in range(first, end) if one[number] != other[number])
