"""Renaming and moving recordings: never over something else, and whole at every moment."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from library import RecordingOf

from revirt.cli import main
from revirt.errors import (
    CorruptError,
    NoRecordingError,
    RecordingError,
    RecordingExistsError,
    UsageError,
)
from revirt.recording import (
    Manifest,
    Recording,
    is_recording,
    list_recordings,
    move,
    move_target,
    resolve,
)

Contents = dict[str, bytes]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def make(home: Path, recording_of: RecordingOf) -> Callable[..., Path]:
    """Return a function that puts a recording into the directory for them, as the latest."""

    def put(name: str, created: str = "2024-01-01T00:00:00+00:00", directory: Path = home) -> Path:
        path = shutil.copytree(recording_of("vuln", "host", checkpoint_every=700).path, directory / name)
        manifest = Manifest.read(path / "manifest.json")
        manifest.created = created
        (path / "manifest.json").write_text(manifest.to_json())
        if directory == home:
            (home / "latest").unlink(missing_ok=True)
            (home / "latest").symlink_to(name)
        return path

    return put


@pytest.fixture
def other_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to which nothing can be renamed from elsewhere."""
    directory = tmp_path / "other"
    directory.mkdir()
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(source).is_relative_to(directory) != Path(target).is_relative_to(directory):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    return directory


def contents(path: Path) -> Contents:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- within a file system ---------------------------------------------------------------------------------------


def test_a_recording_gets_another_name(make: Callable[..., Path], home: Path) -> None:
    path = make("one")
    before = contents(path)

    assert move(path, home / "two") == home / "two"

    assert not path.exists()
    assert contents(home / "two") == before


def test_latest_follows_the_recording_that_it_names(make: Callable[..., Path], home: Path) -> None:
    make("old", "2024-01-01T00:00:00+00:00")
    new = make("new", "2024-01-02T00:00:00+00:00")

    move(new, home / "renamed")

    assert os.readlink(home / "latest") == "renamed"
    assert resolve("latest") == home / "renamed"


def test_latest_stays_where_it_is_when_another_is_renamed(make: Callable[..., Path], home: Path) -> None:
    old = make("old", "2024-01-01T00:00:00+00:00")
    make("new", "2024-01-02T00:00:00+00:00")

    move(old, home / "renamed")

    assert os.readlink(home / "latest") == "new"


def test_latest_names_the_newest_that_is_left_behind(
    make: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    make("older", "2024-01-01T00:00:00+00:00")
    make("old", "2024-01-02T00:00:00+00:00")
    new = make("new", "2024-01-03T00:00:00+00:00")

    move(new, tmp_path / "elsewhere")

    assert os.readlink(home / "latest") == "old"


@pytest.mark.parametrize(("created", "latest"), [("2023", "there"), ("2025", "arrived")])
def test_latest_names_what_arrives_if_that_is_newer(
    created: str, latest: str, make: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    make("there", "2024-01-01T00:00:00+00:00")
    path = make("elsewhere", f"{created}-01-01T00:00:00+00:00", tmp_path)

    move(path, home / "arrived")

    assert os.readlink(home / "latest") == latest


def test_the_first_to_arrive_is_the_latest(make: Callable[..., Path], home: Path, tmp_path: Path) -> None:
    path = make("elsewhere", directory=tmp_path)

    move(path, home / "arrived")

    assert resolve("latest") == home / "arrived"


@pytest.mark.parametrize("kind", ["recording", "directory", "file", "link to nothing"])
def test_nothing_is_overwritten(kind: str, make: Callable[..., Path], home: Path) -> None:
    path, target = make("one"), home / "two"
    match kind:
        case "recording":
            make("two")
        case "directory":
            target.mkdir()
        case "file":
            target.write_text("precious")
        case _:
            target.symlink_to("nothing")
    before = contents(path), os.lstat(target)

    with pytest.raises(RecordingExistsError) as caught:
        move(path, target)

    assert "another name" in caught.value.hint
    assert (contents(path), os.lstat(target)) == before


def test_a_recording_is_not_moved_onto_or_into_itself(make: Callable[..., Path], home: Path) -> None:
    path = make("one")
    before = contents(path)

    with pytest.raises(RecordingExistsError):
        move(path, path)
    with pytest.raises(UsageError, match="inside the recording"):
        move(path, path / "log/two")

    assert contents(path) == before


def test_a_recording_in_the_making_stays_where_it_is(make: Callable[..., Path], home: Path) -> None:
    path = make("one")

    with open(path / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecordingError, match="still being recorded"):
            move(path, home / "two")

    assert names(home) == ["latest", "one"]


def test_a_damaged_recording_can_be_renamed(make: Callable[..., Path], home: Path) -> None:
    path = make("one")
    (path / "manifest.json").write_text("{")

    move(path, home / "two")

    assert (home / "two/manifest.json").read_text() == "{"


def test_what_is_not_a_recording_is_not_moved(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to(make("one"))

    for path in (tmp_path / "project", tmp_path / "link", tmp_path / "nothing"):
        with pytest.raises(NoRecordingError):
            move(path, tmp_path / "two")


def test_a_directory_that_is_missing_is_named(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file or directory") as caught:
        move(make("one"), tmp_path / "missing/two")

    assert caught.value.hint == "make the directory first"


def test_a_name_that_no_file_can_have_is_refused(make: Callable[..., Path], home: Path) -> None:
    path = make("one")

    with pytest.raises(RecordingError, match="cannot move"):
        move(path, home / ("x" * 300))

    assert names(home) == ["latest", "one"]


# -- between file systems ---------------------------------------------------------------------------------------


def test_between_file_systems_everything_is_copied_and_then_deleted(
    make: Callable[..., Path], home: Path, other_file_system: Path
) -> None:
    path = make("one")
    (path / "notes").mkdir()
    (path / "notes/mine.txt").write_text("mine")
    (path / "manifest.json").chmod(0o440)
    before = contents(path)
    times = {name: os.stat(path / name).st_mtime_ns for name in before}

    move(path, other_file_system / "two")

    target = other_file_system / "two"
    assert contents(target) == before
    assert {name: os.stat(target / name).st_mtime_ns for name in before} == times
    assert os.stat(target / "manifest.json").st_mode & 0o777 == 0o440
    assert list(Recording.open(target).verify()) == []
    assert not path.exists()
    assert names(other_file_system) == ["two"]
    assert not (home / "latest").is_symlink()


def test_a_real_other_file_system(make: Callable[..., Path], tmp_path: Path) -> None:
    """Where the host has memory as a file system; else both are one, which must work all the same."""
    path = make("one")
    before = contents(path)
    other = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    target = other / f"revirt-test-{os.getpid()}"

    try:
        move(path, target)

        assert contents(target) == before
        assert not path.exists()
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_damage_stays_where_it_is(make: Callable[..., Path], home: Path, other_file_system: Path) -> None:
    path = make("one")
    victim = path / "pages/00000000.pages"
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    before = contents(path)

    with pytest.raises(CorruptError, match="chunk 0 does not match") as caught:
        move(path, other_file_system / "two")

    assert caught.value.path == victim
    assert contents(path) == before
    assert names(other_file_system) == []


def test_a_damaged_manifest_is_named_where_it_is(make: Callable[..., Path], other_file_system: Path) -> None:
    path = make("one")
    (path / "manifest.json").write_text("{")

    with pytest.raises(CorruptError) as caught:
        move(path, other_file_system / "two")

    assert caught.value.path == path / "manifest.json"
    assert names(other_file_system) == []


def test_a_copy_that_is_not_the_same_is_not_kept(
    make: Callable[..., Path], other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("one")
    (path / "notes.txt").write_text("mine")
    before = contents(path)
    copy2 = shutil.copy2

    def spoil(source: Path, target: Path, *, follow_symlinks: bool) -> None:
        copy2(source, target, follow_symlinks=follow_symlinks)
        if source.name == "notes.txt":
            target.write_text("mind")

    monkeypatch.setattr(shutil, "copy2", spoil)
    with pytest.raises(CorruptError, match=r"notes\.txt: changed while it was being copied"):
        move(path, other_file_system / "two")

    assert contents(path) == before
    assert names(other_file_system) == []


class StoppedError(BaseException):
    """As if somebody had pressed Ctrl-C."""


def fail_at(call: int, act: Callable[..., None], failure: BaseException) -> Callable[..., None]:
    """Return a function that does as *act*, but raises *failure* when called for the time *call*, from 0."""
    calls = count()

    def fail(*arguments: object, **options: object) -> None:
        if next(calls) == call:
            raise failure
        act(*arguments, **options)

    return fail


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), StoppedError()])
def test_a_copy_that_is_cut_short_anywhere_leaves_the_source(
    failure: BaseException,
    make: Callable[..., Path],
    other_file_system: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, target = make("one"), other_file_system / "two"
    before = contents(path)
    sync = os.fsync

    for call in count():
        monkeypatch.setattr(os, "fsync", fail_at(call, sync, failure))
        try:
            move(path, target)
            break
        except (RecordingError, StoppedError):
            assert contents(path) == before
            assert resolve("latest") == path
            # The last call of all comes behind the renaming.
            assert names(other_file_system) in ([], ["two"])
            if target.exists():
                assert contents(target) == before
                shutil.rmtree(target)

    assert call > len(before)
    assert contents(target) == before
    assert not path.exists()


def test_a_deletion_that_is_cut_short_anywhere_leaves_one_recording(
    make: Callable[..., Path], other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Path.unlink
    whole = contents(make("model"))

    for call in range(1, len(whole)):
        path, target = make(f"from{call}"), other_file_system / f"to{call}"
        before = contents(path)
        monkeypatch.setattr(Path, "unlink", fail_at(call, delete, StoppedError()))
        with pytest.raises(StoppedError):
            move(path, target)

        monkeypatch.setattr(Path, "unlink", delete)
        assert contents(target) == before
        assert not is_recording(path)
        assert resolve("latest") != path


def test_while_it_is_copied_the_copy_is_not_listed(
    make: Callable[..., Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("elsewhere", directory=tmp_path)
    listed = []
    rename, verify = os.rename, Recording.verify

    def refuse(source: Path, target: Path) -> None:
        if Path(source) == path:
            raise OSError(errno.EXDEV, "other device")
        rename(source, target)

    def look(recording: Recording) -> object:
        listed.append(list_recordings())
        return verify(recording)

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(Recording, "verify", look)
    move(path, home / "arrived")

    assert listed == [[]]
    assert list_recordings() == [home / "arrived"]


def test_a_link_in_a_recording_is_not_copied(
    make: Callable[..., Path], tmp_path: Path, other_file_system: Path
) -> None:
    path = make("one")
    (tmp_path / "precious").write_text("keep")
    (path / "log/link").symlink_to(tmp_path / "precious")

    with pytest.raises(RecordingError, match=r"log/link, which is neither a file nor a directory"):
        move(path, other_file_system / "two")

    assert (path / "log/link").is_symlink()
    assert names(other_file_system) == []


def test_a_fifo_in_a_recording_does_not_hang(make: Callable[..., Path], other_file_system: Path) -> None:
    path = make("one")
    os.mkfifo(path / "fifo")

    with pytest.raises(RecordingError, match="neither a file nor a directory"):
        move(path, other_file_system / "two")


def test_what_appears_in_the_source_meanwhile_is_not_deleted(
    make: Callable[..., Path], other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("one")
    verify = Recording.verify

    def add(recording: Recording) -> object:
        (path / "log/late.txt").write_text("late")
        return verify(recording)

    monkeypatch.setattr(Recording, "verify", add)
    with pytest.raises(RecordingError, match="two is whole, but what it was copied from cannot be deleted"):
        move(path, other_file_system / "two")

    assert contents(path) == {"log/late.txt": b"late"}
    assert list(verify(Recording.open(other_file_system / "two"))) == []


# -- names ------------------------------------------------------------------------------------------------------


def test_a_name_is_one_beside_the_old(make: Callable[..., Path], home: Path) -> None:
    assert move_target(make("one"), "two") == home / "two"


def test_an_existing_directory_is_moved_into(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make("one")
    (tmp_path / "evidence").mkdir()

    assert move_target(path, f"{tmp_path}/evidence") == tmp_path / "evidence/one"
    assert move_target(path, f"{tmp_path}/evidence/new") == tmp_path / "evidence/new"
    assert move_target(path, ".") == Path("one")
    assert move_target(path, "..") == Path("../one")


def test_another_recording_is_not_moved_into(make: Callable[..., Path], home: Path) -> None:
    one, two = make("one"), make("two")

    assert move_target(one, str(two)) == two


@pytest.mark.parametrize("text", ["", "latest", "a/latest", "a\0b"])
def test_what_cannot_be_the_name_of_a_recording_is_refused(text: str, make: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        move_target(make("one"), text)


def test_the_command_prints_where_it_is_now(
    make: Callable[..., Path], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("one")

    assert main(["mv", "one", "two"]) == 0
    assert capsys.readouterr().out == f"{home}/two\n"
    assert main(["mv", "latest", "three", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"from": f"{home}/two", "path": f"{home}/three"}
    assert main(["mv", "two", "three"]) == 4
