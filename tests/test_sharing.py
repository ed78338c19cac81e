"""Files of pages that are in two recordings."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from revirt.checkpoint import Base, CheckpointInfo, CheckpointReader, CheckpointWriter, LoadedCheckpoint
from revirt.checkpoint.format import CHUNK_PAGES, PAGE_SIZE
from revirt.checkpoint.pages import PageFile
from revirt.checkpoint.sharing import share_pages
from revirt.checkpoint.store import copy_pages
from revirt.errors import CorruptError

COUNT = 3 * CHUNK_PAGES


def page(value: int) -> bytes:
    return value.to_bytes(4, "little") * (PAGE_SIZE // 4)


def add(writer: CheckpointWriter, number: int, pages: dict[int, bytes]) -> None:
    writer.begin(CheckpointInfo(number, 100 * number, False, 0, 0, 10 * number + 1), b"state")
    writer.add_pages(struct.pack(f"<{len(pages)}I", *pages), b"".join(pages.values()))
    writer.commit()


def directories(path: Path) -> tuple[Path, Path]:
    for name in ("checkpoints", "pages"):
        (path / name).mkdir(parents=True)
    return path / "checkpoints", path / "pages"


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedCheckpoint:
    """A checkpoint that needs all chunks but the first of what was stored before it."""
    places = directories(tmp_path / "parent")
    writer = CheckpointWriter(*places)
    add(writer, 0, {number: page(number + 1) for number in range(COUNT)})
    add(writer, 1, {number: page(number + 1000) for number in range(CHUNK_PAGES)})
    return CheckpointReader(*places).load(1)


def memory_of(loaded: LoadedCheckpoint) -> dict[int, bytes]:
    return {
        number: contents[PAGE_SIZE * index : PAGE_SIZE * (index + 1)]
        for numbers, contents in loaded.batches()
        for index, (number,) in enumerate(struct.iter_unpack("<I", numbers))
    }


def first_file(loaded: LoadedCheckpoint) -> PageFile:
    return loaded.reader.page_file(0)


def spoil(file: PageFile, chunk: int) -> None:
    data = bytearray(file.path.read_bytes())
    data[file.offsets[chunk] + 3] ^= 1
    file.path.write_bytes(data)


def test_checkpoints_behind_a_base_have_its_pages_and_their_own(
    loaded: LoadedCheckpoint, tmp_path: Path
) -> None:
    places = directories(tmp_path / "child")

    share_pages(loaded, places[1])
    base = Base(loaded.page_map, loaded.next_page, loaded.info.number + 1)
    add(
        CheckpointWriter(*places, base=base),
        2,
        {5: page(77), COUNT + 4: page(78)},
    )

    found = CheckpointReader(*places, first=2)
    assert memory_of(found.load(2)) == {**memory_of(loaded), 5: page(77), COUNT + 4: page(78)}
    found.verify_pages(2)
    assert (places[1] / "00000000.pages").samefile(first_file(loaded).path)
    assert not (places[1] / "00000003.pages").exists()


def test_of_a_file_that_is_damaged_what_is_needed_is_copied(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    _, pages = directories(tmp_path / "child")
    spoil(first_file(loaded), 0)

    share_pages(loaded, pages)

    copied = PageFile.open(pages / "00000000.pages")
    assert list(copied.ids) == list(range(CHUNK_PAGES + 1, COUNT + 1))
    assert not copied.path.samefile(first_file(loaded).path)


def test_damage_to_what_is_needed_is_an_error(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    _, pages = directories(tmp_path / "child")
    spoil(first_file(loaded), 1)

    with pytest.raises(CorruptError, match="chunk 1 does not match its check"):
        share_pages(loaded, pages)


def test_a_file_that_another_takes_the_place_of_meanwhile_is_looked_at(
    loaded: LoadedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pages = directories(tmp_path / "child")
    file, link = first_file(loaded), os.link

    def evict_and_link(path: Path, target: Path, **options: bool) -> None:
        copy_pages(file, range(CHUNK_PAGES + 2, COUNT + 1), path)
        link(path, target, **options)

    monkeypatch.setattr(os, "link", evict_and_link)

    with pytest.raises(CorruptError, match=f"page id {CHUNK_PAGES + 1} is missing"):
        share_pages(loaded, pages)


def test_a_file_that_cannot_be_linked_is_copied(
    loaded: LoadedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    _, pages = directories(tmp_path / "child")

    share_pages(loaded, pages)

    assert [path.stat().st_nlink for path in sorted(pages.iterdir())] == [1, 1]
