"""The events of a segment as a Merkle tree, so that one event can be proven without showing all.

::

    segment    blocks of 4 events, the last of 1 to 4
    block      the rows of its events (32 bytes each, see revirt.log.rows),
               then the SHA-256 of the data of every event that has any, in order
    root       of the tree of revirt.seal.merkle whose leaves are the blocks

Four events to a block, because hashing a block costs little more than hashing a row: with a leaf for each event the
tree takes three times as long.  And not more, because what a proof shows of the neighbours soon outweighs the levels
of the tree that it saves: with eight it can be over 4 KB.  Data stands there as its hash: a proof shows what it is
about and no other data.

Rules:
- Where the rows of a block end and the hashes begin follows from the rows alone: there are as many hashes as rows
  with a size other than 0.  No other split of the same bytes has that property.
- The root says nothing about how many events there are: whoever signs it signs the count beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Any, Self

from revirt.errors import SealError
from revirt.log.rows import ROW, Rows
from revirt.seal.fields import encode_bytes, get_bytes, get_number
from revirt.seal.merkle import HASH_SIZE, HistoryTree, leaf_hash, root_of, verify_inclusion

BLOCK_EVENTS = 4
"""Events in a block."""
MAX_BLOCKS = 1 << 32
"""Most blocks that a segment is believed to have."""

_BLOCK_SIZE = BLOCK_EVENTS * ROW.size
_SIZES = struct.Struct("<4xI24x")
"""A row, of which only the size of the data is looked at."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a segment and where it stands in it; ``path`` proves that, see `verify_block`."""

    index: int
    rows: bytes
    digests: tuple[bytes, ...]
    path: tuple[bytes, ...]

    @property
    def contents(self) -> bytes:
        """What the leaf is the hash of."""
        return self.rows + b"".join(self.digests)

    def event(self, index: int) -> tuple[bytes, bytes | None]:
        """Return row and data hash of event *index* of the segment; of one without data, None for the hash.

        Raises ValueError if it is not in this block, SealError if the block has not the hashes it should.
        """
        number = index - self.index * BLOCK_EVENTS
        sizes = _sizes(self.rows)
        if not 0 <= number < len(sizes):
            raise ValueError(f"event {index} is not in block {self.index}")
        if len(self.digests) != _count(sizes):
            raise SealError(
                f"block {self.index} has {len(self.digests)} hashes for {_count(sizes)} events with data"
            )
        row = self.rows[number * ROW.size : (number + 1) * ROW.size]
        return row, self.digests[_count(sizes[:number])] if sizes[number] else None

    def to_json(self) -> dict[str, Any]:
        """Return the block as JSON knows it."""
        return {
            "index": self.index,
            "rows": encode_bytes(self.rows),
            "digests": encode_bytes(b"".join(self.digests)),
            "path": encode_bytes(b"".join(self.path)),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the block that `to_json` made *values* from; raises SealError if nothing it makes looks like that."""
        index = get_number(values, "index", "block", below=MAX_BLOCKS)
        rows = get_bytes(values, "rows", "block")
        digests, path = (_hashes(get_bytes(values, name, "block"), name) for name in ("digests", "path"))
        return cls(index, rows, digests, path)


def event_root(rows: Rows) -> bytes:
    """Return the root over the events *rows*, 32 bytes; raises ValueError if rows and data do not fit together."""
    return root_of([leaf_hash(contents) for contents in _blocks(rows)])


def block_of(rows: Rows, index: int) -> Block:
    """Return the block that holds event *index* of the segment *rows*.

    Raises ValueError if there is no such event, or if rows and data do not fit together.
    """
    if not 0 <= index < rows.count:
        raise ValueError(f"no event {index} in a segment of {rows.count}")
    number = index // BLOCK_EVENTS
    tree = HistoryTree()
    shown = b""
    for contents in _blocks(rows):
        if tree.append(leaf_hash(contents)) == number:
            shown = contents
    events = rows.rows[number * _BLOCK_SIZE : (number + 1) * _BLOCK_SIZE]
    digests = _hashes(shown[len(events) :], "digests")
    return Block(number, events, digests, tuple(tree.inclusion(number)))


def verify_block(block: Block, count: int, root: bytes) -> bool:
    """Return whether *block* is one of the segment of *count* events whose event root is *root*."""
    rest = count - block.index * BLOCK_EVENTS
    if block.index < 0 or rest <= 0 or len(block.rows) != min(rest, BLOCK_EVENTS) * ROW.size:
        return False
    if len(block.digests) != _count(_sizes(block.rows)):
        return False
    blocks = -(-count // BLOCK_EVENTS)
    return verify_inclusion(leaf_hash(block.contents), block.index, blocks, block.path, root)


def _blocks(rows: Rows) -> Iterator[bytes]:
    """Yield the contents of every block."""
    sizes = _sizes(rows.rows)
    if sum(sizes) != len(rows.data):
        raise ValueError(f"{len(rows.data)} bytes of data where the rows say {sum(sizes)}")
    events, data = rows.rows, rows.data
    ends = accumulate(filter(None, sizes), initial=0)
    digests = b"".join([sha256(data[start:end]).digest() for start, end in pairwise(ends)])
    if not digests:
        yield from (events[at : at + _BLOCK_SIZE] for at in range(0, len(events), _BLOCK_SIZE))
        return
    # How many hashes there are before each block, and behind the last.
    counts = [*accumulate(map(bool, sizes), initial=0)]
    before = [*counts[:-1:BLOCK_EVENTS], counts[-1]]
    for block, (start, end) in enumerate(pairwise(before)):
        rows_of_block = events[block * _BLOCK_SIZE : (block + 1) * _BLOCK_SIZE]
        yield rows_of_block + digests[start * HASH_SIZE : end * HASH_SIZE]


def _sizes(rows: bytes) -> list[int]:
    if len(rows) % ROW.size:
        raise ValueError(f"{len(rows)} bytes of rows")
    return [size for (size,) in _SIZES.iter_unpack(rows)]


def _count(sizes: Sequence[int]) -> int:
    return sum(map(bool, sizes))


def _hashes(data: bytes, name: str) -> tuple[bytes, ...]:
    if len(data) % HASH_SIZE:
        raise SealError(f"block: {name!r} is {len(data)} bytes, which are no hashes")
    return tuple(data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE))
