"""The torture of recorders: a short run of each kind in earnest, and what its own parts would notice."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torture
from busy import busy_in
from library import RecordingOf
from torturing import faults
from torturing import judge as judging
from torturing.disks import DISKS
from torturing.faults import FAULTS, build_library
from torturing.judge import NO_CHECKPOINT, NO_RECORDING, NOTHING, judge
from torturing.onlooker import Sight, bytes_on_disk, look
from torturing.recorder import Run

from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import Manifest, RecordingState, RingLimits
from revirt.seal.keys import create


def a_run(*seen: tuple[float, bytes], ended: float = 10.0, status: int = 1, said: str = "") -> Run:
    return Run(Path("r"), status, 0.0, ended, seen, said)


# -- in earnest ------------------------------------------------------------------------------------------------


def test_killed_recorders_leave_what_can_be_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "kill",
        "--times",
        "8",
        "--guest",
        "churn",
        "disk",
        "timer",
        "race",
        "--seed",
        "1",
        "--jobs",
        "2",
    ]

    status = torture.main([*arguments, "--directory", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 0, said
    assert "8 kills" in said


@pytest.mark.parametrize("fault", ["enospc", "kill"])
def test_whatever_call_fails_the_recording_can_be_trusted(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["faults", "--guest", "hello", "--fault", fault, "--jobs", "2"]

    status = torture.main([*arguments, "--directory", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 0, said
    assert "interrupted" in said


def test_killed_rings_kept_to_their_size_and_can_be_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create(tmp_path / "key")
    arguments = [
        "kill",
        "--times",
        "4",
        "--guest",
        "churn",
        "--log-size",
        "6M",
        "--seed",
        "31",
        "--jobs",
        "1",
    ]

    status = torture.main([*arguments, "--sign", str(tmp_path / "key"), "--directory", str(tmp_path / "t")])

    said = capsys.readouterr().out
    assert status == 0, said
    assert "had let go of their beginning" in said


def test_disks_fail_below_recorders_or_the_host_is_said_not_to_allow_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = torture.main(
        ["disks", "--times", "1", "--seed", "1", "--jobs", "1", "--directory", str(tmp_path)]
    )

    # Not skipped: where a file system may not be mounted that is said, and a failure.
    said = capsys.readouterr().out.splitlines()
    refused = [line for line in said if ": this host does not let us mount" in line]
    assert len(said) == len(DISKS)
    assert sum(", 0 failures; " in line for line in said) == len(DISKS) - len(refused)
    assert status == (1 if refused else 0)


# -- the faults ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("preloaded"))


def write_thrice(preloaded: Path, place: Path, number: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """Write three lines to a file below *place* and one outside, with a fault in the third of four calls."""
    (place / "in").mkdir(parents=True)
    code = """
import os, sys
files = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in ("in/file", "out")]
for line in (b"one\\n", b"two\\n", b"four"):
    for file in files:
        try:
            print(os.write(file, line))
        except OSError as error:
            print(error.errno)
"""
    settings = {"BELOW": str(place / "in"), "AT": "3", "ERRNO": str(number), "NOTE": str(place / "note")}
    settings.update(dict.fromkeys(flags, "1"))
    environment = {**os.environ, "LD_PRELOAD": str(preloaded)}
    environment |= {f"TORTURE_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True
    )


def test_from_the_call_that_fails_on_all_do_but_those_elsewhere(preloaded: Path, tmp_path: Path) -> None:
    done = write_thrice(preloaded, tmp_path, errno.EIO)

    assert done.stdout.split() == ["4", "4", str(errno.EIO), "4", str(errno.EIO), "4"]
    assert (tmp_path / "in/file").read_bytes() == b"one\n"
    assert (tmp_path / "out").read_bytes() == b"one\ntwo\nfour"


def test_a_call_may_fail_just_once(preloaded: Path, tmp_path: Path) -> None:
    done = write_thrice(preloaded, tmp_path, errno.ENOSPC, "ONCE")

    assert done.stdout.split() == ["4", "4", str(errno.ENOSPC), "4", "4", "4"]
    assert (tmp_path / "note").read_text().startswith("write ")


def test_a_call_may_fail_in_the_middle(preloaded: Path, tmp_path: Path) -> None:
    done = write_thrice(preloaded, tmp_path, errno.ENOSPC, "HALF")

    assert done.stdout.split() == ["4", "4", "2", "4", str(errno.ENOSPC), "4"]
    assert (tmp_path / "in/file").read_bytes() == b"one\ntw"


def test_a_process_may_die_in_the_middle_of_a_write(preloaded: Path, tmp_path: Path) -> None:
    done = write_thrice(preloaded, tmp_path, 0, "HALF")

    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "in/file").read_bytes() == b"one\ntw"


# -- what is noticed -------------------------------------------------------------------------------------------


def test_a_line_is_lost_from_when_it_was_complete() -> None:
    run = a_run((1.0, b"one\ntw"), (7.0, b"o\n"), (9.0, b"thr"))

    assert run.lost_s(b"one\ntwo\n") == 0.0
    assert run.lost_s(b"one\n") == 9.0
    assert run.lost_s(b"one\ntwo") == 3.0


def test_a_replay_that_prints_something_else_is_noticed() -> None:
    run = a_run((1.0, b"one\n"))

    with pytest.raises(ValueError, match="something else"):
        run.lost_s(b"two\n")


def test_a_replay_that_begins_later_is_found_in_what_was_seen() -> None:
    run = a_run((1.0, b"1\n2\n"), (7.0, b"3\n"), (9.0, b"4\n5"))

    assert run.lost_s(b"3\n4\n", is_cut=True) == 0.0
    assert run.lost_s(b"2\n", is_cut=True) == 3.0
    assert run.lost_s(b"3\n4\n5\n", is_cut=True) == 0.0
    with pytest.raises(ValueError, match="something else"):
        run.lost_s(b"2\n4\n", is_cut=True)


def interrupted_ring(path: Path) -> Path:
    """Record a ring that lets go of something and is left as by a recorder that died."""
    options = RecordOptions(
        clock="virtual", until=Position(60_000), checkpoint_every=1_000, limits=RingLimits(size=60_000)
    )
    path.mkdir()
    with NullConsole() as console:
        record(busy_in(path), console, options, path / "ring")
    change_manifest(path / "ring", state="recording", end=None)
    return path / "ring"


def change_manifest(path: Path, **changes: object) -> None:
    manifest = Manifest.read(path / "manifest.json")
    (path / "manifest.json").write_text(replace(manifest, **changes).to_json())  # type: ignore[arg-type]


def test_a_ring_that_takes_too_much_is_noticed(tmp_path: Path) -> None:
    path = interrupted_ring(tmp_path / "r")

    sound = judge(path, "seed", tmp_path)
    change_manifest(path, ring={"size": 10_000, "keep_ns": None})
    fat = judge(path, "seed", tmp_path)
    change_manifest(path, ring={"size": None, "keep_ns": 10})
    long = judge(path, "seed", tmp_path)

    assert (sound.outcome, sound.problems, sound.limit) == (RecordingState.INTERRUPTED, [], 63_000)
    assert sound.begins > 0
    assert "bytes, of 10000" in fat.problems[0]
    assert "span all of the 10 ns" in long.problems[0]


def test_a_repair_that_loses_something_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = interrupted_ring(tmp_path / "r")
    say = judging._say

    def say_on_damage(command: str, target: str, *words: str) -> object:
        if command == "repair":
            max((Path(target) / "log").glob("*.seg")).unlink(missing_ok=True)
        return say(command, target, *words)

    monkeypatch.setattr(judging, "_say", say_on_damage)
    verdict = judge(path, "seed", tmp_path)

    assert any(problem.startswith("repair lost events") for problem in verdict.problems)


def test_a_seal_that_is_missing_is_noticed(tmp_path: Path) -> None:
    create(tmp_path / "key")

    verdict = judge(interrupted_ring(tmp_path / "r"), "seed", tmp_path, tmp_path / "key.pub")

    assert verdict.problems[0].startswith("verify: tampered where interrupted is expected")


def test_onlookers_report_what_is_wrong_while_it_is_recorded(tmp_path: Path) -> None:
    path = interrupted_ring(tmp_path / "r")
    sight = Sight()

    with (path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        look(path, None, sight)
        sound = list(sight.problems)
        newest = max((path / "pages").iterdir())
        newest.write_bytes(newest.read_bytes()[:-1])
        look(path, None, sight)

    assert (sight.readings, sound) == (1, [])
    assert "while it was recorded, it was damaged" in sight.problems[0]


def test_what_lies_in_a_recording_is_weighed_with_what_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "pages").mkdir()
    (tmp_path / "log" / "00000000.seg").write_bytes(bytes(100))
    (tmp_path / "pages" / "00000000.pages.tmp").write_bytes(bytes(20))
    (tmp_path / "manifest.json").write_bytes(bytes(3))

    assert bytes_on_disk(tmp_path) == 120


def test_damage_is_noticed_by_verify_and_by_the_replay(recording_of: RecordingOf, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(recording_of("hello").path, path)

    before = judge(path, "seed", tmp_path)
    segment = next((path / "log").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1])
    after = judge(path, "seed", tmp_path)

    assert (before.outcome, before.problems) == (RecordingState.COMPLETE, [])
    assert "hello" in before.printed
    assert [problem.split(":")[0] for problem in after.problems] == ["verify", "replay"]


def test_what_is_no_recording_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()

    assert judge(tmp_path / "r", "seed", tmp_path).outcome == NO_RECORDING


FULL = "revirt: cannot write the recording: No space left on device\n"
OFFER = "revirt: what was recorded before that: revirt replay r\n"


@pytest.mark.parametrize(
    ("said", "outcome", "status", "problem"),
    [
        (FULL + OFFER, RecordingState.INTERRUPTED, 1, None),
        (FULL, NO_CHECKPOINT, 1, None),
        (FULL, RecordingState.INTERRUPTED, 1, "left: interrupted"),
        (FULL + OFFER, NO_CHECKPOINT, 1, "left: no checkpoint"),
        ("revirt: cannot go on\n", NOTHING, 1, "does not tell what is wrong"),
        (FULL + "Traceback (most recent call last):\n", NOTHING, 1, "a traceback"),
        (FULL, NO_RECORDING, 1, "a directory that is no recording"),
        (FULL, NOTHING, 4, "ended with status 4"),
    ],
)
def test_a_recorder_says_what_went_wrong_and_what_is_left(
    said: str, outcome: str, status: int, problem: str | None
) -> None:
    problems = faults.check_message(a_run(status=status, said=said), FAULTS["enospc"], outcome)

    assert (problem is None and not problems) or problem in "".join(problems)
