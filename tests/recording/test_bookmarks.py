"""Bookmarks in a file beside the recording, which is not touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from library import RecordingOf

from revirt.cli import main
from revirt.errors import CorruptError, FormatVersionError, HostError, RecordingError, UsageError
from revirt.position import Position
from revirt.recording import Recording
from revirt.recording.notes import SIZE_LIMIT, Bookmark, Notes


@pytest.fixture
def attack(recording_of: RecordingOf, tmp_path: Path) -> Recording:
    """The attack, in a directory of its own."""
    path = tmp_path / "attack"
    shutil.copytree(recording_of("vuln").path, path)
    return Recording.open(path)


HERE = Bookmark("here", Position(5, 2), "it came in here")


def contents(path: Path) -> dict[Path, bytes]:
    """Return what is in all files below *path*."""
    return {each: each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


def test_bookmarks_are_there_the_next_time(attack: Recording) -> None:
    notes = Notes(attack)
    notes.set(Bookmark("later", Position(9), ""))
    notes.set(HERE)

    assert Notes(attack).all == [HERE, Bookmark("later", Position(9))]
    notes.remove("later")
    assert Notes(attack).all == [HERE]


def test_the_recording_itself_is_not_touched(attack: Recording) -> None:
    before = contents(attack.path)

    notes = Notes(attack)
    notes.set(HERE)

    assert contents(attack.path) == before
    assert notes.path == attack.path.parent / "attack.notes.json"
    assert [each.name for each in sorted(attack.path.parent.iterdir())] == ["attack", "attack.notes.json"]


def test_what_somebody_else_noted_meanwhile_is_kept(attack: Recording) -> None:
    one, other = Notes(attack), Notes(attack)

    one.set(HERE)
    other.set(Bookmark("there", Position(1)))

    assert {each.name for each in Notes(attack).all} == {"here", "there"}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "\x1b[2J"])
def test_what_is_no_name_is_refused(attack: Recording, name: str) -> None:
    with pytest.raises(UsageError):
        Notes(attack).set(Bookmark(name, Position(1)))


@pytest.mark.parametrize("note", ["x" * 2001, "two\nlines", "\x1b[2J"])
def test_what_is_no_note_is_refused(attack: Recording, note: str) -> None:
    with pytest.raises(UsageError):
        Notes(attack).set(Bookmark("name", Position(1), note))


def test_a_bookmark_that_is_not_there_is_refused_with_those_that_are(attack: Recording) -> None:
    notes = Notes(attack)
    notes.set(HERE)

    with pytest.raises(UsageError) as caught:
        notes.get("nowhere")

    assert "here" in caught.value.hint


def entry(**changed: object) -> dict[str, object]:
    return {"name": "a", "position": "1:0", "note": "", **changed}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"format": 1}).encode(),
        json.dumps({"format": 0, "recording": "UUID", "bookmarks": []}).encode(),
        json.dumps({"format": 1, "recording": "UUID", "bookmarks": [1]}).encode(),
        json.dumps({"format": 1, "recording": "UUID", "bookmarks": [entry(name="\x1b[2J")]}).encode(),
        json.dumps({"format": 1, "recording": "UUID", "bookmarks": [entry(position="x")]}).encode(),
        json.dumps({"format": 1, "recording": "UUID", "bookmarks": [entry(note="a\nb")]}).encode(),
        json.dumps({"format": 1, "recording": "UUID", "bookmarks": [entry(note=5)]}).encode(),
        json.dumps({"format": 1, "recording": "UUID", "bookmarks": [entry(), entry()]}).encode(),
        b" " * (SIZE_LIMIT + 1),
    ],
)
def test_a_file_that_is_none_of_ours_is_named(attack: Recording, damage: bytes) -> None:
    path = attack.path.parent / "attack.notes.json"
    path.write_bytes(damage.replace(b"UUID", attack.manifest.uuid.encode()))

    with pytest.raises(CorruptError, match=r"attack\.notes\.json"):
        Notes(attack)


def test_notes_of_a_newer_revirt_are_refused_by_version(attack: Recording) -> None:
    (attack.path.parent / "attack.notes.json").write_text('{"format": 2}')

    with pytest.raises(FormatVersionError, match="version 2"):
        Notes(attack)


def test_notes_of_another_recording_are_not_taken_for_its_own(attack: Recording) -> None:
    plain = {"format": 1, "recording": "another", "bookmarks": []}
    (attack.path.parent / "attack.notes.json").write_text(json.dumps(plain))

    with pytest.raises(RecordingError, match="another recording"):
        Notes(attack)


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(attack: Recording, kind: str) -> None:
    path = attack.path.parent / "attack.notes.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")

    with pytest.raises(RecordingError):
        Notes(attack)


def test_a_directory_that_cannot_be_written_to_is_named(
    attack: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes(attack)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)

    with pytest.raises(HostError, match="Permission denied"):
        notes.set(HERE)
    assert notes.all == []
    assert [each.name for each in attack.path.parent.iterdir()] == ["attack"]


def test_notes_go_where_the_recording_is_moved_and_deleted_with_it(attack: Recording, tmp_path: Path) -> None:
    Notes(attack).set(HERE)

    assert main(["mv", str(attack.path), str(tmp_path / "case-7")]) == 0

    moved = Recording.open(tmp_path / "case-7")
    assert Notes(moved).all == [HERE]
    assert main(["rm", "-f", str(moved.path)]) == 0
    assert list(tmp_path.iterdir()) == []
