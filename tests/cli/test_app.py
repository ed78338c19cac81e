from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from library import COMMAND, environment

from revirt.cli import app, main
from revirt.errors import (
    CorruptError,
    DivergenceError,
    GuestError,
    RecordingExistsError,
    RevirtError,
    UsageError,
)
from revirt.position import Position


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail(_arguments: object) -> int:
        raise error

    monkeypatch.setattr(app, "import_module", lambda _name: SimpleNamespace(ls=fail))
    return main(["ls"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GuestError("no"), 1),
        (UsageError("no"), 2),
        (DivergenceError(Position(1), "cpu", expected="a", found="b"), 3),
        (CorruptError(Path("x"), "no"), 4),
        (RecordingExistsError(Path("x")), 4),
        (OSError(28, "No space left on device", "out"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_statuses(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(error, monkeypatch) == status
    assert capsys.readouterr().err.startswith("revirt: ")


def test_a_message_is_followed_by_its_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_raising(RevirtError("it broke", hint="mend it"), monkeypatch)

    assert capsys.readouterr().err == "revirt: it broke\n        mend it\n"


def test_a_message_cannot_move_the_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_raising(GuestError("\x1b[2Jgone"), monkeypatch)

    assert capsys.readouterr().err == "revirt: \\x1b[2Jgone\n"


def test_an_unknown_guest_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "info", "vulm"]) == 1
    assert "did you mean vuln" in capsys.readouterr().err


def test_the_bundled_guests_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "list", "--jsonl"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert any('"name": "hello"' in line for line in lines)


def revirt(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], env=environment(), **options)  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_leaves_is_no_traceback() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)

    process = revirt("guest", "list", stdout=write_fd, stderr=subprocess.PIPE)
    os.close(write_fd)
    _, complaint = process.communicate()

    assert complaint == b""
    assert process.returncode == 141


def test_a_closed_standard_output_is_no_traceback() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {shlex.join(COMMAND)} guest list >&-"],
        env=environment(),
        capture_output=True,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_a_message() -> None:
    with open("/dev/full", "wb") as full:
        process = revirt("guest", "list", stdout=full, stderr=subprocess.PIPE)
        _, complaint = process.communicate()

    assert process.returncode == 1
    assert complaint == b"revirt: No space left on device\n"
