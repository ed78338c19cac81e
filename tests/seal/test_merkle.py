from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import SealError
from revirt.seal.merkle import (
    EMPTY_ROOT,
    HistoryTree,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The leaves, roots and proofs that implementations of Certificate Transparency have tested themselves with since
# the first one of RFC 6962.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
CT_CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def split(size: int) -> int:
    """RFC 6962: the largest power of two smaller than *size*."""
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1: the Merkle Tree Hash, of leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def audit_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1: PATH(m, D[n])."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), mth(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """RFC 6962, section 2.1.2: SUBPROOF(m, D[n], b)."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


def tree_of(leaves: Sequence[bytes], *, first: int = 0) -> HistoryTree:
    tree = HistoryTree()
    for leaf in leaves:
        tree.append(leaf)
    tree.prune(first)
    return tree


def test_roots_are_those_of_certificate_transparency() -> None:
    tree = tree_of([leaf_hash(data) for data in CT_LEAVES])

    assert [tree.root(size).hex() for size in range(9)] == CT_ROOTS


@pytest.mark.parametrize(("index", "size"), CT_INCLUSION)
def test_inclusion_proofs_are_those_of_certificate_transparency(index: int, size: int) -> None:
    leaves = [leaf_hash(data) for data in CT_LEAVES]

    path = tree_of(leaves).inclusion(index, size)

    assert [each.hex() for each in path] == CT_INCLUSION[index, size]
    assert verify_inclusion(leaves[index], index, size, path, bytes.fromhex(CT_ROOTS[size]))


@pytest.mark.parametrize(("old", "new"), CT_CONSISTENCY)
def test_consistency_proofs_are_those_of_certificate_transparency(old: int, new: int) -> None:
    path = tree_of([leaf_hash(data) for data in CT_LEAVES]).consistency(old, new)

    assert [each.hex() for each in path] == CT_CONSISTENCY[old, new]
    assert verify_consistency(old, new, bytes.fromhex(CT_ROOTS[old]), bytes.fromhex(CT_ROOTS[new]), path)


@given(st.data())
def test_whatever_is_pruned_the_rest_is_as_the_definition_has_it(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 200))
    first = data.draw(st.integers(0, count - 1))
    new = data.draw(st.integers(first + 1, count))
    old = data.draw(st.integers(max(1, first), new))
    index = data.draw(st.integers(first, new - 1))
    leaves = some_leaves(count)
    # Forgotten at once, or bit by bit while it grows.
    tree = HistoryTree()
    steps = sorted(data.draw(st.sets(st.integers(0, first), max_size=4)))
    for number, leaf in enumerate(leaves):
        while steps and steps[0] <= number:
            tree.prune(steps.pop(0))
        tree.append(leaf)
    tree.prune(first)

    assert tree.root(new) == mth(leaves[:new])
    assert tree.leaf(index) == leaves[index]
    assert tree.inclusion(index, new) == audit_path(index, leaves[:new])
    assert tree.consistency(old, new) == subproof(old, leaves[:new], True)


def test_every_proof_about_a_small_tree_is_accepted() -> None:
    leaves = some_leaves(17)
    tree = tree_of(leaves)

    for new in range(len(leaves) + 1):
        for index in range(new):
            assert verify_inclusion(leaves[index], index, new, tree.inclusion(index, new), tree.root(new))
        for old in range(new + 1):
            assert verify_consistency(old, new, tree.root(old), tree.root(new), tree.consistency(old, new))


@given(st.data())
def test_a_proof_that_is_changed_anywhere_is_refused(data: st.DataObject) -> None:
    leaves = some_leaves(data.draw(st.integers(2, 70)))
    tree = tree_of(leaves)
    size = tree.size
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size - 1))

    def changed(hashes: list[bytes]) -> list[bytes]:
        at = data.draw(st.integers(0, len(hashes) - 1))
        how = data.draw(st.sampled_from(["flip", "drop", "repeat", "cut"]))
        if how == "flip":
            bit = data.draw(st.integers(0, 255))
            flipped = (int.from_bytes(hashes[at], "big") ^ 1 << bit).to_bytes(32, "big")
            return [*hashes[:at], flipped, *hashes[at + 1 :]]
        if how == "cut":
            return [*hashes[:at], hashes[at][:-1], *hashes[at + 1 :]]
        return [*hashes[:at], *hashes[at : at + 1] * (2 if how == "repeat" else 0), *hashes[at + 1 :]]

    inclusion, consistency = tree.inclusion(index), tree.consistency(old)

    assert not verify_inclusion(leaves[index], index, size, changed(inclusion), tree.root())
    assert not verify_inclusion(leaves[index - 1], index, size, inclusion, tree.root())
    assert not verify_inclusion(leaves[index], (index + 1) % size, size, inclusion, tree.root())
    assert not verify_consistency(old, size, tree.root(old), tree.root(), changed(consistency))
    assert not verify_consistency(old, size, leaves[0][::-1], tree.root(), consistency)
    assert not verify_consistency(old, size, tree.root(old), leaves[0][::-1], consistency)


@given(
    st.integers(-2, 1 << 70),
    st.integers(-2, 1 << 70),
    st.lists(st.binary(max_size=33), max_size=70),
    st.binary(),
)
def test_the_verifiers_refuse_nonsense_without_ado(
    index: int, size: int, path: list[bytes], root: bytes
) -> None:
    assert not verify_inclusion(bytes(32), index, size, path, root)
    assert not verify_consistency(index, size, bytes(32), root, path)


def test_a_proof_about_a_small_tree_is_none_about_a_larger() -> None:
    # The hashes come out right all the same; what is left of the larger size tells.
    leaves = some_leaves(3)
    tree = tree_of(leaves)

    assert verify_inclusion(leaves[0], 0, 1, [], tree.root(1))
    assert not verify_inclusion(leaves[0], 0, 2, [], tree.root(1))
    assert verify_consistency(2, 3, tree.root(2), tree.root(3), [leaves[2]])
    assert not verify_consistency(2, 5, tree.root(2), tree.root(3), [leaves[2]])


def test_a_tree_of_more_leaves_than_there_can_be_is_refused() -> None:
    path = some_leaves(63)
    root = leaf = leaf_hash(b"leaf")
    for sibling in path[:62]:
        root = node_hash(root, sibling)

    assert verify_inclusion(leaf, 0, 1 << 62, path[:62], root)
    assert not verify_inclusion(leaf, 0, 1 << 63, path, node_hash(root, path[62]))


def test_every_tree_begins_with_the_empty_one() -> None:
    tree = tree_of(some_leaves(3))

    assert tree.consistency(0) == []
    assert verify_consistency(0, 3, EMPTY_ROOT, tree.root(), [])
    assert not verify_consistency(0, 3, tree.root(), tree.root(), [])


@given(st.integers(0, 100))
def test_the_root_of_all_at_once_is_that_of_the_tree(count: int) -> None:
    leaves = some_leaves(count)

    assert root_of(leaves) == mth(leaves) == tree_of(leaves).root()


def test_what_is_forgotten_is_refused_by_name() -> None:
    tree = tree_of(some_leaves(20), first=13)

    with pytest.raises(ValueError, match="leaf 12: this tree has those from 13 to below 20"):
        tree.inclusion(12)
    with pytest.raises(ValueError, match="leaf 12"):
        tree.leaf(12)
    with pytest.raises(ValueError, match="size 12: this tree knows sizes from 13 to 20"):
        tree.root(12)
    with pytest.raises(ValueError, match="size 12"):
        tree.consistency(12)
    with pytest.raises(ValueError, match="size 21"):
        tree.root(21)
    with pytest.raises(ValueError, match="14 leaves are no beginning of 13"):
        tree.consistency(14, 13)
    with pytest.raises(ValueError, match="cannot forget 21 leaves of 20"):
        tree.prune(21)
    with pytest.raises(ValueError, match="31 bytes"):
        tree.append(bytes(31))


def test_pruning_again_to_less_changes_nothing() -> None:
    tree = tree_of(some_leaves(20), first=13)

    tree.prune(5)

    assert (tree.first, tree.size) == (13, 20)


@given(st.data())
def test_the_subtrees_of_any_size_give_its_root(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 200))
    size = data.draw(st.integers(0, count))
    leaves = some_leaves(count)
    tree = tree_of(leaves, first=data.draw(st.integers(0, size)))

    subtrees, start = tree.subtrees(size), 0
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        if size & bit:
            assert subtrees.pop(0) == mth(leaves[start : start + bit])
            start += bit

    assert subtrees == []


@given(st.integers(0, 80), st.integers(0, 20), st.integers(0, 20))
def test_a_resumed_tree_goes_on_where_it_was(first: int, more: int, forgotten: int) -> None:
    leaves = some_leaves(first + more)
    whole = tree_of(leaves)
    tree = HistoryTree.resume(first, tree_of(leaves[:first]).subtrees(first))

    for leaf in leaves[first:]:
        tree.append(leaf)

    assert (tree.first, tree.size) == (first, first + more)
    for size in range(first, first + more + 1):
        assert tree.root(size) == whole.root(size)
        assert tree.subtrees(size) == whole.subtrees(size)
        assert tree.consistency(size) == whole.consistency(size)
    for index in range(first, first + more):
        assert tree.inclusion(index) == whole.inclusion(index)

    tree.prune(min(first + forgotten, tree.size))

    assert tree.root() == mth(leaves)


@pytest.mark.parametrize(
    ("first", "subtrees"),
    [
        (0, [bytes(32)]),
        (1, []),
        (5, [bytes(32)] * 3),
        (5, [bytes(32), bytes(31)]),
        (-1, [bytes(32)]),
        (1 << 63, [bytes(32)]),
    ],
)
def test_subtrees_that_are_not_those_of_so_many_leaves_are_refused(first: int, subtrees: list[bytes]) -> None:
    with pytest.raises(SealError, match=f"{first} leaves of a history tree do not have {len(subtrees)}"):
        HistoryTree.resume(first, subtrees)


@pytest.mark.parametrize("size", [12, 21])
def test_subtrees_of_a_size_that_is_not_known_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size {size}: this tree knows sizes from 13 to 20"):
        tree_of(some_leaves(20), first=13).subtrees(size)
