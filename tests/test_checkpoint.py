from __future__ import annotations

import random
import struct
from array import array
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revirt.checkpoint import CheckpointInfo, CheckpointReader, CheckpointWriter
from revirt.checkpoint.format import (
    CHECKPOINT_FRAME,
    MAX_PAGES,
    MAX_STATE,
    PAGE_SIZE,
    PAGES_FRAME,
    HashPages,
    decode_map,
    encode_map,
)
from revirt.errors import CorruptError, RecordingError
from revirt.log.frame import compress_fast, open_file

STATE = b"registers and devices"


def hash_pages(pages: bytes) -> bytes:
    """Stand in for the core's hash."""
    return b"".join(
        blake2b(pages[start : start + PAGE_SIZE], digest_size=8).digest()
        for start in range(0, len(pages), PAGE_SIZE)
    )


def same_hash(pages: bytes) -> bytes:
    """Return what a guest that makes all its pages collide would get."""
    return bytes(8 * (len(pages) // PAGE_SIZE))


def info(number: int) -> CheckpointInfo:
    return CheckpointInfo(
        number, 1000 * number, bool(number % 2), 0xFFF0 + number, 5_000 * number, 10 * number
    )


def page(value: int) -> bytes:
    return value.to_bytes(4, "little") * (PAGE_SIZE // 4)


class Store:
    """Directories for checkpoints, a writer, and what memory should be at each checkpoint."""

    def __init__(self, directory: Path, hashes: HashPages = hash_pages, *, evicts: bool = False) -> None:
        self.hashes = hashes
        self.checkpoints = directory / "checkpoints"
        self.pages = directory / "pages"
        self.checkpoints.mkdir()
        self.pages.mkdir()
        self.writer = CheckpointWriter(self.checkpoints, self.pages, hashes, evicts=evicts)
        self.memory: dict[int, bytes] = {}
        self.expected: list[dict[int, bytes]] = []

    def add(self, *batches: dict[int, bytes], state: bytes = STATE) -> None:
        self.writer.begin(info(len(self.expected)), state)
        for batch in batches:
            self.writer.add_pages(struct.pack(f"<{len(batch)}I", *batch), b"".join(batch.values()))
            self.memory.update(batch)
        self.writer.commit()
        self.expected.append(dict(self.memory))

    @property
    def reader(self) -> CheckpointReader:
        return CheckpointReader(self.checkpoints, self.pages, self.hashes)

    def reader_from(self, first: int) -> CheckpointReader:
        return CheckpointReader(self.checkpoints, self.pages, self.hashes, first=first)

    def read_everything(self) -> None:
        """Read all that is stored and check what can be checked."""
        reader = self.reader
        for number in range(len(reader.infos)):
            list(reader.load(number).batches())
            reader.verify_pages(number)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def restored(reader: CheckpointReader, number: int) -> dict[int, bytes]:
    memory: dict[int, bytes] = {}
    for numbers, contents in reader.load(number).batches():
        for place, (page_number,) in enumerate(struct.iter_unpack("<I", numbers)):
            memory[page_number] = contents[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]
    return memory


def nonzero(memory: dict[int, bytes]) -> dict[int, bytes]:
    return {number: contents for number, contents in memory.items() if any(contents)}


@settings(max_examples=60)
@given(
    changes=st.lists(
        st.lists(st.dictionaries(st.integers(0, 80), st.integers(0, 60), max_size=40), max_size=3),
        min_size=1,
        max_size=5,
    ),
    hashes=st.sampled_from([hash_pages, same_hash]),
)
def test_any_history_of_pages_is_restored(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[list[dict[int, int]]],
    hashes: HashPages,
) -> None:
    store = Store(tmp_path_factory.mktemp("store"), hashes)

    for batches in changes:
        store.add(*({number: page(value) for number, value in batch.items()} for batch in batches))

    reader = store.reader
    for number, memory in enumerate(store.expected):
        loaded = reader.load(number)
        assert restored(reader, number) == nonzero(memory)
        assert loaded.page_count == len(nonzero(memory))
        assert (loaded.info, loaded.state) == (info(number), STATE)


def test_a_large_memory_is_restored_in_batches(store: Store) -> None:
    contents = {number * 3: random.Random(number).randbytes(PAGE_SIZE) for number in range(1500)}

    store.add(contents)

    assert len(list(store.reader.load(0).batches())) == 2
    assert restored(store.reader, 0) == contents


def test_a_distinct_page_is_stored_once(store: Store) -> None:
    store.add({1: page(7), 2: page(7), 3: page(0)})
    store.add({9: page(7), 1: page(8)})
    store.add({1: page(7), 2: page(8), 3: page(7)})

    assert [header.page_count for header in store.reader.headers] == [1, 1, 0]
    assert restored(store.reader, 2) == {1: page(7), 2: page(8), 3: page(7), 9: page(7)}


def test_pages_whose_hashes_collide_are_told_apart(tmp_path: Path) -> None:
    store = Store(tmp_path, same_hash)

    store.add({number: page(number) for number in range(1, 40)})

    assert restored(store.reader, 0) == store.memory


def test_pages_that_were_stored_long_ago_are_found_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revirt.checkpoint.store._CACHED_CHUNKS", 1)
    first = {number: page(number) for number in range(1, 101)}
    store.add(first)
    store.add({number: page(1000 + number) for number in first})

    store.add(first)

    assert store.reader.headers[2].page_count == 0
    assert restored(store.reader, 2) == first


def test_memory_stays_bounded_by_forgetting_what_was_stored_longest_ago(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revirt.checkpoint.writer._KNOWN_LIMIT", 3)
    first = {number: page(number) for number in range(1, 11)}
    store.add(first)

    store.add(first)

    assert store.reader.headers[1].page_count == 5
    assert restored(store.reader, 1) == first


def test_a_checkpoint_without_pages_or_state_is_restored(store: Store) -> None:
    store.add(state=b"")

    loaded = store.reader.load(0)

    assert (loaded.state, loaded.page_count, list(loaded.batches())) == (b"", 0, [])


def test_sizes_are_those_on_disk(store: Store) -> None:
    store.add({1: page(1)})
    store.add({2: page(2)})

    on_disk = sum(path.stat().st_size for path in (*store.checkpoints.iterdir(), *store.pages.iterdir()))

    assert store.writer.size == on_disk == store.reader.size(0) + store.reader.size(1)


@pytest.mark.parametrize(
    ("numbers", "contents"),
    [
        (struct.pack("<I", 1), bytes(PAGE_SIZE - 1)),
        (struct.pack("<I", MAX_PAGES), bytes(PAGE_SIZE)),
        (b"", bytes(PAGE_SIZE)),
    ],
)
def test_pages_that_cannot_be_are_refused(store: Store, numbers: bytes, contents: bytes) -> None:
    store.writer.begin(info(0), STATE)

    with pytest.raises(ValueError, match=r"pages|page number"):
        store.writer.add_pages(numbers, contents)
    store.writer.abandon()


def test_a_checkpoint_that_was_abandoned_leaves_nothing(store: Store) -> None:
    store.writer.begin(info(0), STATE)
    store.writer.add_pages(struct.pack("<I", 1), page(1))

    store.writer.abandon()

    assert not list(store.pages.iterdir())
    assert store.reader.infos == []


def test_a_checkpoint_that_does_not_exist_is_named(store: Store) -> None:
    store.add({1: page(1)})

    with pytest.raises(RecordingError, match="no checkpoint 1; the last is 0"):
        store.reader.load(1)


@pytest.mark.parametrize("name", ["checkpoints/00000001.ckpt", "pages/00000001.pages"])
def test_every_flipped_bit_is_noticed(store: Store, name: str) -> None:
    store.add({1: page(1)}, state=b"s")
    store.add({2: page(2), 5: page(9)}, state=b"s")
    path = store.checkpoints.parent / name
    whole = path.read_bytes()

    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptError):
            store.read_everything()


@pytest.mark.parametrize("name", ["checkpoints/00000001.ckpt", "pages/00000001.pages"])
def test_every_truncation_and_extension_is_noticed(store: Store, name: str) -> None:
    store.add({1: page(1)}, state=b"s")
    store.add({2: page(2), 5: page(9)}, state=b"s")
    path = store.checkpoints.parent / name
    whole = path.read_bytes()

    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptError):
            store.read_everything()
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptError):
        store.read_everything()


@pytest.mark.parametrize("name", ["checkpoints/00000000.ckpt", "pages/00000000.pages"])
def test_a_missing_file_is_noticed(store: Store, name: str) -> None:
    store.add({1: page(1)})
    store.add({2: page(2)})
    (store.checkpoints.parent / name).unlink()

    with pytest.raises(CorruptError, match="missing"):
        store.read_everything()


def test_a_page_that_is_not_the_one_indexed_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path, same_hash)
    store.add({1: page(1)})

    with pytest.raises(CorruptError, match="does not have the hash"):
        CheckpointReader(store.checkpoints, store.pages, hash_pages).verify_pages(0)


# Fields: number, event, branches, pc, halted, guest time, state size, map length, first page, page count.
@pytest.mark.parametrize(
    ("fields", "raw"),
    [
        ((1, 0, 0, 0, 0, 0, 0, 0, 1, 0), b""),
        ((0, 0, 0, 0, 2, 0, 0, 0, 1, 0), b""),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 0), b""),
        ((0, 0, 0, 0, 0, 0, 0, 0, 2, 0), b""),
        ((0, 0, 0, 0, 0, 0, 0, 0, 1, 2**32 - 1), b""),
        ((0, 0, 0, 0, 0, 0, 0, 2**32 - 1, 1, 0), b""),
        ((0, 0, 0, 0, 0, 0, 2**32 - 1, 0, 1, 0), b""),
        ((0, 0, 0, 0, 0, 0, 0, 1, 1, 0), b""),
        ((0, 0, 0, 0, 0, 0, 0, 0, 2**64 - 1, 1), b""),
        ((0, 0, 0, 0, 0, 0, 0, 1, 1, 1), encode_map(array("Q", [2]))),
    ],
)
def test_a_lying_checkpoint_with_right_checks_is_refused(
    store: Store, fields: tuple[int, ...], raw: bytes
) -> None:
    path = store.checkpoints / "00000000.ckpt"
    path.write_bytes(b"".join(CHECKPOINT_FRAME.encode(fields, raw, compress_fast)))

    with pytest.raises(CorruptError):
        store.reader.load(0)


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ((0, 1, 2, 2), b""),
        ((0, 2, 1, 1), b""),
        ((7, 1, 1, 1), b""),
        ((0, 1, 1, 1), b""),
        ((0, 1, 1, 2), b""),
        ((0, 1, 1, 0), b"\0"),
        ((0, 1, 1, 1), bytes(20 + 8 + 1 + 1)),
        ((0, 1, 1, 1), struct.pack("<I16sQB", 2**32 - 1, b"", 0, 1)),
        ((0, 1, 1, 1), struct.pack("<I16sQB", 1, b"", 0, 1)),
        ((0, 1, 1, 1), struct.pack("<I16sQB", 0, b"", 0, 1)),
    ],
)
def test_a_lying_index_of_pages_with_right_checks_is_refused(
    store: Store, fields: tuple[int, ...], index: bytes
) -> None:
    store.add({1: page(1)})
    path = store.pages / "00000000.pages"
    path.write_bytes(b"".join(PAGES_FRAME.encode(fields, index, compress_fast)))

    with pytest.raises(CorruptError):
        list(store.reader.load(0).batches())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((2, 20, 999, 0, 0, 0, 0, 0, 3, 0), "stands before the checkpoint before it"),
        ((2, 20, 2000, 0, 0, 0, 0, 0, 2, 0), "its pages do not begin behind those of 1"),
    ],
)
def test_a_checkpoint_of_another_recording_is_refused(
    store: Store, fields: tuple[int, ...], problem: str
) -> None:
    store.add({1: page(1)})
    store.add({1: page(2)})
    path = store.checkpoints / "00000002.ckpt"
    path.write_bytes(b"".join(CHECKPOINT_FRAME.encode(fields, b"", compress_fast)))

    with pytest.raises(CorruptError, match=problem):
        store.reader.load(0)


def test_an_index_that_claims_more_pages_than_its_chunks_can_hold_is_refused(store: Store) -> None:
    store.checkpoints.joinpath("00000000.ckpt").write_bytes(
        b"".join(
            CHECKPOINT_FRAME.encode(
                (0, 0, 0, 0, 0, 0, 0, 1, 1, 1600), encode_map(array("Q", [1])), compress_fast
            )
        )
    )
    index = bytes(100 * 20 + 1600 * 8 + 200)
    store.pages.joinpath("00000000.pages").write_bytes(
        b"".join(PAGES_FRAME.encode((0, 1, 1600, 1600), index, compress_fast))
    )

    with pytest.raises(CorruptError, match="0 bytes of chunks cannot hold 1600 pages"):
        store.reader.page_hashes(array("Q", [1]), 1)


def test_page_hashes_are_those_of_the_whole_memory(store: Store) -> None:
    store.add({1: page(1), 3: page(2)})
    store.add({0: page(3), 1: page(0), 4: page(1)})
    reader = store.reader

    found = [reader.page_hashes(reader.load(number).page_map, 6) for number in (1, 0, 1)]

    memories = [b"".join(memory.get(number, page(0)) for number in range(6)) for memory in store.expected]
    assert found == [hash_pages(memories[number]) for number in (1, 0, 1)]


def test_hashes_of_all_checkpoints_are_had_for_reading_every_index_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reading all indices for every checkpoint made the replay of 1,495 of them take a minute.
    for number in range(100):
        store.add({number % 7: page(1 + number)})
    opened: list[Path] = []

    def count(path: Path) -> BinaryIO:
        opened.append(path)
        return open_file(path)

    monkeypatch.setattr("revirt.checkpoint.pages.open_file", count)
    reader = store.reader
    for number in range(100):
        reader.page_hashes(reader.load(number).page_map, 7)

    assert opened == sorted(store.pages.iterdir())


def test_a_state_that_no_reader_would_take_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="over the limit"):
        store.writer.begin(info(0), bytes(MAX_STATE + 1))


def test_a_moment_that_no_header_can_hold_is_refused(store: Store) -> None:
    store.writer.begin(CheckpointInfo(0, 1 << 64, False, 0, 0, 0), STATE)

    with pytest.raises(ValueError, match="do not fit"):
        store.writer.commit()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_a_page_map_comes_back_as_it_was(ids: list[int]) -> None:
    assert decode_map(encode_map(array("Q", ids))).tolist() == ids


# ---- eviction ------------------------------------------------------------------------------------------------------

HISTORIES = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 80), st.integers(0, 30), max_size=60), st.integers(0, 3), st.booleans()
    ),
    min_size=1,
    max_size=12,
)
"""For each checkpoint: what changed, how many of the oldest go afterwards, and whether all of their pages do."""


def bytes_on_disk(store: Store) -> int:
    return sum(path.stat().st_size for path in (*store.checkpoints.iterdir(), *store.pages.iterdir()))


@settings(max_examples=80)
@given(history=HISTORIES, hashes=st.sampled_from([hash_pages, same_hash]))
def test_what_is_left_after_any_evictions_is_restored(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[dict[int, int], int, bool]],
    hashes: HashPages,
) -> None:
    store, oldest = Store(tmp_path_factory.mktemp("store"), hashes, evicts=True), 0

    for batch, count, all_of_it in history:
        store.add({number: page(value) for number, value in batch.items()})
        oldest = min(oldest + count, len(store.expected) - 1)
        store.writer.evict(oldest, all_of_it=all_of_it)
        assert store.writer.size == bytes_on_disk(store)

    reader = CheckpointReader(store.checkpoints, store.pages, hashes, first=oldest)
    assert [found.number for found in reader.infos] == list(range(oldest, len(history)))
    for number in range(oldest, len(history)):
        memory = store.expected[number]
        assert restored(reader, number) == nonzero(memory)
        assert reader.page_hashes(reader.load(number).page_map, 81) == hashes(
            b"".join(memory.get(at, page(0)) for at in range(81))
        )
        reader.verify_pages(number)


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_SIZE)


def test_a_store_that_evicts_for_ever_stays_as_small_as_what_it_keeps(tmp_path: Path) -> None:
    store, sizes = Store(tmp_path, evicts=True), []

    for number in range(60):
        store.add({(number * 7 + at) % 100: noise(number * 100 + at) for at in range(20)})
        store.writer.evict(max(0, number - 2))
        sizes.append(bytes_on_disk(store))

    # 100 pages of memory, what two later checkpoints changed, and a quarter of every file that is not needed.
    assert max(sizes) < (100 + 2 * 20) * PAGE_SIZE * 4 / 3 + 20_000


def test_evicting_all_of_it_leaves_no_page_that_nobody_needs(tmp_path: Path) -> None:
    store = Store(tmp_path, evicts=True)
    store.add({number: noise(number) for number in range(40)})
    store.add({number: noise(1000 + number) for number in range(5)})

    store.writer.evict(1)
    with_rest = bytes_on_disk(store)
    store.writer.evict(1, all_of_it=True)

    assert with_rest > 45 * PAGE_SIZE
    assert 40 * PAGE_SIZE < bytes_on_disk(store) < 41 * PAGE_SIZE


def test_a_reader_goes_on_while_pages_are_evicted(tmp_path: Path) -> None:
    store = Store(tmp_path, evicts=True)
    store.add({number: noise(number) for number in range(40)})
    store.add({number: noise(1000 + number) for number in range(20)})
    reader = store.reader
    loaded = reader.load(1)
    batches = loaded.batches()
    expected = dict(store.expected[1])

    store.writer.evict(1, all_of_it=True)

    found: dict[int, bytes] = {}
    for numbers, contents in batches:
        for place, (number,) in enumerate(struct.iter_unpack("<I", numbers)):
            found[number] = contents[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]
    assert found == expected


def test_a_page_that_went_is_stored_again_when_it_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path, evicts=True)
    store.add({1: page(7), 2: page(8)})
    store.add({1: page(9)})
    store.writer.evict(1, all_of_it=True)

    store.add({1: page(7)})

    assert restored(store.reader_from(1), 2) == {1: page(7), 2: page(8)}


def test_a_page_that_a_kept_checkpoint_needs_and_is_missing_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path, evicts=True)
    store.add({1: page(7), 2: page(8)})
    store.add({1: page(9)})
    store.writer.evict(1, all_of_it=True)
    (store.pages / "00000000.pages").unlink()

    with pytest.raises(CorruptError, match="page id 2 is missing"):
        restored(store.reader_from(1), 1)
