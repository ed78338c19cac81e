"""``revirt cut`` as people and programs call it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from library import RecordingOf, environment

from revirt.cli import main
from revirt.recording import Recording, latest


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in, with one for recordings beside it."""
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def echo(recording_of: RecordingOf, tmp_path: Path) -> Path:
    """A recording with five checkpoints, the latest there is."""
    source = recording_of("echo", "virtual", checkpoint_every=500).path
    path = Path(shutil.copytree(source, tmp_path / "home" / "echo"))
    (tmp_path / "home" / "latest").symlink_to("echo")
    return path


def test_the_output_says_where_it_really_begins_and_ends(
    echo: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cut", "echo", "1,100", "1700", "-o", "part"]) == 0

    said = capsys.readouterr()
    begins = Recording.open(echo).checkpoints[2]
    assert f"path         {here}/part\n" in said.out
    assert f"begins       checkpoint 2, at {begins.branches:,} branches, " in said.out
    assert "ends         1,700 branches\n" in said.out
    assert said.err == ""
    assert main(["replay", "part", "-q"]) == 0
    assert "exact: 1,700 branches" in capsys.readouterr().err


def test_without_a_name_the_latest_is_cut_and_stays_the_latest(
    echo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cut", "checkpoint:1", "end", "-o", str(echo.parent / "part")]) == 0

    assert "branches, the end of the recording\n" in capsys.readouterr().out
    assert latest() == echo


def test_json_is_one_record_with_plain_values(
    echo: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cut", "event:0", "1700", "-o", "part", "--json"])

    said = json.loads(capsys.readouterr().out)
    made = Recording.open(here / "part")
    assert said == {
        "path": str(here / "part"),
        "uuid": made.manifest.uuid,
        "origin": Recording.open(echo).manifest.uuid,
        "from_checkpoint": 0,
        "from_branches": 0,
        "from_guest_seconds": 0.0,
        "branches": 1_700,
        "is_end": False,
        "events": made.event_count,
        "checkpoints": 4,
        "size": sum(each.stat().st_size for each in (here / "part").rglob("*.*")),
    }


def test_info_tells_what_a_cut_was_cut_from(
    echo: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cut", "1100", "0.016ms", "-o", "part"])
    capsys.readouterr()

    main(["info", "part"])
    table = capsys.readouterr().out
    main(["info", "part", "--json"])
    facts = json.loads(capsys.readouterr().out)

    uuid = Recording.open(echo).manifest.uuid
    assert f"cut from     {uuid}, from 1100:0 to 0.000016s\n" in table
    assert "begins       1,000:0, checkpoint 2\n" in table
    assert "ended        cut\n" in table
    assert facts["origins"] == [{"uuid": uuid, "from": "1100:0", "to": "0.000016s"}]
    assert facts["branches"] == Recording.open(here / "part").end_branches


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["x", "1", "-o", "part"], 2, "argument FROM: 'x' names no point"),
        (["1", "2"], 2, "arguments are required: -o"),
        (["-o", "part"], 2, "arguments are required: FROM, TO"),
        (["1700", "1600", "-o", "part"], 2, "1700:0 is behind 1600:0\n"),
        (["end", "start", "-o", "part"], 2, "end is behind start\n"),
        (["0.02ms", "0.01ms", "-o", "part"], 2, "0.00002s is behind 0.00001s\n"),
        (["event:9", "5", "-o", "part"], 2, "event:9 is behind 5:0\n"),
        (["0", "1h", "-o", "part"], 2, "echo ends before 3600s\n"),
        (["1h", "end", "-o", "part"], 2, "echo ends before 3600s\n"),
        (["0", "1000000", "-o", "part"], 2, "echo ends before 1000000:0\n"),
        (["checkpoint:9", "end", "-o", "part"], 2, "echo has no checkpoint 9\n"),
        (["0", "event:10000", "-o", "part"], 2, "echo has no event 10000\n"),
        (["0", "1", "-o", "."], 4, "exists already; a recording is never overwritten\n"),
        (["nobody", "0", "1", "-o", "part"], 4, "nobody is not a recording\n"),
        (["0", "1", "-o", "/proc/part"], 1, "cannot cut into /proc/part: "),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_left(
    words: list[str], status: int, said: str, echo: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cut", *words]) == status

    assert said in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_cut_of_a_sealed_recording_says_that_it_has_no_seal(
    echo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (echo / "seal").mkdir()

    assert main(["cut", "echo", "start", "end", "-o", "part", "--json"]) == 0

    said = capsys.readouterr()
    assert (
        said.err
        == "revirt: the recording is sealed, the cut is not: a seal proves a recording as it was made\n"
    )
    assert json.loads(said.out)["is_end"]


SLOW = """
import sys, time
from revirt.cli import main
from revirt.recording import cutting
cutting._check = lambda *_: time.sleep(60)
sys.exit(main(sys.argv[1:]))
"""
"""revirt, but that it takes its time when a cut is made and not yet in its place."""


def hear_signals() -> None:
    # Whoever runs the tests in the background may have had them ignored.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_in_the_middle_leaves_nothing(
    number: signal.Signals, status: int, echo: Path, here: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "cut", "echo", "start", "end", "-o", "part"],
        env=environment(),
        stderr=subprocess.PIPE,
        preexec_fn=hear_signals,
    )
    deadline = time.monotonic() + 60
    while not list(here.glob(".revirt-cut-*/recording/lock")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == status
    assert b"Traceback" not in said
    assert os.listdir(here) == []
