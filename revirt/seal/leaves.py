"""The leaves of a recording's history tree, as they are kept in it: a file for each segment of the log.

::

    leaf        kind      u8   then 7 bytes of zeros
                number    u64
                detail    u64
                digest    32 bytes
    EVENTS      events that were written at one time: ordinal of the first, how many, their event root
    CHECKPOINT  number of the checkpoint, ordinal of its event, `checkpoint_digest`

    file        frame, see revirt.log.frame; magic "RVRTLEAF"
      fields    segment   u32
                first     u64  index of the file's first leaf in the history tree
                count     u32  leaves in the file
      payload   subtrees  32 bytes each: the history tree up to the first leaf, see `HistoryTree.subtrees`
                leaves

Rules:
- A checkpoint's leaf is in the file of the segment that begins with its events, before all others.
- Every file says what came before it, so that the files before it can go.
- Nothing in these files is believed until the root that follows from them is the one of a signed head.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Self

from revirt.errors import CorruptError
from revirt.log.frame import Frame, compress_small, read_file, stored_limit
from revirt.seal.merkle import HASH_SIZE, MAX_SIZE, leaf_hash

LEAF = struct.Struct("<B7xQQ32s")
MAX_LEAVES = 1 << 16
"""Most leaves in a file: a segment has no more events."""
_SUBTREES_LIMIT = MAX_SIZE.bit_length() * HASH_SIZE
FRAME = Frame(b"RVRTLEAF", 1, struct.Struct("<IQI"), _SUBTREES_LIMIT + MAX_LEAVES * LEAF.size)

_PLACE = struct.Struct("<QQQQB7x")


class LeafKind(IntEnum):
    """What a leaf is about."""

    EVENTS = 1
    CHECKPOINT = 2


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf of the history tree; the module's docstring says what its fields are."""

    kind: int
    number: int
    detail: int
    digest: bytes

    def pack(self) -> bytes:
        """Return the leaf's contents: 56 bytes."""
        return LEAF.pack(self.kind, self.number, self.detail, self.digest)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the leaf that `pack` made *data* from; raises ValueError if nothing it makes looks like that."""
        if len(data) != LEAF.size:
            raise ValueError(f"a leaf of {len(data)} bytes")
        leaf = cls(*LEAF.unpack(data))
        if leaf.kind not in list(LeafKind) or leaf.pack() != data:
            raise ValueError(f"a leaf of the unknown kind {leaf.kind}")
        return leaf

    @property
    def hash(self) -> bytes:
        """The leaf's hash in the tree."""
        return leaf_hash(self.pack())


@dataclass(frozen=True, slots=True)
class LeafFile:
    """The leaves of one segment; ``first`` is the index of the first, ``subtrees`` stand for those before it."""

    segment: int
    first: int
    subtrees: tuple[bytes, ...]
    leaves: tuple[Leaf, ...]


def checkpoint_digest(
    event: int, branches: int, pc: int, guest_ns: int, halted: bool, state: bytes, memory: bytes
) -> bytes:
    """Return what a CHECKPOINT's leaf says of it.

    That is SHA-256 of: ``event``, ``branches``, ``pc`` and ``guest_ns``, each u64; ``halted``, u8; 7 bytes of zeros;
    SHA-256 of the machine's *state*; *memory*, the root of a `revirt.seal.memory.MemoryTree`.
    """
    place = _PLACE.pack(event, branches, pc, guest_ns, halted)
    return sha256(place + sha256(state).digest() + memory).digest()


def file_name(segment: int) -> str:
    """Return the name of the file with the leaves of *segment*."""
    return f"{segment:08}.leaves"


def encode(segment: int, first: int, subtrees: Sequence[bytes], leaves: Sequence[bytes]) -> bytes:
    """Return a file of *leaves*, each as `Leaf.pack` has it; raises ValueError if there are too many."""
    if len(leaves) > MAX_LEAVES:
        raise ValueError(f"{len(leaves)} leaves for one segment")
    header, stored = FRAME.encode(
        (segment, first, len(leaves)), b"".join([*subtrees, *leaves]), compress_small
    )
    return header + stored


def read(path: Path, segment: int) -> LeafFile:
    """Return the leaves in the file *path*, which is that of *segment*; raises CorruptError or FormatVersionError."""
    data = read_file(path, FRAME.header_size + stored_limit(FRAME.raw_limit))
    header, raw = FRAME.decode(path, data)
    found, first, count = header.fields
    if found != segment:
        raise CorruptError(path, f"calls itself the leaves of segment {found}", offset=0)
    split = first.bit_count() * HASH_SIZE
    if first > MAX_SIZE or len(raw) != split + count * LEAF.size:
        raise CorruptError(path, f"{len(raw)} bytes for {count} leaves from number {first}", offset=0)
    subtrees = tuple(raw[at : at + HASH_SIZE] for at in range(0, split, HASH_SIZE))
    try:
        leaves = tuple(Leaf.unpack(raw[at : at + LEAF.size]) for at in range(split, len(raw), LEAF.size))
    except ValueError as error:
        raise CorruptError(path, str(error), offset=FRAME.header_size) from error
    return LeafFile(segment, first, subtrees, leaves)
