from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import CorruptError, FormatVersionError
from revirt.log.frame import Frame, compress_small
from revirt.seal import leaves
from revirt.seal.leaves import LEAF, MAX_LEAVES, Leaf, LeafKind, checkpoint_digest
from revirt.seal.merkle import HistoryTree, leaf_hash

EVENTS = Leaf(LeafKind.EVENTS, 7, 3, bytes(range(32)))
CHECKPOINT = Leaf(LeafKind.CHECKPOINT, 2, 8, bytes(32))


def tree_of(count: int) -> HistoryTree:
    tree = HistoryTree()
    for number in range(count):
        tree.append(leaf_hash(bytes([number])))
    return tree


def written(path: Path, segment: int = 5, first: int = 11) -> Path:
    """A file of two leaves behind *first* others."""
    subtrees = tree_of(first).subtrees(first)
    path.write_bytes(leaves.encode(segment, first, subtrees, [CHECKPOINT.pack(), EVENTS.pack()]))
    return path


# -- leaves -----------------------------------------------------------------------------------------------------


def test_a_leaf_is_laid_out_as_the_format_says() -> None:
    assert EVENTS.pack() == bytes.fromhex("0100000000000000 0700000000000000 0300000000000000") + bytes(
        range(32)
    )
    assert CHECKPOINT.pack()[0] == 2
    assert EVENTS.hash == sha256(b"\0" + EVENTS.pack()).digest()


@given(
    st.sampled_from(list(LeafKind)),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.binary(min_size=32, max_size=32),
)
def test_a_leaf_comes_back_as_it_was(kind: LeafKind, number: int, detail: int, digest: bytes) -> None:
    leaf = Leaf(kind, number, detail, digest)

    assert Leaf.unpack(leaf.pack()) == leaf


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "a leaf of 0 bytes"),
        (EVENTS.pack() + b"\0", "a leaf of 57 bytes"),
        (b"\0" + EVENTS.pack()[1:], "a leaf of the unknown kind 0"),
        (b"\3" + EVENTS.pack()[1:], "a leaf of the unknown kind 3"),
        (EVENTS.pack()[:1] + b"\1" + EVENTS.pack()[2:], "a leaf of the unknown kind 1"),
    ],
)
def test_what_is_no_leaf_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Leaf.unpack(data)


def test_a_checkpoints_digest_is_the_one_that_the_format_describes() -> None:
    place = struct.pack("<QQQQ", 13, 100, 0x7C00, 1000) + b"\1" + bytes(7)
    memory = bytes([9] * 32)

    digest = checkpoint_digest(13, 100, 0x7C00, 1000, True, b"state", memory)

    assert digest == sha256(place + sha256(b"state").digest() + memory).digest()


@pytest.mark.parametrize("index", range(7))
def test_everything_about_a_checkpoint_is_in_its_digest(index: int) -> None:
    whole = (1, 2, 3, 4, False, b"state", bytes(32))
    other = (5, 5, 5, 5, True, b"other", bytes([1] * 32))

    changed = (*whole[:index], other[index], *whole[index + 1 :])

    assert checkpoint_digest(*changed) != checkpoint_digest(*whole)  # type: ignore[arg-type]


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1, 11, 1 << 40])
def test_a_file_comes_back_as_it_was(first: int, tmp_path: Path) -> None:
    subtrees = tuple(bytes([bit] * 32) for bit in range(first.bit_count()))
    path = tmp_path / leaves.file_name(5)
    path.write_bytes(leaves.encode(5, first, subtrees, [EVENTS.pack(), CHECKPOINT.pack()]))

    file = leaves.read(path, 5)

    assert (file.segment, file.first, file.subtrees) == (5, first, subtrees)
    assert file.leaves == (EVENTS, CHECKPOINT)


def test_a_tree_goes_on_from_the_subtrees_in_a_file(tmp_path: Path) -> None:
    file = leaves.read(written(tmp_path / "x"), 5)
    whole = tree_of(11)

    resumed = HistoryTree.resume(file.first, file.subtrees)

    for tree in (whole, resumed):
        for leaf in file.leaves:
            tree.append(leaf.hash)
    assert resumed.root() == whole.root()


def test_a_file_is_named_after_its_segment() -> None:
    assert leaves.file_name(5) == "00000005.leaves"


def test_no_segment_has_more_leaves_than_events() -> None:
    leaves.encode(0, 0, [], [EVENTS.pack()] * MAX_LEAVES)

    with pytest.raises(ValueError, match=f"{MAX_LEAVES + 1} leaves for one segment"):
        leaves.encode(0, 0, [], [EVENTS.pack()] * (MAX_LEAVES + 1))


def test_the_leaves_of_another_segment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="calls itself the leaves of segment 5"):
        leaves.read(written(tmp_path / "x"), 6)


@pytest.mark.parametrize(
    ("first", "count", "payload", "problem"),
    [
        (0, 2, EVENTS.pack(), "56 bytes for 2 leaves from number 0"),
        (0, 0, EVENTS.pack(), "56 bytes for 0 leaves from number 0"),
        (3, 1, bytes(32) + EVENTS.pack(), "88 bytes for 1 leaves from number 3"),
        ((1 << 62) + 1, 1, bytes(64) + EVENTS.pack(), f"120 bytes for 1 leaves from number {(1 << 62) + 1}"),
        (0, 1, bytes(56), "a leaf of the unknown kind 0"),
    ],
)
def test_a_file_that_does_not_add_up_is_refused(
    first: int, count: int, payload: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"".join(leaves.FRAME.encode((5, first, count), payload, compress_small)))

    with pytest.raises(CorruptError, match=problem) as refused:
        leaves.read(path, 5)

    assert refused.value.offset is not None


def test_a_newer_file_is_refused_by_version(tmp_path: Path) -> None:
    newer = Frame(leaves.FRAME.magic, 2, leaves.FRAME.fields, leaves.FRAME.raw_limit)
    path = tmp_path / "x"
    path.write_bytes(b"".join(newer.encode((5, 0, 1), EVENTS.pack(), compress_small)))

    with pytest.raises(FormatVersionError, match="version 2; this revirt reads up to 1"):
        leaves.read(path, 5)


def test_any_byte_that_is_not_what_it_was_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "x")
    data = path.read_bytes()

    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises((CorruptError, FormatVersionError)):
            leaves.read(path, 5)
        path.write_bytes(data[:place])
        with pytest.raises(CorruptError):
            leaves.read(path, 5)


def test_the_limit_of_a_file_is_that_of_its_leaves() -> None:
    assert leaves.FRAME.raw_limit == 63 * 32 + MAX_LEAVES * LEAF.size
