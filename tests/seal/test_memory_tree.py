"""The tree over a guest's memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.seal.memory import MAX_PAGES, PAGE_SIZE, ZERO_PAGE_HASH, MemoryTree, page_hash
from revirt.seal.merkle import root_of, verify_inclusion

COUNTS = [1, 2, 3, 4, 5, 7, 8, 100, 1023, 1024, 1025, 65536]
ZEROS = bytes(PAGE_SIZE)

page_counts = st.integers(1, 70)
contents = st.one_of(st.just(ZEROS), st.binary(min_size=1, max_size=1).map(lambda byte: byte * PAGE_SIZE))


def numbered(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def page_of(number: int) -> bytes:
    return number.to_bytes(4, "little") * (PAGE_SIZE // 4)


def leaf(page: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return sha256(b"\x00" + page).digest()


def test_the_hash_of_a_page_is_that_of_a_leaf() -> None:
    assert page_hash(page_of(7)) == page_hash(memoryview(page_of(7))) == leaf(page_of(7))
    assert page_hash(ZEROS) == ZERO_PAGE_HASH == leaf(ZEROS)


@pytest.mark.parametrize("count", COUNTS)
def test_memory_begins_as_zeros(count: int) -> None:
    assert MemoryTree(count).root() == root_of([leaf(ZEROS)] * count)


@pytest.mark.parametrize("count", COUNTS)
def test_the_root_is_that_over_all_pages(count: int) -> None:
    # A run, pages far apart, the first and the last.
    changed = sorted({0, count - 1, count // 3, *range(count // 2, min(count, count // 2 + 20))})
    tree = MemoryTree(count)
    leaves = [leaf(ZEROS)] * count

    tree.update(numbered(changed), b"".join(map(page_of, changed)))
    for number in changed:
        leaves[number] = leaf(page_of(number))

    assert tree.root() == root_of(leaves)


@given(st.data())
def test_whatever_was_changed_when_the_root_is_that_of_what_is_there(data: st.DataObject) -> None:
    count = data.draw(page_counts)
    tree = MemoryTree(count)
    memory = [ZEROS] * count
    batches = st.lists(st.tuples(st.integers(0, count - 1), contents), max_size=40)

    for _ in range(data.draw(st.integers(1, 5))):
        batch = data.draw(batches)
        numbers, pages = numbered([number for number, _ in batch]), [page for _, page in batch]
        if data.draw(st.booleans()):
            tree.update(numbers, b"".join(pages))
        else:
            tree.update_hashes(numbers, b"".join(map(leaf, pages)))
        for number, page in batch:
            memory[number] = page
        if data.draw(st.booleans()):
            assert tree.root() == root_of([leaf(page) for page in memory])

    assert tree.root() == root_of([leaf(page) for page in memory])
    assert tree.root() == tree.root()


@given(st.integers(1, 40), st.data())
def test_every_page_has_a_proof(count: int, data: st.DataObject) -> None:
    tree = MemoryTree(count)
    tree.update(numbered(range(count)), b"".join(map(page_of, range(count))))
    tree.root()
    changed = data.draw(st.integers(0, count - 1))

    # The path is that of now, whether or not the root was asked for.
    tree.update(numbered([changed]), page_of(1000))
    paths = [tree.path(number) for number in range(count)]

    for number, path in enumerate(paths):
        page = page_of(1000) if number == changed else page_of(number)
        assert verify_inclusion(leaf(page), number, count, path, tree.root())


def test_contents_may_be_a_view_and_are_not_held() -> None:
    pages = bytearray(page_of(1) + page_of(2))
    tree = MemoryTree(4)

    tree.update(numbered([1, 2]), memoryview(pages))
    pages.clear()

    assert tree.root() == root_of([leaf(page_of(number)) for number in range(3)] + [leaf(ZEROS)])


@pytest.mark.parametrize(
    ("numbers", "sizes"),
    [
        (numbered([0, 5]), 2),
        (numbered([0, (1 << 32) - 1]), 2),
        (numbered([0, 1]), 1),
        (numbered([0, 1]), 3),
        (numbered([0, 1])[:-1], 2),
        (numbered([0, 1])[:-4], 2),
        (b"", 1),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(numbers: bytes, sizes: int) -> None:
    tree = MemoryTree(5)
    before = tree.root()

    with pytest.raises(ValueError, match="page"):
        tree.update(numbers, page_of(1) * sizes)
    with pytest.raises(ValueError, match="page"):
        tree.update_hashes(numbers, leaf(page_of(1)) * sizes)

    assert tree.root() == before
    assert tree.path(0) == MemoryTree(5).path(0)


def test_half_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="2048 bytes for 4 bytes of page numbers"):
        MemoryTree(5).update(numbered([0]), bytes(PAGE_SIZE // 2))
    with pytest.raises(ValueError, match="a page of 2048 bytes"):
        page_hash(bytes(PAGE_SIZE // 2))


@pytest.mark.parametrize("number", [-1, 5])
def test_a_page_that_is_not_there_has_no_proof(number: int) -> None:
    with pytest.raises(ValueError, match=f"page {number} of a memory of 5 pages"):
        MemoryTree(5).path(number)


@pytest.mark.parametrize("count", [-1, 0, MAX_PAGES + 1, 1 << 60])
def test_a_memory_without_pages_or_with_too_many_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="a memory of"):
        MemoryTree(count)


def test_the_tree_takes_64_bytes_for_a_page() -> None:
    tracemalloc.start()
    try:
        tree = MemoryTree(65536)
        tree.update(numbered(range(65536)), memoryview(bytes(65536 * PAGE_SIZE)))
        tree.root()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used < 65536 * 64 + (64 << 10)
