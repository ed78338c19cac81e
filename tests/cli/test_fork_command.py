from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
from library import COMMAND, RecordingOf, environment

from revirt.cli import main
from revirt.fork import Fork
from revirt.recording import Recording, latest
from revirt.timeline import Timeline


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in, with one for recordings beside it; nobody types."""
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.stdin", None)
    return tmp_path / "here"


@pytest.fixture
def attack(recording_of: RecordingOf, tmp_path: Path) -> Path:
    """The recorded attack on vuln, as the latest there is; its event 14 is the line that takes the service over."""
    source = recording_of("vuln", "virtual").path
    path = Path(shutil.copytree(source, tmp_path / "home" / "attack"))
    (tmp_path / "home" / "latest").symlink_to("attack")
    return path


def line_of(attack: Path) -> int:
    events = enumerate(Recording.open(attack).events())
    return next(number for number, event in events if event.data.startswith(b"name \x90"))


def test_what_would_have_been_without_the_attack_is_printed_and_recorded(
    attack: Path, here: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["fork", "attack", "--drop", str(line_of(attack)), "-o", "without"]) == 0

    said = capfdbinary.readouterr()
    assert said.out.endswith(b"no such command; try help\r\nvuln> ")
    assert b"revirt: attack goes on from " in said.err
    assert b"its parent ended here" in said.err
    assert main(["replay", "without", "-q"]) == 0
    assert main(["verify", "without"]) == 0
    assert latest() == attack


def test_whoever_looks_on_sees_that_the_parent_is_replayed(attack: Path, here: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "fork", str(attack), "--at", "50%", "--inputs", "--batch", "-o", "same"]

    terminal = {**environment(), "TERM": "xterm"}
    done = subprocess.run(command, env=terminal, stdout=subprocess.PIPE, stderr=theirs, timeout=60)

    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.returncode == 0, shown.decode()
    before, _, _ = shown.partition(b"revirt: attack goes on from ")
    assert b"attack" in before


def test_json_tells_what_it_is_a_fork_of(attack: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fork", "--at", "50%", "--inputs", "-o", "same", "--json"]) == 0

    facts = json.loads(capfd.readouterr().out)
    made, parent = Recording.open(here / "same"), Recording.open(attack)
    assert facts["parent"] == parent.manifest.uuid
    assert facts["from_branches"] == made.checkpoints[0].branches == round(parent.end_branches / 2)
    assert facts["from_guest_seconds"] == made.checkpoints[0].guest_ns / 1e9
    assert (facts["path"], facts["branches"]) == ("same", parent.end_branches)
    assert facts["checkpoints"] == 1


def test_an_instruction_count_is_a_point_to_go_on_from(
    attack: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["index", "attack"])
    position = Timeline(Recording.open(attack)).seek_icount(2_000)
    capfd.readouterr()

    assert main(["fork", "--at", "icount:2000", "--inputs", "-o", "same", "--json"]) == 0

    assert json.loads(capfd.readouterr().out)["from_branches"] == position.branches
    (fork,) = Recording.open(here / "same").manifest.guest["forks"]
    assert fork["at"] == str(position)


def test_info_tells_what_it_is_a_fork_of(attack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = line_of(attack)
    words = ["--patch", "0x1000fc=C3", "--patch", "phys:4096=00 01", "--replace", f"{number}=help\\n"]
    main(["fork", "attack", "--at", "0", *words, "-o", "other"])
    capsys.readouterr()

    main(["info", "other"])
    table = capsys.readouterr().out
    main(["info", "other", "--json"])
    facts = json.loads(capsys.readouterr().out)

    uuid = Recording.open(attack).manifest.uuid
    assert f"forked from  {uuid}, at 0:0\n" in table
    assert (
        f'changed      c3 at 0x1000fc, 0001 at physical 0x1000, event {number} replaced by "help\\n"\n'
        in table
    )
    assert facts["guest"]["forks"][0]["uuid"] == uuid


def test_without_a_name_it_is_called_after_its_parent(
    attack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fork", "attack", "--at", "100", "--inputs"]) == 0

    (made,) = (tmp_path / "home").glob("attack-fork-*")
    assert latest() == made


def test_who_types_can_be_a_script(
    attack: Path, here: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (here / "typed").write_text('expect "vuln> "\nsend "echo live\\n"\nexpect "\\nlive\\r\\n"\nquit\n')

    assert main(["fork", "attack", "--at", "300", "--script", "typed", "-o", "live"]) == 0

    assert b"\nlive\r\n" in capfdbinary.readouterr().out
    assert main(["replay", "live", "-q"]) == 0


def test_a_range_of_events_can_be_dropped(attack: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["fork", "attack", "--drop", "0-1000", "--batch", "-o", "none"]) == 2
    assert main(["fork", "attack", "--drop", f"3-{line_of(attack)}", "--no-record"]) == 0

    out = capfdbinary.readouterr().out
    assert b"Eve" not in out
    assert b"flag\r\nno such command" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [("-o attack", "attack exists already"), ("--script nosuch", "nosuch: cannot read the script")],
)
def test_what_is_wrong_with_the_run_is_said_before_the_replay(
    words: str, said: str, attack: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Fork, "of", Mock(side_effect=AssertionError("it is replayed")))
    monkeypatch.chdir(attack.parent)

    assert main(["fork", "attack", "--at", "50%", *words.split()]) != 0

    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("", 2, "a fork wants a position\n        say --at POINT"),
        ("--at nowhere", 2, "names no point of a recording"),
        ("--at 1h", 2, "attack ends before 3600s"),
        ("--at 1000000", 2, "attack ends before 1000000:0"),
        ("--at end", 2, "the guest ends at"),
        ("--at icount:5", 2, "instructions of attack are not counted"),
        ("--at 10 --until 5", 2, "5:0 is not behind 10:0"),
        ("--at 10 --no-record -o x", 2, "-o has no meaning"),
        ("--at 10 --drop 1", 2, "event 1 is checkpoint: only what came from outside"),
        ("--at 10 --drop x", 2, "'x' is not a number"),
        ("--at 10 --drop 14-4", 2, "'14-4' ends before it begins"),
        ("--at 10 --drop 4 --no-inputs", 2, "if the parent's inputs are not given"),
        ("--at 10 --replace 4", 2, "'4' says nothing to come instead"),
        ("--at 10 --replace 4=", 2, "cannot be replaced by nothing"),
        (r"--at 10 --replace 4=\q", 2, r"--replace 4: unknown escape \q"),
        ("--at 10 --replace 4=a --replace 4=b", 2, "event 4 cannot be replaced twice"),
        ("--at 10 --patch 5", 2, "'5' is no patch"),
        ("--at 10 --patch 5=1", 2, "'5=1' is no patch"),
        ("--at 10 --patch 0x3ffffff0=1234", 2, "0x3ffffff0 is not in the guest's memory at 10:0"),
        ("--at 10 --batch -o .", 4, "exists already"),
        ("nobody --at 10", 4, "nobody is not a recording"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_left(
    words: str, status: int, said: str, attack: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fork", *words.split()]) == status

    assert said in capfd.readouterr().err
    assert list(here.iterdir()) == []
    assert [each.name for each in attack.parent.iterdir() if not each.is_symlink()] == ["attack"]
