"""Images of disks: what is one, which one it is, and how it is kept where it outlives its own name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from revirt.errors import GuestError, HostError
from revirt.image import base
from revirt.image.base import BaseImage, Kept, changed_images, digests_kept, note_digest
from revirt.image.cache import cache_directory
from revirt.image.sparse import allocated_size, copy_sparse

CONTENTS = bytes(range(256)) * 40  # 20 sectors


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIRT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENTS)
    return path


class Hashing:
    """Notes that an image is hashed."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))


def is_known(path: Path) -> bool:
    """Return whether the digest of *path* is told without reading all of it."""
    hashing = Hashing()
    image = BaseImage.open(path)
    assert image.digest(hashing) == hashlib.sha256(path.read_bytes()).hexdigest()
    image.close()
    return not hashing.told


def fail_with(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


# -- what is an image -------------------------------------------------------------------------------------------


def test_an_image_has_whole_sectors_and_the_rest_of_the_last_reads_as_zeros(tmp_path: Path) -> None:
    (tmp_path / "odd.img").write_bytes(b"x" * 700)

    image = BaseImage.open(tmp_path / "odd.img")

    assert image.size == 1024
    assert image.read(512, 512) == b"x" * 188 + bytes(324)
    assert image.digest() == hashlib.sha256(b"x" * 700).hexdigest()


def test_what_is_no_file_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")

    for name, problem in (
        ("empty", "it is empty"),
        ("pipe", "it is not a file"),
        (".", "it is not a file"),
        ("nowhere", "No such file"),
    ):
        with pytest.raises(GuestError, match=problem):
            BaseImage.open(tmp_path / name)


def test_a_block_device_is_refused_and_it_is_said_how_to_make_an_image_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(os.stat(path))
    found[0] = stat.S_IFBLK | 0o660
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(found))

    with pytest.raises(GuestError, match="block device") as error:
        BaseImage.open(path)

    assert "dd if=" in error.value.hint


def test_what_the_host_cannot_read_is_named_by_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = BaseImage.open(path)
    monkeypatch.setattr(os, "pread", fail_with(errno.EIO))

    with pytest.raises(HostError, match=r"disk\.img cannot be read at byte 512: Input/output error"):
        image.read(512, 512)
    with pytest.raises(HostError, match="cannot be read at byte 0"):
        image.digest()


def test_what_comes_in_pieces_is_put_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, pread = BaseImage.open(path), os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 100), offset))

    assert image.read(256, 1024) == CONTENTS[256:1280]


@pytest.mark.parametrize("offset", [4096, 1 << 62, 1 << 72])
def test_what_a_guest_asks_for_behind_the_end_needs_no_reading(tmp_path: Path, offset: int) -> None:
    """A sector number of 64 bits is an offset that no system call takes: it raised OverflowError."""
    (tmp_path / "image").write_bytes(bytes(4096))
    image = BaseImage.open(tmp_path / "image")

    image.fetch(offset, 512)
    assert image.is_in_memory(offset, 512)


# -- which one it is --------------------------------------------------------------------------------------------


def test_an_image_is_hashed_once(path: Path) -> None:
    hashing = Hashing()

    BaseImage.open(path).digest(hashing)

    assert hashing.told == [(len(CONTENTS), len(CONTENTS))]
    assert is_known(path)


def test_an_image_is_hashed_again_if_asked(path: Path) -> None:
    hashing = Hashing()
    image = BaseImage.open(path)

    image.digest()
    image.digest(hashing, fresh=True)

    assert hashing.told


def test_an_image_that_was_changed_is_hashed_again_though_its_times_were_set_back(path: Path) -> None:
    assert not is_known(path)
    before = path.stat()

    path.write_bytes(CONTENTS[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert not is_known(path)


def test_an_image_that_changes_while_it_is_hashed_has_no_digest(path: Path) -> None:
    image = BaseImage.open(path)

    def change(*_: int) -> None:
        os.utime(path, ns=(0, 1))

    with pytest.raises(HostError, match="was changed while it was read"):
        image.digest(change)
    assert not image.is_unchanged
    assert changed_images([image], "too bad") == [
        f"the image of disk 0, {path}, was changed meanwhile: too bad"
    ]


def test_another_name_is_no_change(path: Path, tmp_path: Path) -> None:
    image = BaseImage.open(path)

    os.link(path, tmp_path / "other")

    assert image.is_unchanged
    assert not changed_images([image], "")


def test_no_more_than_so_many_digests_are_noted(path: Path, tmp_path: Path) -> None:
    for number in range(base._NOTED + 3):
        (tmp_path / f"{number}").touch()
        note_digest(tmp_path / f"{number}", "0" * 64)

    assert len(json.loads((cache_directory() / "digests.json").read_bytes())) == base._NOTED


@pytest.mark.parametrize("noted", [b"", b"[1]", b"{", b'{"a": 1}', b"[" * 100_000])
def test_notes_that_cannot_be_read_are_none(path: Path, noted: bytes) -> None:
    cache_directory().mkdir()
    (cache_directory() / "digests.json").write_bytes(noted)

    assert not is_known(path)
    assert is_known(path)


def test_without_a_cache_every_image_is_hashed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()

    assert not is_known(path)
    assert not is_known(path)


# -- keeping it -------------------------------------------------------------------------------------------------


@pytest.fixture
def image(path: Path) -> BaseImage:
    image = BaseImage.open(path)
    image.digest()
    return image


def test_it_is_cloned_where_the_file_system_can(
    image: BaseImage, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(source: int, target: int) -> bool:
        copy_sparse(source, target, os.fstat(source).st_size)
        return True

    monkeypatch.setattr(base, "clone", clone)

    assert image.keep(tmp_path / "kept") is Kept.CLONE

    assert is_known(tmp_path / "kept")
    path.write_bytes(b"x")
    assert image.read(0, len(CONTENTS)) == CONTENTS
    assert image.is_unchanged


def test_it_is_linked_to_where_it_cannot_be_cloned(
    image: BaseImage, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "clone", lambda *_: False)

    assert image.keep(tmp_path / "kept") is Kept.HARD_LINK

    assert is_known(tmp_path / "kept")
    assert is_known(path)
    path.unlink()
    assert (tmp_path / "kept").read_bytes() == CONTENTS


def test_a_link_is_made_to_the_file_and_not_to_a_link(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "clone", lambda *_: False)
    (tmp_path / "link").symlink_to("disk.img")

    BaseImage.open(tmp_path / "link").keep(tmp_path / "kept")

    assert not (tmp_path / "kept").is_symlink()
    assert (tmp_path / "kept").samefile(path)


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another file system."""
    monkeypatch.setattr(base, "clone", lambda *_: False)
    monkeypatch.setattr(os, "link", fail_with(errno.EXDEV))


@pytest.mark.usefixtures("_elsewhere")
def test_it_is_named_where_it_can_be_neither(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("disk.img")

    assert BaseImage.open(tmp_path / "link").keep(tmp_path / "kept") is Kept.SYMBOLIC_LINK

    assert os.readlink(tmp_path / "kept") == str(path.resolve())


@pytest.mark.usefixtures("_elsewhere")
def test_it_is_copied_with_its_holes_if_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "large.img"
    with path.open("wb") as file:
        file.write(b"x" * 5000)
        file.truncate(64 << 20)
    image = BaseImage.open(path)
    image.digest()

    assert image.keep(tmp_path / "kept", is_copied=True) is Kept.COPY

    assert is_known(tmp_path / "kept")
    assert allocated_size((tmp_path / "kept").stat()) < 1 << 20
    assert (tmp_path / "kept").read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("_elsewhere")
def test_a_copy_that_fails_leaves_nothing(
    image: BaseImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", fail_with(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        image.keep(tmp_path / "kept", is_copied=True)

    assert not os.path.lexists(tmp_path / "kept")


def test_nothing_is_overwritten(image: BaseImage, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        image.keep(tmp_path / "kept")

    assert (tmp_path / "kept").read_bytes() == b"mine"


def test_a_file_that_took_its_name_meanwhile_is_not_kept_for_it(
    image: BaseImage, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "clone", lambda *_: False)
    (tmp_path / "other").write_bytes(b"another")
    os.replace(tmp_path / "other", path)

    assert image.keep(tmp_path / "kept", is_copied=True) is Kept.COPY

    assert (tmp_path / "kept").read_bytes() == CONTENTS


def test_a_digest_stays_known_when_a_name_goes(image: BaseImage, path: Path, tmp_path: Path) -> None:
    os.link(path, tmp_path / "other")
    image.digest()

    with digests_kept([tmp_path / "other", tmp_path / "nowhere"]):
        (tmp_path / "other").unlink()

    assert is_known(path)


def test_a_digest_does_not_stay_known_when_the_file_changes_with_its_name(
    image: BaseImage, path: Path, tmp_path: Path
) -> None:
    with digests_kept([path]):
        path.write_bytes(CONTENTS[::-1])
        os.utime(path, ns=(0, 1))

    assert image.path == path
    assert not is_known(path)
