"""A terminal that shows a machine's screen, with a real kernel behind it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import pexpect
import pyte
import pytest
from library import built, environment

from revirt.monitor.screen_console import rendered
from revirt.screen import TextScreen
from revirt.screen.font import own_font

SIZE = (100, 30)
WAIT_S = 120


class Terminal:
    """A terminal of 100x30 in which *command* runs."""

    def __init__(self, *command: str) -> None:
        env = {**environment(), "TERM": "xterm-256color"}
        self.child = pexpect.spawn(
            sys.executable, list(command), dimensions=SIZE[::-1], env=env, timeout=WAIT_S
        )
        self._screen = pyte.Screen(*SIZE)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until *text* stands in *count* lines."""
        self.wait_until(lambda lines: sum(text in line for line in lines) >= count)

    def wait_until(self, holds: Callable[[list[str]], bool]) -> None:
        """Wait until *holds* of all lines."""
        end = time.monotonic() + WAIT_S
        while not holds(self.lines):
            assert time.monotonic() < end, "\n".join(self.lines)
            try:
                self._stream.feed(self.child.read_nonblocking(1 << 16, timeout=1))
            except pexpect.TIMEOUT:
                continue


@pytest.fixture
def debian() -> Iterator[Terminal]:
    """Debian with a shell on its screen."""
    spec = built("debian").image_spec()
    assert spec.initrd is not None
    terminal = Terminal(
        "-P", "-m", "revirt", "record", "--no-record", "--kernel", str(spec.file), "--initrd", str(spec.initrd),
        "--append", "console=ttyS0 console=tty0", "--vga", "--display", "terminal",
    )  # fmt: skip
    yield terminal
    terminal.child.close(force=True)


@pytest.mark.debian
def test_what_is_typed_goes_to_the_keyboard_and_what_the_screen_shows_is_seen(debian: Terminal) -> None:
    debian.wait_for("built-in shell")
    debian.wait_until(lambda lines: lines[25].startswith("Ctrl-A x ends the run"))

    debian.child.send(b"echo $((6*7)) times\r")
    debian.wait_for("42 times")
    debian.child.send(b"\x1b[A")  # the line before, in the shell's history
    debian.wait_for("echo $((6*7)) times", 2)

    debian.child.send(b"\x01x")
    debian.wait_for("ended     escape key")
    debian.child.expect(pexpect.EOF)
    debian.child.close()
    assert debian.child.exitstatus == 130


def test_a_terminal_that_is_smaller_shows_what_fits() -> None:
    font = own_font()
    cells = b"".join(bytes((65 + line % 26, 7)) * 80 for line in range(25))
    screen = TextScreen(80, 25, cells, None, ((0, 0, 0),) * 16, (font, font), 9, 16, True, True)
    terminal = pyte.Screen(40, 10)

    pyte.Stream(terminal).feed("x" * 400 + rendered(screen, (40, 10)))

    assert terminal.display[0] == "A" * 40
    assert terminal.display[8] == "I" * 40
    assert terminal.display[9].startswith("Ctrl-A x ends the run")
