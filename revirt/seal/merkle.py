r"""A history tree: a Merkle tree that is only ever appended to, and may forget its oldest leaves.

It is the tree of RFC 6962, section 2.1 (again in RFC 9162, section 2.1), over SHA-256.  Of n leaves, the left
subtree has the largest power of two below n, so a tree of any size contains, as subtrees, all that it was before::

    leaf    SHA-256(0x00, data)
    node    SHA-256(0x01, left, right)
    root    of nothing: SHA-256 of nothing

            root of 7
            /       \
        [0, 4)       .          complete subtrees never change once they are there: each hash is made once,
        /    \      / \         and kept in a row for its height
     [0,2) [2,4) [4,6)  6
      / \   / \   / \
     0   1 2   3 4   5

Rules:
- A root says nothing about its size: whoever signs a root signs the size beside it.
- After `prune(n)` everything about sizes from n on can still be computed, nothing about smaller ones.  What is kept
  of the forgotten leaves are the hashes of the complete subtrees that n leaves consist of, one for each bit of n;
  with these a tree can be resumed somewhere else.
- Proofs come from strangers; the verifiers take any bytes and answer yes or no.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Self

from revirt.errors import SealError

HASH_SIZE = 32
"""Bytes of a hash."""
EMPTY_ROOT = sha256().digest()
"""Root of the tree without leaves."""
MAX_SIZE = 1 << 62
"""Most leaves that a tree is believed to have."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf with the contents *data*."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above *left* and *right*."""
    return sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over the leaf hashes *leaves*: what a `HistoryTree` of them has, in a third of the time."""
    if not leaves:
        return EMPTY_ROOT
    row = list(leaves)
    while len(row) > 1:
        # One without a partner goes up as it is: that gives the shape that the recursive definition has.
        single = row[-1:] if len(row) & 1 else []
        pairs = zip(row[::2], row[1::2], strict=False)
        row = [sha256(b"\x01" + left + right).digest() for left, right in pairs] + single
    return row[0]


class HistoryTree:
    """A history tree; leaves are given as their hashes."""

    def __init__(self) -> None:
        self._first = 0
        self._size = 0
        # For each height the hashes of complete subtrees, one behind the other, from number _start(height) on.
        self._rows = [bytearray()]

    @classmethod
    def resume(cls, first: int, subtrees: Sequence[bytes]) -> Self:
        """Return a tree that has forgotten its *first* leaves, of which it keeps what `subtrees` returned.

        Raises SealError if that many leaves have not so many subtrees, or one is no hash.
        """
        if not 0 <= first <= MAX_SIZE or len(subtrees) != first.bit_count() or not _are_hashes(subtrees):
            raise SealError(f"{first} leaves of a history tree do not have {len(subtrees)} such subtrees")
        tree = cls()
        tree._first = tree._size = first
        tree._rows = [bytearray() for _ in range(max(1, first.bit_length()))]
        for height, subtree in zip(_bits(first), subtrees, strict=True):
            tree._rows[height] += subtree
        return tree

    @property
    def size(self) -> int:
        """How many leaves were appended, the forgotten included."""
        return self._size

    @property
    def first(self) -> int:
        """The oldest leaf kept; equal to `size` if none is."""
        return self._first

    def append(self, leaf: bytes) -> int:
        """Add a *leaf* (its hash) and return its index; raises ValueError if it is no hash."""
        if len(leaf) != HASH_SIZE:
            raise ValueError(f"a leaf hash of {len(leaf)} bytes")
        self._rows[0] += leaf
        self._size += 1
        self._grow(0, self._size)
        return self._size - 1

    def leaf(self, index: int) -> bytes:
        """Return the hash of the leaf *index*; raises ValueError if it is not kept."""
        self._check_leaf(index, self._size)
        return self._node(0, index)

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first *size* leaves (default: all).

        Raises ValueError for a size before `first` or behind `size`.
        """
        size = self._known(size)
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the proof that leaf *index* is in the tree of *size* leaves (default: all), from the leaf up.

        RFC 9162, section 2.1.3.1.  Raises ValueError if the leaf is forgotten or not in that tree.
        """
        size = self._known(size)
        self._check_leaf(index, size)
        path = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _left_size(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """Return the proof that the tree of *old* leaves is the beginning of that of *new* leaves (default: all).

        RFC 9162, section 2.1.4.1; empty if *old* is *new* or 0.  Raises ValueError if *old* is before `first`,
        or greater than *new*.
        """
        new = self._known(new)
        if self._known(old) > new:
            raise ValueError(f"{old} leaves are no beginning of {new}")
        if old in (0, new):
            return []
        path = []
        start, end = 0, new
        while end > old:
            middle = start + _left_size(end - start)
            if old <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        # The subtree that ends where the old tree ended; the verifier has it if it is the whole old tree.
        if start:
            path.append(self._range(start, end))
        return path[::-1]

    def prune(self, first: int) -> None:
        """Forget the leaves before *first*; nothing happens if they are forgotten already.

        Raises ValueError if there are not so many.
        """
        if first > self._size:
            raise ValueError(f"cannot forget {first} leaves of {self._size}")
        if first <= self._first:
            return
        before = [self._start(height) for height in range(len(self._rows))]
        self._first = first
        for height, row in enumerate(self._rows):
            del row[: (self._start(height) - before[height]) * HASH_SIZE]

    def subtrees(self, size: int) -> list[bytes]:
        """Return the hashes of the complete subtrees that the first *size* leaves consist of, the largest first.

        Raises ValueError for a size before `first` or behind `size`.
        """
        size = self._known(size)
        return [self._node(height, (size >> height) - 1) for height in _bits(size)]

    def _grow(self, height: int, count: int) -> None:
        """Make the nodes that are complete now that row *height* has grown to *count*."""
        while not count & 1:
            pair = self._rows[height][-2 * HASH_SIZE :]
            height, count = height + 1, count >> 1
            if height == len(self._rows):
                self._rows.append(bytearray())
            self._rows[height] += sha256(b"\x01" + pair).digest()

    def _start(self, height: int) -> int:
        # The subtree that holds leaf _first, and the one to its left if both have the same parent: that is one
        # of those which _first leaves consist of.
        return (self._first >> height) & ~1

    def _node(self, height: int, number: int) -> bytes:
        at = (number - self._start(height)) * HASH_SIZE
        return bytes(self._rows[height][at : at + HASH_SIZE])

    def _range(self, start: int, end: int) -> bytes:
        """Return the hash over leaves *start* to *end*, which are a subtree of a tree that ends there."""
        subtrees = []
        while start < end:
            height = (end - start).bit_length() - 1
            subtrees.append(self._node(height, start >> height))
            start += 1 << height
        whole = subtrees.pop()
        while subtrees:
            whole = node_hash(subtrees.pop(), whole)
        return whole

    def _known(self, size: int | None) -> int:
        if size is None:
            return self._size
        if not self._first <= size <= self._size:
            raise ValueError(f"size {size}: this tree knows sizes from {self._first} to {self._size}")
        return size

    def _check_leaf(self, index: int, size: int) -> None:
        if not self._first <= index < size:
            raise ValueError(f"leaf {index}: this tree has those from {self._first} to below {size}")


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether *path* proves the hash *leaf* at *index* of the tree of *size* leaves with that *root*.

    RFC 9162, section 2.1.3.2.
    """
    if not (0 <= index < size <= MAX_SIZE and _are_hashes([leaf, root, *path])):
        return False
    number, last, whole = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if number & 1 or number == last:
            whole = node_hash(sibling, whole)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            whole = node_hash(whole, sibling)
        number, last = number >> 1, last >> 1
    return last == 0 and whole == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether *path* proves that the tree of *old* leaves is the beginning of that of *new* leaves.

    RFC 9162, section 2.1.4.2; of an empty *old* tree, and of two of one size, the roots are compared.
    """
    if not (0 <= old <= new <= MAX_SIZE and _are_hashes([old_root, new_root, *path])):
        return False
    if old in (0, new):
        return not path and old_root == (new_root if old == new else EMPTY_ROOT)
    # The old tree is a subtree if its size is a power of two; then its root need not be sent.
    hashes = list(path) if old & (old - 1) else [old_root, *path]
    if not hashes:
        return False
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    was = is_now = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            was, is_now = node_hash(sibling, was), node_hash(sibling, is_now)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            is_now = node_hash(is_now, sibling)
        number, last = number >> 1, last >> 1
    return last == 0 and was == old_root and is_now == new_root


def _left_size(size: int) -> int:
    """Return the size of the left subtree of a tree of *size* leaves, which are two or more."""
    return 1 << ((size - 1).bit_length() - 1)


def _bits(number: int) -> list[int]:
    """Return which bits of *number* are set, the highest first."""
    return [bit for bit in reversed(range(number.bit_length())) if number >> bit & 1]


def _are_hashes(values: Sequence[bytes]) -> bool:
    return all(len(value) == HASH_SIZE for value in values)
