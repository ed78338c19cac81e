from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from revirt.monitor.console import TAKE_SIZE, NullConsole, PipeConsole, Waker


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        with suppress(OSError):
            os.close(fd)


class Broken(io.BytesIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error
        self.attempts = 0

    def write(self, _data: object) -> int:
        self.attempts += 1
        raise self._error


def test_a_wake_from_another_thread_ends_a_sleep_without_end() -> None:
    waker = Waker()
    thread = threading.Timer(0.01, waker.wake)
    thread.start()

    waker.sleep(None)

    thread.join()
    waker.close()


def test_a_sleep_may_be_longer_than_the_host_can_count() -> None:
    # Seen with a capture file whose next frame came a month later.
    waker = Waker()
    waker.wake()

    waker.sleep(30 * 24 * 3600)
    waker.close()


def test_a_wake_before_the_sleep_is_not_lost_and_counts_once() -> None:
    waker = Waker()
    waker.wake()
    waker.wake()

    waker.sleep(None)
    waker.sleep(0)

    waker.close()
    waker.wake()


def test_nobody_types_on_a_null_console() -> None:
    out = io.BytesIO()
    with NullConsole(out) as console:
        console.transmitted(b"hello\r\n")

        assert not console.pending
        assert console.take() == b""
        assert console.finished is None
        assert out.getvalue() == b"hello\r\n"


def test_a_guest_that_nothing_can_wake_ends_the_run() -> None:
    with NullConsole() as console:
        console.wait(0)
        assert console.finished is None

        console.wait(None)
        assert console.finished == "halted, and nothing can wake the guest"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BrokenPipeError(32, "Broken pipe"), "output closed"),
        (OSError(28, "No space left on device"), "output failed: No space left on device"),
    ],
)
def test_output_that_cannot_be_written_ends_the_run_in_order(error: OSError, reason: str) -> None:
    out = Broken(error)
    with NullConsole(out) as console:
        console.transmitted(b"a")
        console.transmitted(b"b")

        assert console.finished == reason
        assert out.attempts == 1


def test_a_pipe_is_typed_once_the_guest_has_said_something(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"ls\n")
    with PipeConsole(pipe[0]) as console:
        assert not console.pending

        console.transmitted(b"# ")

        assert console.pending
        assert console.take() == b"ls\n"
        assert console.take() == b""


def test_a_pipe_is_typed_once_the_guest_idles(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    with PipeConsole(pipe[0]) as console:
        console.wait(None)

        assert console.take() == b"x"


def test_the_end_of_a_pipe_does_not_end_the_run(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"last")
    os.close(pipe[1])
    with PipeConsole(pipe[0]) as console:
        console.transmitted(b"# ")

        assert console.take() == b"last"
        assert console.take() == b""
        assert console.finished is None

        console.wait(0)
        assert console.finished is None


def test_a_guest_asleep_for_ever_ends_the_run_when_the_pipe_is_over(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    with PipeConsole(pipe[0]) as console:
        console.wait(None)
        console.wait(None)

        assert console.finished is not None


def test_a_long_paste_arrives_whole_in_small_pieces(pipe: tuple[int, int]) -> None:
    text = bytes(range(256)) * 40
    os.write(pipe[1], text)
    os.close(pipe[1])
    with PipeConsole(pipe[0]) as console:
        console.transmitted(b"# ")
        pieces = []
        while console.pending:
            pieces.append(console.take())

    assert b"".join(pieces) == text
    assert max(map(len, pieces)) <= TAKE_SIZE


def test_waiting_on_a_pipe_ends_when_bytes_come(pipe: tuple[int, int]) -> None:
    with PipeConsole(pipe[0]) as console:
        thread = threading.Timer(0.01, os.write, (pipe[1], b"y"))
        thread.start()

        console.wait(None)

        assert console.take() == b"y"
        thread.join()
