"""``revirt pack`` and ``unpack`` as people and programs call them."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from library import COMMAND, RecordingOf, environment

from revirt.cli import main
from revirt.recording import Recording, latest, pack


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in, with one for recordings beside it."""
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def hello(recording_of: RecordingOf, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recording_of("hello", "virtual").path, tmp_path / "home" / "hello"))


def revirt(*words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, *words]
    return subprocess.run(command, env=environment(), check=False, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


def test_a_pack_is_named_after_the_recording_and_put_here(
    hello: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", "hello"]) == 0

    assert os.listdir(here) == ["hello.revirt"]
    said = capsys.readouterr()
    assert f"path      {here}/hello.revirt\n" in said.out
    assert "what was in the guest's memory and all that was typed or came in" in said.err


def test_a_pack_of_the_latest_has_its_own_name(hello: Path, here: Path) -> None:
    (hello.parent / "latest").symlink_to("hello")

    assert main(["pack"]) == 0

    assert os.listdir(here) == ["hello.revirt"]


def test_a_recording_is_unpacked_under_the_name_of_its_pack(
    hello: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", "hello", "-o", "other.revirt"]) == 0
    shutil.rmtree(hello)

    assert main(["unpack", "other.revirt"]) == 0

    assert list(Recording.open(hello.parent / "other").verify()) == []
    assert latest() == hello.parent / "other"


def test_json_is_one_record_with_plain_values(
    hello: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["pack", "hello", "--json"])
    packed = json.loads(capsys.readouterr().out)
    main(["unpack", "hello.revirt", "-o", "again", "--json"])
    unpacked = json.loads(capsys.readouterr().out)

    whole = (here / "hello.revirt").read_bytes()
    assert packed == {
        "path": str(here / "hello.revirt"),
        "uuid": Recording.open(hello).manifest.uuid,
        "files": sum(path.is_file() for path in hello.rglob("*")) - 1,
        "size": len(whole),
        "digest": packed["digest"],
        "problems": 0,
        "left_out": [],
        "disks": [],
    }
    assert unpacked == {**packed, "path": str(here / "again")}


def test_through_a_pipe_it_is_the_same_file(hello: Path, here: Path) -> None:
    main(["pack", "hello"])
    whole = (here / "hello.revirt").read_bytes()

    done = revirt("pack", "hello", "-o", "-", capture_output=True)
    back = revirt("unpack", "-", "-o", "again", input=done.stdout, capture_output=True)

    assert (done.returncode, done.stdout) == (0, whole)
    assert b"typed" in done.stderr
    assert back.returncode == 0
    assert list(Recording.open(here / "again").verify()) == []


def test_unbuffered_output_is_complete(hello: Path, here: Path) -> None:
    main(["pack", "hello"])

    command = [COMMAND[0], "-u", *COMMAND[1:], "pack", "hello", "-o", "-"]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True, timeout=60)

    assert done.stdout == (here / "hello.revirt").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack", "hello", "-o", "-", "--json"], "cannot both go to standard output"),
        (["unpack", "-"], "no name for the recording"),
        (["unpack", "latest.revirt"], "no name for the recording"),
        (["unpack", "/"], "no name for the recording"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    words: list[str], message: str, hello: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_terminal_gets_no_pack(hello: Path) -> None:
    ours, theirs = pty.openpty()

    done = revirt("pack", "hello", "-o", "-", stdout=theirs, stderr=subprocess.PIPE)

    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert b"nothing for a terminal" in done.stderr


@pytest.mark.parametrize("stdin", [SimpleNamespace(isatty=lambda: True), None])
def test_a_terminal_gives_no_pack(
    stdin: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)

    assert main(["unpack", "-", "-o", "x"]) == 2
    assert "no pack at standard input" in capsys.readouterr().err


def test_what_is_in_the_way_or_no_pack_ends_with_status_4(
    hello: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["pack", "hello"])

    assert main(["pack", "hello"]) == 4
    assert "exists already" in capsys.readouterr().err
    assert main(["unpack", "hello.revirt"]) == 4
    assert "exists already" in capsys.readouterr().err
    (here / "x.revirt").write_text("not this")
    assert main(["unpack", "x.revirt"]) == 4
    assert "x.revirt: this is not a pack" in capsys.readouterr().err


def test_force_takes_a_damaged_recording_and_says_so(hello: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hello / "log/00000000.seg").write_bytes(b"")

    assert main(["pack", "hello", "-o", "a.revirt"]) == 4
    assert "--force takes it as it is" in capsys.readouterr().err
    assert main(["pack", "hello", "-o", "a.revirt", "--force"]) == 0
    assert "the recording is damaged" in capsys.readouterr().err
    assert main(["unpack", "a.revirt"]) == 4
    assert "log/00000000.seg" in capsys.readouterr().err
    assert main(["unpack", "a.revirt", "--force"]) == 0
    assert "the recording is damaged" in capsys.readouterr().err


def test_what_is_left_out_is_named_and_cannot_move_the_cursor(
    hello: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hello / "\x1b[2Jnotes").touch()
    for number in range(9):
        (hello / f"x{number}").touch()

    assert main(["pack", "hello"]) == 0

    assert (
        r"left out, as no part of a recording: \x1b[2Jnotes, x0, x1, x2, x3, ..." in capsys.readouterr().err
    )


def test_a_full_disk_behind_standard_output_is_a_message(hello: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = revirt("pack", "hello", "-o", "-", stdout=full, stderr=subprocess.PIPE)

    assert done.returncode == 1
    assert done.stderr == b"revirt: No space left on device\n"


def test_a_reader_that_leaves_is_no_traceback(hello: Path) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)

    done = revirt("pack", "hello", "-o", "-", stdout=write_fd, stderr=subprocess.PIPE)

    os.close(write_fd)
    assert (done.returncode, done.stderr) == (141, b"")


def limit_files() -> None:
    import resource

    # Past it a write fails, as on a full disk; Python ignores the signal that comes with it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


@pytest.mark.parametrize(
    "words", [["pack", "hello"], ["unpack", "{}/a.revirt", "-o", "again"]], ids=["pack", "unpack"]
)
def test_a_disk_that_takes_no_more_leaves_nothing(
    words: list[str], hello: Path, here: Path, tmp_path: Path
) -> None:
    pack(hello, tmp_path / "a.revirt")

    done = revirt(*(word.format(tmp_path) for word in words), preexec_fn=limit_files, stderr=subprocess.PIPE)

    assert done.returncode == 1
    assert b"File too large" in done.stderr
    assert os.listdir(here) == []


def hear_signals() -> None:
    # Whoever runs the tests in the background may have had them ignored.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def begin_to_unpack(whole: bytes, here: Path) -> subprocess.Popen[bytes]:
    """Return a process that has unpacked half of *whole*, and waits for the rest."""
    command = [*COMMAND, "unpack", "-", "-o", "again"]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_signals,
    )
    assert process.stdin is not None
    process.stdin.write(whole[:-1])
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(here.glob(".revirt-unpack-*/recording/log/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_in_the_middle_leaves_nothing(
    number: signal.Signals, status: int, hello: Path, here: Path, tmp_path: Path
) -> None:
    pack(hello, tmp_path / "a.revirt")

    process = begin_to_unpack((tmp_path / "a.revirt").read_bytes(), here)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == status
    assert b"Traceback" not in said
    assert os.listdir(here) == []


def test_who_is_killed_in_the_middle_leaves_no_recording_and_is_in_nobodys_way(
    hello: Path, here: Path, tmp_path: Path
) -> None:
    pack(hello, tmp_path / "a.revirt")

    process = begin_to_unpack((tmp_path / "a.revirt").read_bytes(), here)
    process.kill()
    process.communicate(timeout=60)

    assert not (here / "again").exists()
    assert main(["unpack", str(tmp_path / "a.revirt"), "-o", "again"]) == 0


def test_progress_is_shown_on_a_terminal_and_goes_away(
    hello: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()

    done = revirt("pack", "hello", stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = read_all(ours)

    assert done.returncode == 0
    assert b"checking" in shown
    assert b"packing" in shown
    assert shown.rstrip().endswith(b"mind whom you give it to")


def read_all(terminal: int) -> bytes:
    shown = b""
    # Whoever reads from a terminal that everybody left is told so by an error.
    try:
        while data := os.read(terminal, 65536):
            shown += data
    except OSError:
        pass
    os.close(terminal)
    return shown
