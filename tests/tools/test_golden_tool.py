"""`tools/golden.py`: golden recordings are made once, and whatever changes afterwards is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import pytest
from goldens.check import check, check_directory
from goldens.make import INDEX, make, read_index
from goldens.table import TABLE, Golden

from revirt.errors import HostError, RecordingExistsError

BY_NAME = {each.name: each for each in TABLE}
NAMES = ("hello", "vuln")
"""A pack, and a directory."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two golden recordings."""
    directory = tmp_path_factory.mktemp("golden") / "v1"
    assert golden.main(["make", *NAMES, "--directory", str(directory)]) == 0
    return directory


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "v1"))


def change_index(directory: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    index = read_index(directory)
    change(index[name])
    (directory / INDEX).write_text(json.dumps(index))


def problems(directory: Path) -> list[str]:
    return [problem for name in NAMES for problem in check(directory, name)]


def test_what_was_made_is_as_it_was(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = golden.main(["check", *NAMES, "--directory", str(made)])

    assert status == 0
    assert capsys.readouterr().out == "hello: as it was\nvuln: as it was\n"


def test_the_readme_lists_what_was_made(made: Path) -> None:
    text = (made / "README.md").read_text()

    assert f"| `hello.revirt` | {BY_NAME['hello'].what} |" in text
    assert f"| `vuln` | {BY_NAME['vuln'].what} |" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_that_is_there_is_not_made_again(
    made: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (made / INDEX).read_bytes()

    status = golden.main(["make", name, "--directory", str(made)])

    assert status == 4
    assert "never made again" in capsys.readouterr().err
    assert (made / INDEX).read_bytes() == before


def test_a_recording_whose_file_went_is_not_made_again(copy: Path) -> None:
    (copy / "hello.revirt").unlink()

    with pytest.raises(RecordingExistsError, match=r"index\.json"):
        make(copy, BY_NAME["hello"])


def test_what_is_kept_beside_a_recording_is_in_the_index(tmp_path: Path) -> None:
    beside = replace(BY_NAME["hello"], beside={"name.script": "hello.script"})

    make(tmp_path / "v1", beside)

    entry = read_index(tmp_path / "v1")["hello"]
    assert sorted(entry["files"]) == ["hello.revirt", "hello.script"]
    (tmp_path / "v1" / "hello.script").write_text("other")
    assert "hello.script is not the file that it was" in list(check(tmp_path / "v1", "hello"))


def test_a_step_that_ends_otherwise_than_it_should_is_an_error(tmp_path: Path) -> None:
    (step,) = BY_NAME["hello"].steps
    wrong = Golden("hello", "", (replace(step, status=1),))

    with pytest.raises(HostError, match="ended with 0"):
        make(tmp_path / "v1", wrong)

    assert not (tmp_path / "v1").exists()


# -- what changed is found ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "hello.revirt",
        "vuln/manifest.json",
        "vuln/log/00000001.seg",
        "vuln/checkpoints/00000001.ckpt",
        "vuln/pages/00000001.pages",
    ],
)
def test_a_changed_file_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)

    assert f"{name} is not the file that it was" in problems(copy)


def test_a_missing_file_and_one_too_many_are_found(copy: Path) -> None:
    (copy / "vuln" / "log" / "00000001.seg").rename(copy / "vuln" / "log" / "00000009.seg")

    found = problems(copy)

    assert "vuln/log/00000001.seg is missing" in found
    assert "vuln/log/00000009.seg is not in the index" in found


@pytest.mark.parametrize("part", ["cpu", "ram", "devices", "console", "branches", "guest_ns"])
@pytest.mark.parametrize("where", ["end", "position"])
def test_a_replay_that_comes_to_something_else_is_found(copy: Path, where: str, part: str) -> None:
    def change(entry: dict[str, Any]) -> None:
        facts = entry["end"] if where == "end" else next(iter(entry["positions"].values()))
        facts[part] = facts[part][::-1] if isinstance(facts[part], str) else facts[part] + 1

    change_index(copy, "vuln", change)

    assert any(part in problem and "and was" in problem for problem in problems(copy))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uuid", "00000000-0000-0000-0000-000000000000"),
        ("state", "interrupted"),
        ("clock", "virtual"),
        ("begins", 1),
        ("checkpoints", [0]),
        ("events", {}),
        ("events", {"clock": 0, "received": 1}),
        ("console", ""),
        ("audit", "partial"),
    ],
)
def test_a_reader_that_finds_something_else_is_found(copy: Path, name: str, value: object) -> None:
    change_index(copy, "vuln", lambda entry: entry.update({name: value}))

    assert any(name in problem for problem in problems(copy))


def test_a_difference_is_an_exit_status_of_1(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_index(copy, "hello", lambda entry: entry["end"].update(ram="other"))

    status = golden.main(["check", "hello", "--directory", str(copy)])

    assert status == 1
    assert "hello: DIFFERENT" in capsys.readouterr().out


def test_strangers_and_recordings_that_were_not_made_are_found(copy: Path) -> None:
    (copy / "notes.txt").touch()

    found = list(check_directory(copy))

    assert "notes.txt is not in the index" in found
    assert "circular.revirt was not made" in found
    assert not any("hello" in problem for problem in found)


def test_a_directory_without_any_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main(["check", "--directory", str(tmp_path / "v1")]) == 1
    assert "there are no golden recordings" in capsys.readouterr().err


def test_a_name_that_is_not_in_the_table_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main(["make", "helo"]) == 2
    assert "no golden recording is called 'helo'" in capsys.readouterr().err
