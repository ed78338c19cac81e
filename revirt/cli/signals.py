"""Signals while a guest runs: the first ends the run in order, a second Ctrl-C at once.

Handlers run between two pieces of Python, so a run notices when the CPU core next returns to its monitor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class OrderlyStop:
    """Catches SIGINT, SIGTERM and SIGHUP inside its ``with`` block; the first is a request to stop.

    ``exit_status`` is None until a signal came.
    """

    def __init__(self) -> None:
        self._stop: Callable[[str], None] | None = None
        self._reason: str | None = None
        self._saved: dict[signal.Signals, Any] = {}
        self.exit_status: int | None = None

    def __enter__(self) -> Self:
        for number in _NAMES:
            # One that is ignored stays so: nohup, and shells that run a job in the background.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._saved[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._saved.items():
            signal.signal(number, handler)

    def arm(self, stop: Callable[[str], None]) -> None:
        """Take the function that stops the run; called by the run as it starts."""
        self._stop = stop
        if self._reason is not None:
            stop(self._reason)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._reason is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._reason = _NAMES[signal.Signals(number)]
        self.exit_status = 128 + number
        if number == signal.SIGINT and self._stop is not None:
            # Not print(): the handler may have interrupted a print to the same stream.
            os.write(2, b"\nrevirt: stopping in order; Ctrl-C again stops at once\n")
        if self._stop is not None:
            self._stop(self._reason)
