"""Signals while a guest runs: the first ends the run in order, a second Ctrl-C at once.

Handlers run between two pieces of Python, so a run notices when the CPU core next returns to its monitor.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_PATIENCE_S = 2.0
"""How long after a second signal the run may take to end."""

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class OrderlyStop:
    """Catches SIGINT, SIGTERM and SIGHUP inside its ``with`` block; the first is a request to stop.

    ``exit_status`` is None until a signal came.
    """

    def __init__(self, at_force: Callable[[], None] = lambda: None) -> None:
        self._at_force = at_force
        self._stop: Callable[[str], None] | None = None
        self._reason: str | None = None
        self._saved: dict[signal.Signals, Any] = {}
        self._unasked = threading.Lock()
        self._force: threading.Timer | None = None
        self._saved_wakeup_fd = -1
        self.exit_status: int | None = None

    def __enter__(self) -> Self:
        read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._write_fd, False)
        self._saved_wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=(read_fd,), daemon=True)
        self._listener.start()
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
        signal.set_wakeup_fd(self._saved_wakeup_fd)
        os.close(self._write_fd)  # which ends the thread
        self._listener.join()
        if self._force is not None:
            self._force.cancel()

    def arm(self, stop: Callable[[str], None]) -> None:
        """Take the function that stops the run; called by the run as it starts."""
        self._stop = stop
        if self._reason is not None:
            self._request(self._reason)

    def _request(self, reason: str) -> None:
        """Ask the run to stop, once."""
        if self._stop is not None and self._unasked.acquire(blocking=False):
            self._stop(reason)

    def _listen(self, read_fd: int) -> None:
        """Pass signals on while the main thread is inside the CPU core."""
        count = 0
        while data := os.read(read_fd, 1):
            if data[0] in _NAMES:
                count += 1
                self._request(_NAMES[signal.Signals(data[0])])
            if count == 2:
                self._force_soon(data[0])
        os.close(read_fd)

    def _force_soon(self, number: int) -> None:
        """End the process if the run does not: a guest may go for minutes without a branch to stop at."""

        def force() -> None:
            os.write(2, b"\nrevirt: ended by force; what was recorded before can be replayed\n")
            self._at_force()
            os._exit(128 + number)

        self._force = threading.Timer(_PATIENCE_S, force)
        self._force.daemon = True
        self._force.start()

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
        self._request(self._reason)


class UnwindingStop:
    """Lets SIGTERM and SIGHUP end its ``with`` block as Ctrl-C does, so that what was begun is tidied up.

    For work that is not a run.  Behind the block ``exit_status`` is None, or what the signal that ended it asks for.
    """

    def __init__(self) -> None:
        self.exit_status: int | None = None
        self._saved: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._saved[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        for number, handler in self._saved.items():
            signal.signal(number, handler)
        return isinstance(error, KeyboardInterrupt) and self.exit_status is not None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # A second one must not interrupt the tidying up.
        if self.exit_status is None:
            self.exit_status = 128 + number
            raise KeyboardInterrupt
