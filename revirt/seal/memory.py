"""A guest's memory as a Merkle tree: one hash for all pages, kept up to date from checkpoint to checkpoint.

It has the shape and the hashes of `revirt.seal.merkle`, with a leaf for each page of 4096 bytes, in order.  So the
root depends on what memory holds and on nothing else: not on how pages are stored, nor on which were written when.
For each height there is a row with all hashes, one behind the other::

    height 2            root                    64 bytes per page in all
    height 1      [0,2)      2                  a node without a partner goes up as it is
    height 0     0     1     2

Rules:
- Memory begins as zeros, and whoever makes the tree need not show them.
- Between two roots only pages that changed are hashed, and each node above one of them once.
- A number or a size that is wrong is refused before anything is changed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256

from revirt.seal.merkle import HASH_SIZE, leaf_hash, node_hash

# As elsewhere in revirt.  Importing it from revirt.image would load all of what boots guests.
PAGE_SIZE = 4096
"""Bytes of a page."""
MAX_PAGES = 1 << 20
"""Most pages that a memory may have: 4 GiB."""
_ZERO_PAGE = bytes(PAGE_SIZE)
ZERO_PAGE_HASH = leaf_hash(_ZERO_PAGE)
"""Hash of a page that holds nothing but zeros."""

_LEAF, _NODE = sha256(b"\x00"), b"\x01"
_PAIR = struct.Struct(f"{2 * HASH_SIZE}s")
_HASH = struct.Struct(f"{HASH_SIZE}s")


def page_hash(page: bytes | memoryview) -> bytes:
    """Return the hash of a *page*, as the tree has it; raises ValueError unless that is 4096 bytes."""
    if len(page) != PAGE_SIZE:
        raise ValueError(f"a page of {len(page)} bytes")
    return _hashes_of(memoryview(page))[0]


class MemoryTree:
    """The tree over a memory of *page_count* pages, all zeros at first.

    Raises ValueError unless these are 1 to ``MAX_PAGES``.
    """

    def __init__(self, page_count: int) -> None:
        if not 0 < page_count <= MAX_PAGES:
            raise ValueError(f"a memory of {page_count} pages")
        self._count = page_count
        self._rows = _rows_of_zeros(page_count)
        # Nodes of height 0 that those above do not know of yet.
        self._changed: set[int] = set()

    def update(self, numbers: bytes, contents: bytes | memoryview) -> None:
        """Set pages: their *numbers* (32-bit little-endian, in any order) and *contents* (4096 bytes each).

        Of a number that comes twice the later contents count.  Raises ValueError if sizes do not match or there
        is no such page.
        """
        pages = self._pages(numbers, len(contents), PAGE_SIZE)
        self._set(pages, _hashes_of(memoryview(contents)))

    def update_hashes(self, numbers: bytes, hashes: bytes | memoryview) -> None:
        """Set pages as `update` does, by their *hashes* (see `page_hash`; 32 bytes each)."""
        pages = self._pages(numbers, len(hashes), HASH_SIZE)
        self._set(pages, [each for (each,) in _HASH.iter_unpack(hashes)])

    def root(self) -> bytes:
        """Return the root, 32 bytes."""
        if self._changed:
            nodes: Sequence[int] = sorted(self._changed)
            self._changed.clear()
            for height in range(1, len(self._rows)):
                nodes = _parents(nodes)
                self._renew(height, nodes)
        return bytes(self._rows[-1])

    def path(self, number: int) -> list[bytes]:
        """Return the proof that page *number* is what it is, for `revirt.seal.merkle.verify_inclusion`.

        Raises ValueError if there is no such page.
        """
        if not 0 <= number < self._count:
            raise ValueError(f"page {number} of a memory of {self._count} pages")
        self.root()
        path = []
        for row in self._rows[:-1]:
            sibling = (number ^ 1) * HASH_SIZE
            # There is none for a node that went up as it is.
            if sibling < len(row):
                path.append(bytes(row[sibling : sibling + HASH_SIZE]))
            number >>= 1
        return path

    def _pages(self, numbers: bytes, size: int, each: int) -> tuple[int, ...]:
        """Return the page *numbers*, that come with *size* bytes in all: *each* so many."""
        if len(numbers) % 4 or len(numbers) // 4 * each != size:
            raise ValueError(f"{size} bytes for {len(numbers)} bytes of page numbers")
        pages: tuple[int, ...] = struct.unpack(f"<{len(numbers) // 4}I", numbers)
        if pages and max(pages) >= self._count:
            raise ValueError(f"page {max(pages)} of a memory of {self._count} pages")
        return pages

    def _set(self, pages: Sequence[int], hashes: Sequence[bytes]) -> None:
        leaves = self._rows[0]
        for number, each in zip(pages, hashes, strict=True):
            _HASH.pack_into(leaves, number << 5, each)
        self._changed.update(pages)

    def _renew(self, height: int, nodes: Sequence[int]) -> None:
        """Compute the *nodes* of *height* from the row below."""
        below, row = self._rows[height - 1], self._rows[height]
        if 2 * len(row) > len(below) and nodes[-1] == len(row) // HASH_SIZE - 1:
            row[-HASH_SIZE:] = below[-HASH_SIZE:]
            nodes = nodes[:-1]
        if isinstance(nodes, range):
            start, end = nodes.start, nodes.stop
            pairs = _PAIR.iter_unpack(below[start << 6 : end << 6])
            row[start << 5 : end << 5] = b"".join([sha256(_NODE + pair).digest() for (pair,) in pairs])
            return
        for node in nodes:
            (pair,) = _PAIR.unpack_from(below, node << 6)
            _HASH.pack_into(row, node << 5, sha256(_NODE + pair).digest())


def _parents(nodes: Sequence[int]) -> Sequence[int]:
    """Return the numbers of the nodes above *nodes*, which ascend."""
    first, last = nodes[0] >> 1, nodes[-1] >> 1
    if not isinstance(nodes, range):
        nodes = list(dict.fromkeys([number >> 1 for number in nodes]))
        # A node in a stretch costs two thirds of one picked: from there on all in between are made anew, too.
        if 3 * len(nodes) <= 2 * (last + 1 - first):
            return nodes
    return range(first, last + 1)


def _hashes_of(pages: memoryview) -> list[bytes]:
    """Return the hash of each page in *pages*."""
    hashes = []
    for start in range(0, len(pages), PAGE_SIZE):
        page = pages[start : start + PAGE_SIZE]
        # Looking costs a tenth of hashing, and much of memory is zeros.
        if not page[0] and page.tobytes() == _ZERO_PAGE:
            hashes.append(ZERO_PAGE_HASH)
            continue
        # Not SHA-256 of the two joined: copying the page takes longer than copying the state.
        state = _LEAF.copy()
        state.update(page)
        hashes.append(state.digest())
    return hashes


def _rows_of_zeros(count: int) -> list[bytearray]:
    """Return the rows of a tree of *count* zero pages."""
    # All nodes of a height are alike, but the last has fewer leaves below it unless count is a power of two.
    node = last = ZERO_PAGE_HASH
    rows = []
    while True:
        row = bytearray(node) * count
        row[-HASH_SIZE:] = last
        rows.append(row)
        if count == 1:
            return rows
        if not count & 1:
            last = node_hash(node, last)
        node = node_hash(node, node)
        count = (count + 1) >> 1
