"""A recording as one file: the same one every time, and a recording again, whatever happens on the way."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from countdown import Countdown
from library import RecordingOf

from revirt.errors import (
    CorruptError,
    FormatVersionError,
    HostError,
    NoRecordingError,
    RecordingError,
    RecordingExistsError,
)
from revirt.image import guests
from revirt.recording import (
    PackReport,
    Recording,
    RecordingState,
    RecordingWriter,
    pack,
    pack_to,
    unpack,
)
from revirt.recording.manifest import NAME, Manifest

BUNDLED = [guest.name for guest in guests() if guest.recipe is None]
SEGMENT = "log/00000000.seg"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hello(recording_of: RecordingOf, tmp_path: Path) -> Path:
    """A copy of a recording, to do things to."""
    return Path(shutil.copytree(recording_of("hello", "virtual").path, tmp_path / "hello"))


def packed(recording: Path, **options: Any) -> bytes:
    out = io.BytesIO()
    pack_to(recording, out, **options)
    return out.getvalue()


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# -- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLED)
def test_what_was_packed_and_unpacked_replays_exactly(
    name: str, recording_of: RecordingOf, replay_elsewhere: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    recording = recording_of(name, "host")

    pack(recording.path, tmp_path / "a.revirt", with_disks=True)
    unpack(tmp_path / "a.revirt", tmp_path / "again")

    report = replay_elsewhere(Recording.open(tmp_path / "again"))
    assert (report["status"], report["exact"]) == (0, True), report
    assert report["branches"] == recording.manifest.end["branches"]


def test_every_file_comes_back_and_the_lock_is_made_anew(hello: Path, tmp_path: Path) -> None:
    (hello / "lock").write_text("what a lock does not have")

    made = pack(hello, tmp_path / "a.revirt")
    unpacked = unpack(tmp_path / "a.revirt", tmp_path / "again")

    assert contents(tmp_path / "again") == {**contents(hello), "lock": b""}
    assert made.path == tmp_path / "a.revirt"
    assert unpacked.path == tmp_path / "again"
    assert (made.size, made.digest, made.files) == (unpacked.size, unpacked.digest, unpacked.files)
    assert made.size == (tmp_path / "a.revirt").stat().st_size
    assert made.files == len(contents(hello)) - 1
    assert made.uuid == unpacked.uuid == Recording.open(hello).manifest.uuid
    assert made.problems == unpacked.problems == 0


def test_a_recording_whose_recorder_died_is_packed_as_it_is(hello: Path, tmp_path: Path) -> None:
    forget_the_end(hello)

    pack(hello, tmp_path / "a.revirt")
    unpack(tmp_path / "a.revirt", tmp_path / "again")

    again = Recording.open(tmp_path / "again")
    assert again.state is RecordingState.INTERRUPTED
    assert list(again.events()) == list(Recording.open(hello).events())


def forget_the_end(path: Path) -> None:
    contents = Manifest.read(path / NAME)
    contents.state, contents.end = RecordingState.RECORDING, None
    (path / NAME).write_text(contents.to_json())


def test_directories_without_files_come_back(hello: Path, tmp_path: Path) -> None:
    with RecordingWriter.create(tmp_path / "empty", Manifest.read(hello / NAME)):
        pass

    pack(tmp_path / "empty", tmp_path / "a.revirt")
    unpack(tmp_path / "a.revirt", tmp_path / "again")

    assert list(Recording.open(tmp_path / "again").verify()) == []


def test_a_large_recording_is_packed_and_unpacked_in_pieces(hello: Path, tmp_path: Path) -> None:
    """What is on the disk may be larger than memory; no more of it is ever held than a few pieces."""
    with open(hello / "pages/00000007.pages", "wb") as file:
        file.truncate(64 << 20)

    tracemalloc.start()
    pack(hello, tmp_path / "a.revirt", force=True)
    unpack(tmp_path / "a.revirt", tmp_path / "again", force=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (tmp_path / "again/pages/00000007.pages").stat().st_size == 64 << 20
    assert peak < 16 << 20


# -- the same bytes ---------------------------------------------------------------------------------------------


def test_two_packs_of_a_recording_are_the_same(hello: Path) -> None:
    assert packed(hello) == packed(hello)


def test_where_and_when_a_recording_lies_makes_no_difference(hello: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "of another name"
    for name, data in sorted(contents(hello).items(), reverse=True):
        path = other / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o400)
        os.utime(path, (1, 1 << 31))

    assert packed(other) == packed(hello)


def test_a_pack_of_what_was_unpacked_is_the_same(hello: Path, tmp_path: Path) -> None:
    pack(hello, tmp_path / "a.revirt")
    unpack(tmp_path / "a.revirt", tmp_path / "again")

    assert packed(tmp_path / "again") == (tmp_path / "a.revirt").read_bytes()


def test_what_a_dead_recorder_was_writing_is_not_packed(hello: Path) -> None:
    before = packed(hello)
    for name in (f"{NAME}.tmp", "log/00000009.seg.tmp", "pages/00000009.pages.tmp"):
        (hello / name).write_bytes(b"half")

    report = pack_to(hello, out := io.BytesIO())

    assert out.getvalue() == before
    assert report.left_out == ()


def test_foreign_files_are_left_out_and_named(hello: Path) -> None:
    before = packed(hello)
    (hello / "notes.txt").write_text("mine")
    (hello / "log/00000000.seg.orig").write_text("mine")
    (hello / "pages/00000000.ckpt").write_text("not here")
    (hello / "log/deeper").mkdir()

    report = pack_to(hello, out := io.BytesIO())

    assert out.getvalue() == before
    assert sorted(report.left_out) == [
        "log/00000000.seg.orig",
        "log/deeper",
        "notes.txt",
        "pages/00000000.ckpt",
    ]


# -- other programs ---------------------------------------------------------------------------------------------


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=cwd, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_a_pack_is_what_tar_makes_of_the_same_files(hello: Path, tmp_path: Path) -> None:
    pack(hello, tmp_path / "a.revirt")
    names = run("tar", "-tf", "a.revirt", cwd=tmp_path).split()
    run("tar", "-xf", "a.revirt", cwd=tmp_path)

    like_ours = (
        "--format=ustar",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--mode=644",
        "-b1",
    )
    run("tar", *like_ours, "-cf", "tar.revirt", *names, cwd=tmp_path)

    assert names[:2] == ["revirt.pack", "recording/manifest.json"]
    assert (tmp_path / "tar.revirt").read_bytes() == (tmp_path / "a.revirt").read_bytes()
    assert contents(tmp_path / "recording") == {k: v for k, v in contents(hello).items() if k != "lock"}


def test_b2sum_checks_what_tar_took_out(hello: Path, tmp_path: Path) -> None:
    pack(hello, tmp_path / "a.revirt")
    run("tar", "-xf", "a.revirt", cwd=tmp_path)

    said = run("b2sum", "--check", "--strict", "revirt.pack", cwd=tmp_path).splitlines()

    assert said == [
        f"recording/{name}: OK" for name in sorted(contents(tmp_path / "recording"), key=by_place)
    ]


def by_place(name: str) -> tuple[bool, str]:
    return name != NAME, name


def test_the_digest_of_a_pack_is_what_b2sum_says(hello: Path, tmp_path: Path) -> None:
    report = pack(hello, tmp_path / "a.revirt")

    assert run("b2sum", "-l", "256", "a.revirt", cwd=tmp_path).split()[0] == report.digest.hex()


# -- what is not packed -----------------------------------------------------------------------------------------


def assert_refused(error: type[RecordingError], match: str, recording: Path, **options: Any) -> None:
    target = recording.parent / "refused.revirt"
    before = set(recording.parent.iterdir())
    with pytest.raises(error, match=match):
        pack(recording, target, **options)
    assert set(recording.parent.iterdir()) == before


@pytest.mark.parametrize("force", [False, True])
def test_what_is_being_recorded_is_not_packed(force: bool, hello: Path, tmp_path: Path) -> None:
    with RecordingWriter.create(tmp_path / "live", Manifest.read(hello / NAME)):
        assert_refused(RecordingError, "still being recorded", tmp_path / "live", force=force)

        flip(tmp_path / "live" / NAME)
        assert_refused(RecordingError, "still being recorded", tmp_path / "live", force=force)


@pytest.mark.parametrize("name", [SEGMENT, "checkpoints/00000000.ckpt", "pages/00000000.pages", NAME])
def test_a_damaged_recording_is_packed_and_unpacked_by_force_only(
    name: str, hello: Path, tmp_path: Path
) -> None:
    flip(hello / name, 60)
    assert_refused(CorruptError, name, hello)

    report = pack(hello, tmp_path / "a.revirt", force=True)
    with pytest.raises(CorruptError, match=name) as caught:
        unpack(tmp_path / "a.revirt", tmp_path / "again")
    assert caught.value.path == tmp_path / "a.revirt"
    assert not (tmp_path / "again").exists()

    unpacked = unpack(tmp_path / "a.revirt", tmp_path / "again", force=True)
    assert report.problems == unpacked.problems > 0
    assert contents(tmp_path / "again") == contents(hello)


def test_a_refusal_counts_the_other_problems(hello: Path) -> None:
    flip(hello / "checkpoints/00000000.ckpt")
    flip(hello / SEGMENT)

    assert_refused(CorruptError, f"{SEGMENT}: .*, and 1 more", hello)


def test_a_recording_of_a_newer_format_is_refused_also_by_force(hello: Path) -> None:
    (hello / NAME).write_text((hello / NAME).read_text().replace('"format": 1', '"format": 9'))

    assert_refused(FormatVersionError, "format version 9", hello, force=True)


def test_what_is_no_recording_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()

    assert_refused(NoRecordingError, "not a recording", tmp_path / "x")


@pytest.mark.parametrize("name", [SEGMENT, "log"])
def test_links_are_not_followed(name: str, hello: Path, tmp_path: Path) -> None:
    (hello / name).rename(tmp_path / "moved")
    (hello / name).symlink_to(tmp_path / "moved")

    assert_refused(CorruptError, "is a link", hello)


def test_a_pipe_in_place_of_a_file_is_refused(hello: Path) -> None:
    (hello / SEGMENT).unlink()
    os.mkfifo(hello / SEGMENT)

    assert_refused(CorruptError, "not a regular file", hello, force=True)


def test_a_file_that_does_not_fit_is_refused_before_it_is_read(hello: Path) -> None:
    with open(hello / "pages/00000007.pages", "wb") as file:
        file.truncate(8 << 30)

    assert_refused(CorruptError, "pages/00000007.pages: larger than a pack can hold", hello, force=True)


@pytest.mark.parametrize("change", [lambda path: flip(path), lambda path: path.write_bytes(b"")])
def test_a_file_that_changes_meanwhile_ends_it(change: Callable[[Path], None], hello: Path) -> None:
    stages: set[str] = set()

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "packing" and what not in stages:
            change(hello / SEGMENT)
        stages.add(what)

    assert_refused(RecordingError, "changed while it was being packed", hello, progress=progress)
    assert stages == {"checking", "hashing", "packing"}


# -- where a pack goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_pack_takes_nobodys_place(make: Callable[[Path], None], hello: Path, tmp_path: Path) -> None:
    make(tmp_path / "refused.revirt")

    assert_refused(RecordingExistsError, "exists already", hello)


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_meanwhile_stays(
    has_links: bool, hello: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr("os.link", raise_not_permitted)

    def progress(what: str, done: int, total: int | None) -> None:
        (tmp_path / "a.revirt").write_text("mine")

    before = {*tmp_path.iterdir(), tmp_path / "a.revirt"}
    with pytest.raises(RecordingExistsError):
        pack(hello, tmp_path / "a.revirt", progress=progress)

    assert (tmp_path / "a.revirt").read_text() == "mine"
    assert set(tmp_path.iterdir()) == before


def raise_not_permitted(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_file_system_without_links_will_do(
    hello: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", raise_not_permitted)

    pack(hello, tmp_path / "a.revirt")

    assert (tmp_path / "a.revirt").read_bytes() == packed(hello)
    assert set(tmp_path.iterdir()) == {hello, tmp_path / "a.revirt"}


def test_a_pack_does_not_go_into_the_recording(hello: Path) -> None:
    with pytest.raises(RecordingError, match="inside the recording"):
        pack(hello, hello / "log" / "a.revirt")


def test_a_place_that_cannot_be_written_is_named(hello: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"nowhere/a\.revirt: No such file or directory"):
        pack(hello, tmp_path / "nowhere" / "a.revirt")


def test_an_interrupt_at_any_moment_leaves_no_pack(hello: Path, tmp_path: Path) -> None:
    for allowed in itertools.count():
        try:
            pack(hello, tmp_path / "a.revirt", progress=Countdown(allowed, KeyboardInterrupt()))
            break
        except KeyboardInterrupt:
            assert set(tmp_path.iterdir()) == {hello}

    assert allowed > 10
    assert (tmp_path / "a.revirt").read_bytes() == packed(hello)


class FullDisk(io.BytesIO):
    """Takes *room* bytes, in pieces as small as a file may take them, and no more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = super().write(bytes(data[: min(self.room, 700)]))
        self.room -= taken
        return taken


def test_a_stream_gets_all_of_it_however_little_it_takes_at_a_time(hello: Path) -> None:
    out = FullDisk(1 << 20)

    pack_to(hello, out)

    assert out.getvalue() == packed(hello)


def test_a_full_disk_is_an_error_of_the_host_and_leaves_no_pack(
    hello: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(packed(hello))
    for room in (0, 1, 512, size // 2, size - 1):

        def full(recording: Path, out: object, room: int = room, **options: Any) -> PackReport:
            return pack_to(recording, FullDisk(room), **options)

        monkeypatch.setattr("revirt.recording.packing.pack_to", full)
        with pytest.raises(HostError, match=r"a.revirt: No space left on device"):
            pack(hello, tmp_path / "a.revirt")

        assert set(tmp_path.iterdir()) == {hello}


def test_a_disk_that_fails_at_the_end_leaves_no_pack(
    hello: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(HostError, match="Input/output error"):
        pack(hello, tmp_path / "a.revirt")

    assert set(tmp_path.iterdir()) == {hello}
