"""`revirt debug` in a terminal: a pseudo-terminal, and what an emulator makes of what comes out of it."""

from __future__ import annotations

import re
import shlex
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pexpect
import pyte
from library import COMMAND, environment

from revirt.recording import Recording

TIMEOUT_S = 60
USUAL_MODES = {7, 25}
"""Private modes of a terminal that nobody changed: lines wrap, it has a cursor (xterm control sequences)."""
_MODES = re.compile(rb"\x1b\[\?([\d;]+)([hl])")


class Terminal:
    """A terminal of *columns* and *lines* with the debugger of *recording* in it."""

    def __init__(
        self, recording: Recording, columns: int, lines: int, *options: str, colour: bool = True
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self.modes = USUAL_MODES
        """The private modes that it is in."""
        self.attributes: list[Any] = []
        """What the kernel knew of it when the debugger had ended: tcgetattr(3)."""
        self._stream = pyte.ByteStream(self._screen)
        env = {**environment(), "TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
        # Workers of pytest-xdist have these, and they count more than what the terminal says.
        for name in ("COLUMNS", "LINES"):
            env.pop(name, None)
        command = [*COMMAND, "debug", str(recording.path), *options]
        self._child = pexpect.spawn(
            shlex.join(command), env=env, dimensions=(lines, columns), timeout=TIMEOUT_S
        )
        self.wait_for("? lists keys")

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(self._screen.display)

    def line(self, number: int) -> str:
        """Return what stands in that line, the first being 0."""
        line: str = self._screen.display[number]
        return line

    @property
    def status(self) -> str:
        """What stands in the last line."""
        return self._screen.display[-1].strip()

    @property
    def position(self) -> str:
        """Where the screen says that the guest stands."""
        return self._screen.display[0].split()[1]

    def type(self, keys: str) -> None:
        """Type *keys*, as fast as a paste."""
        self._child.send(keys)

    def click(self, column: int, line: int) -> None:
        """Press and release the left button there, counted from 0 (xterm control sequences, "SGR" mouse mode)."""
        self._child.send(f"\x1b[<0;{column + 1};{line + 1}M\x1b[<0;{column + 1};{line + 1}m")

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        self._child.setwinsize(lines, columns)
        self._screen.resize(lines, columns)

    def wait_for(self, expected: str | Callable[[Terminal], bool]) -> None:
        """Wait until *expected* stands on the screen, or is true of it."""
        end = time.monotonic() + TIMEOUT_S
        while not (expected in self.text if isinstance(expected, str) else expected(self)):
            assert time.monotonic() < end, f"waited for {expected!r} in vain:\n{self.text}"
            try:
                self._take(self._child.read_nonblocking(65536, timeout=0.2))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                raise AssertionError(f"it ended:\n{self.text}") from None

    def end(self) -> int | None:
        """Wait for its end; return the exit status."""
        self._child.expect(pexpect.EOF)
        self._take(self._child.before)
        self.attributes = termios.tcgetattr(self._child.child_fd)
        self._child.close()
        status: int | None = self._child.exitstatus
        return status

    def _take(self, data: bytes) -> None:
        self._stream.feed(data)
        for modes, sign in _MODES.findall(data):
            changed = {int(mode) for mode in modes.split(b";")}
            self.modes = self.modes | changed if sign == b"h" else self.modes - changed

    def kill(self, number: int) -> None:
        """Send the signal *number* to it."""
        self._child.kill(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close(force=True)
