"""A person at a terminal.

The terminal is put into raw mode, so that every key, Ctrl-C too, goes to the guest.  Ctrl-A is kept back for
us, with the meanings QEMU gave it: Ctrl-A x ends the run, Ctrl-A h lists the keys, Ctrl-A twice types one.

Rules:
- The terminal gets its mode back whatever happens: at the end of the ``with`` block, and once more when the
  interpreter exits.
- A terminal that goes away (its window is closed, its connection drops) ends the run in order.
"""

from __future__ import annotations

import atexit
import os
import termios
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, Self

from revirt.monitor.console import TAKE_SIZE, NullConsole, is_readable

BANNER = "Ctrl-A x ends the run, Ctrl-A h lists the keys"

_PREFIX = 0x01  # Ctrl-A
_HELP = b"\n  Ctrl-A x       end the run\n  Ctrl-A h       this list\n  Ctrl-A Ctrl-A  type Ctrl-A\n"
# Indices into what termios.tcgetattr returns.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class TerminalConsole(NullConsole):
    """The terminal on the file descriptor *fd*; *output* writes to it.

    A context manager: the terminal is raw inside the ``with`` block.
    """

    def __init__(self, output: BinaryIO, fd: int) -> None:
        super().__init__(output)
        self._fd = fd
        self._typed = bytearray()
        self._is_escaped = False
        self._end: str | None = None
        self._saved_mode: list[Any] | None = None

    def __enter__(self) -> Self:
        self._saved_mode = termios.tcgetattr(self._fd)
        atexit.register(self.restore)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, raw_mode(self._saved_mode))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        atexit.unregister(self.restore)
        super().__exit__(kind, error, trace)

    @property
    def pending(self) -> bool:
        self._fill()
        return bool(self._typed)

    @property
    def finished(self) -> str | None:
        return self._end or super().finished

    def take(self) -> bytes:
        self._fill()
        data = bytes(self._typed[:TAKE_SIZE])
        del self._typed[:TAKE_SIZE]
        return data

    def wait(self, timeout_s: float | None) -> None:
        if not self.pending and self.finished is None:
            self._waker.sleep(timeout_s, self._fd)

    def restore(self) -> None:
        if self._saved_mode is None:
            return
        with suppress(termios.error):  # the terminal has gone away, and its mode with it
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved_mode)
        self._saved_mode = None

    def _fill(self) -> None:
        """Read what was typed, if there is room; a paste waits in the terminal until it is wanted."""
        if self._end is not None or len(self._typed) >= TAKE_SIZE or not is_readable(self._fd):
            return
        try:
            keys = os.read(self._fd, 1024)
        except OSError:  # EIO: the other end was closed
            keys = b""
        if not keys:
            self._end = "terminal went away"
        for key in keys:
            self._press(key)

    def _press(self, key: int) -> None:
        if not self._is_escaped:
            self._is_escaped = key == _PREFIX
            if not self._is_escaped:
                self._typed.append(key)
            return
        self._is_escaped = False
        if key == _PREFIX:
            self._typed.append(key)
        elif key in b"xX":
            self._end = "escape key"
        else:
            self._output.write(_HELP)


def raw_mode(mode: list[Any]) -> list[Any]:
    r"""Return the terminal mode *mode* (of `termios.tcgetattr`) made raw: keys come one by one and unchanged.

    Output processing stays as it is: bare-metal guests end lines with ``\n`` alone.
    """
    raw = list(mode)
    raw[_IFLAG] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[_CC] = list(raw[_CC])
    raw[_CC][termios.VMIN] = 1
    raw[_CC][termios.VTIME] = 0
    return raw
