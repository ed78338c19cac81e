"""A person at a terminal that shows the machine's screen; what is typed goes to the machine's keyboard.

As at a serial line (`revirt.monitor.terminal`) Ctrl-A x ends the run.  What the guest sends on its serial line is not
shown; the recording has it.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self

from revirt.monitor.keyboard import typed_in_terminal
from revirt.monitor.terminal import BANNER, TerminalConsole
from revirt.screen import Screen, in_colour

_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[2J"
"""The alternate screen, cleared, without a cursor (xterm's private modes 1049 and 25)."""
_LEAVE = b"\x1b[0m\x1b[?25h\x1b[?1049l"
_PAUSE_S = 0.1
"""Time between two drawings."""
_HOME = "\x1b[H"
_ERASE_LINE = "\x1b[K"
_ERASE_BELOW = "\x1b[J"


class ScreenConsole(TerminalConsole):
    """The terminal on the file descriptor *fd*; *output* writes to it, *press* gets scan codes of set 2.

    Implements `revirt.monitor.display.Viewer`, too.
    """

    def __init__(self, output: BinaryIO, fd: int, press: Callable[[bytes], None]) -> None:
        super().__init__(output, fd)
        self._press_keys = press
        self._changed = threading.Condition()
        self._screen: Screen | None = None
        self._drawn: Screen | None = None
        self._look_again: Callable[[], None] = lambda: None
        self._is_open = True
        self._thread = threading.Thread(target=self._draw, name="screen", daemon=True)

    def __enter__(self) -> Self:
        super().__enter__()
        self._output.write(_ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_drawing()
        self._output.write(_LEAVE)
        super().__exit__(kind, error, trace)

    @property
    def pending(self) -> bool:
        """Nothing is ever typed on the serial line: what was typed goes to the keyboard."""
        self._fill()
        if self._typed:
            codes = typed_in_terminal(bytes(self._typed))
            self._typed.clear()
            if codes:
                self._press_keys(codes)
        return False

    def transmitted(self, data: bytes) -> None:
        """Show nothing of the serial line."""

    # -- a viewer --------------------------------------------------------------------------------------------

    @property
    def is_watched(self) -> bool:
        """Whether what was published is drawn: no more is wanted before."""
        return self._screen is None

    def start(self, wake: Callable[[], None]) -> None:
        """Draw what is published from now on."""
        self._look_again = wake
        self._thread.start()

    def publish(self, screen: Screen) -> None:
        """Take what to draw."""
        with self._changed:
            if screen is not self._drawn:
                self._screen = screen
                self._changed.notify()

    def _end_drawing(self) -> None:
        with self._changed:
            self._is_open = False
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def _size(self) -> tuple[int, int]:
        """How many columns and lines the terminal has, whatever the environment says of another."""
        try:
            return os.get_terminal_size(self._fd)
        except OSError:
            return shutil.get_terminal_size()

    def _draw(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._screen is not None or not self._is_open)
                screen = self._screen
                if screen is None or not self._is_open:
                    return
            if screen != self._drawn:
                self._output.write(rendered(screen, self._size).encode())
            with self._changed:
                self._drawn = screen
                # No more is wanted for a while: drawing takes the interpreter from the machine.
                self._changed.wait_for(lambda: not self._is_open, _PAUSE_S)
                self._screen = None
            # What the guest has shown meanwhile it may have shown before it went to sleep.
            self._look_again()


def rendered(screen: Screen, size: tuple[int, int]) -> str:
    """Return what draws *screen* on a terminal of *size* (columns, lines), over what stood there before."""
    # Imported here: a run without a display has no use for it.
    from rich.console import Console

    columns, lines = size
    out = io.StringIO()
    console = Console(file=out, width=columns, height=lines, force_terminal=True, highlight=False)
    console.print(in_colour(screen, columns, max(1, lines - 1)), end="")
    shown = out.getvalue().replace("\n", f"{_ERASE_LINE}\r\n")
    return f"{_HOME}{shown}{_ERASE_LINE}\r\n{BANNER[: columns - 1]}{_ERASE_LINE}{_ERASE_BELOW}"
