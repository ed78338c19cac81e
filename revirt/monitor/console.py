"""The far end of the guest's serial line.

A monitor hands a `Console` what the guest sends and asks it what to type.  Consoles differ in where typed
bytes come from: nowhere (`NullConsole`), a pipe (`PipeConsole`), a script (`script.ScriptedConsole`), or a
person at a terminal (`terminal.TerminalConsole`).

Rules:
- Only `wait` blocks; `wake`, from any thread or signal handler, ends the wait that is on or else the next.
- A console never decides when a byte arrives; the monitor does, and writes the moment down.
- Output that cannot be written (a closed pipe, a full disk) ends the run in order; it is no error of the run.
"""

from __future__ import annotations

import os
import select
from types import TracebackType
from typing import BinaryIO, Protocol, Self

TAKE_SIZE = 256
"""Most bytes that `take` of a live console returns at once: a pasted file must not swamp a 16-byte FIFO."""


_LONGEST_SLEEP_S = 1e6
"""Longer sleeps end early: the host's count milliseconds in 31 bits."""


class Console(Protocol):
    """The far end of the guest's serial line."""

    @property
    def pending(self) -> bool:
        """Whether `take` has something to return, or to raise."""
        ...

    @property
    def finished(self) -> str | None:
        """Why the run should end ("script ended", "escape key"), None as long as it should not."""
        ...

    def transmitted(self, data: bytes) -> None:
        """Told of the bytes that the guest sends."""
        ...

    def take(self) -> bytes:
        """Return the bytes to type into the guest now, ``b""`` if there are none.  Never blocks.

        Raises ScriptError if a script has waited too long.
        """
        ...

    def wait(self, timeout_s: float | None) -> None:
        """Block until `take` or `finished` may change, `wake` is called, or *timeout_s* seconds are over.

        Called whenever the guest is idle (with 0 where its clock jumps instead): a script may end there.
        *timeout_s* is None if the machine has no timer armed, so that only this console can wake the guest.
        """
        ...

    def wake(self) -> None:
        """Make `wait` return.  Safe from any thread and any signal handler."""
        ...


class Waker:
    """Sleep that any thread or signal handler can end."""

    def __init__(self) -> None:
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """End the sleep that is on, or else the next one."""
        if self._event_fd >= 0:
            os.eventfd_write(self._event_fd, 1)

    def sleep(self, timeout_s: float | None, *read_fds: int) -> None:
        """Sleep until woken, one of *read_fds* has bytes or has hung up, or *timeout_s* seconds (11 days) are over."""
        poll = select.poll()
        for fd in (self._event_fd, *read_fds):
            poll.register(fd, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else min(max(0.0, timeout_s), _LONGEST_SLEEP_S) * 1000)
        if any(fd == self._event_fd for fd, _ in ready):
            os.eventfd_read(self._event_fd)

    def close(self) -> None:
        """Free the file descriptor; waking does nothing any more."""
        if self._event_fd >= 0:
            os.close(self._event_fd)
            self._event_fd = -1


class Output:
    """Where the bytes that a guest sends go: a binary stream, or nowhere.

    ``lost`` says why writing ended, if it did.
    """

    def __init__(self, stream: BinaryIO | None) -> None:
        self._stream = stream
        self.lost: str | None = None

    def write(self, data: bytes) -> None:
        """Write *data* and flush; after a failure, drop it."""
        if self._stream is None or self.lost is not None:
            return
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            self.lost = "output closed"
        except OSError as error:
            self.lost = f"output failed: {error.strerror}"


class NullConsole:
    """A line that nobody types on; what the guest sends goes to *output*, or nowhere."""

    def __init__(self, output: BinaryIO | None = None) -> None:
        self._output = Output(output)
        self._waker = Waker()
        self._ended: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free what the console holds; it is not used after that."""
        self._waker.close()

    @property
    def pending(self) -> bool:
        return False

    @property
    def finished(self) -> str | None:
        return self._output.lost or self._ended

    def transmitted(self, data: bytes) -> None:
        self._output.write(data)

    def take(self) -> bytes:
        return b""

    def wait(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            self._ended = "halted, and nothing can wake the guest"
            return
        self._waker.sleep(timeout_s)

    def wake(self) -> None:
        self._waker.wake()


class PipeConsole(NullConsole):
    """Types what comes in on the file descriptor *fd*, which is not a terminal.

    Typing starts once the guest has sent something or gone idle: before that its serial port is not set up,
    and most guests throw away what came early.  The end of the input does not end the run.
    """

    def __init__(self, fd: int, output: BinaryIO | None = None) -> None:
        super().__init__(output)
        self._fd = fd
        self._typed = b""
        self._is_open = True
        self._is_ready = False

    @property
    def pending(self) -> bool:
        return self._is_ready and (self._fill() or bool(self._typed))

    def transmitted(self, data: bytes) -> None:
        super().transmitted(data)
        self._is_ready = True

    def take(self) -> bytes:
        if not self.pending:
            return b""
        data, self._typed = self._typed[:TAKE_SIZE], self._typed[TAKE_SIZE:]
        return data

    def wait(self, timeout_s: float | None) -> None:
        self._is_ready = True
        if self.pending:
            return
        if self._is_open:
            self._waker.sleep(timeout_s, self._fd)
        else:
            super().wait(timeout_s)

    def _fill(self) -> bool:
        """Read ahead if nothing is left to type; return whether that brought anything."""
        if self._typed or not self._is_open or not is_readable(self._fd):
            return False
        try:
            self._typed = os.read(self._fd, 4096)
        except OSError:  # a directory, a socket that was reset: there is no more to come
            self._typed = b""
        self._is_open = bool(self._typed)
        return self._is_open


def is_readable(fd: int) -> bool:
    """Return whether reading *fd* would not block: it has bytes, is at its end, or has hung up."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
