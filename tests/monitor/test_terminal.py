from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

ROOT = Path(__file__).parents[2]
GUEST = Path(__file__).with_name("shouting_guest.py")
TIMEOUT_S = 20


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "finished"


@pytest.fixture
def guest(report: Path) -> Iterator[pexpect.spawn]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = pexpect.spawn(
        sys.executable, [str(GUEST), str(report)], env=environ, timeout=TIMEOUT_S, echo=True
    )
    child.expect_exact("ready\r\n")
    yield child
    child.close(force=True)


def mode(guest: pexpect.spawn) -> int:
    flags: int = termios.tcgetattr(guest.child_fd)[3]
    return flags & (termios.ECHO | termios.ICANON | termios.ISIG)


COOKED = termios.ECHO | termios.ICANON | termios.ISIG


def test_every_key_goes_to_the_guest_unchanged(guest: pexpect.spawn) -> None:
    for key in (b"a", b"\x03", b"\x04", b"\x1a", b"\x13", b"\r", b"\xff", b"\x00"):
        guest.send(key)
        guest.expect_exact(f"[{key.hex()}]")


def test_the_escape_key_ends_the_run_and_restores_the_terminal(guest: pexpect.spawn, report: Path) -> None:
    assert mode(guest) == 0

    guest.send(b"\x01x")
    guest.expect(pexpect.EOF)
    guest.wait()

    assert report.read_text() == "escape key"


def test_the_terminal_is_cooked_again_after_the_run(guest: pexpect.spawn) -> None:
    guest.send(b"\x01")
    guest.send(b"x")
    guest.wait()

    assert mode(guest) == COOKED


def test_the_escape_key_twice_types_it_once(guest: pexpect.spawn) -> None:
    guest.send(b"\x01\x01")
    guest.expect_exact("[01]")


def test_help_lists_the_keys_and_types_nothing(guest: pexpect.spawn) -> None:
    guest.send(b"\x01h")
    guest.expect_exact("Ctrl-A x       end the run")
    guest.expect_exact("type Ctrl-A\r\n")

    guest.send(b"z")
    guest.expect_exact("[7a]")


def test_a_failing_run_leaves_the_terminal_cooked(guest: pexpect.spawn) -> None:
    guest.send(b"!")
    guest.expect_exact("RuntimeError: the run failed")
    guest.wait()

    assert mode(guest) == COOKED


def test_a_signal_that_unwinds_leaves_the_terminal_cooked(guest: pexpect.spawn) -> None:
    guest.kill(signal.SIGTERM)
    guest.expect(pexpect.EOF)
    guest.wait()

    assert guest.exitstatus == 128 + signal.SIGTERM
    assert mode(guest) == COOKED


def test_a_terminal_that_goes_away_ends_the_run_in_order(guest: pexpect.spawn, report: Path) -> None:
    guest.ptyproc.fileobj.close()

    assert guest.wait() == 0
    assert report.read_text() == "terminal went away"
