from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from revirt.cli.signals import OrderlyStop, UnwindingStop


@pytest.fixture(autouse=True)
def nothing_is_ignored() -> Iterator[None]:
    """Also where nohup runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_the_first_signal_asks_the_run_to_stop() -> None:
    reasons: list[str] = []

    with OrderlyStop() as stop:
        stop.arm(reasons.append)
        os.kill(os.getpid(), signal.SIGTERM)

    assert reasons == ["SIGTERM"]
    assert stop.exit_status == 143


def test_a_second_ctrl_c_interrupts() -> None:
    reasons: list[str] = []

    with OrderlyStop() as stop:
        stop.arm(reasons.append)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    assert reasons == ["Ctrl-C"]


def test_a_run_that_ends_in_time_after_two_signals_is_not_ended_by_force() -> None:
    with OrderlyStop() as stop:
        stop.arm(lambda reason: None)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    assert not any(
        isinstance(thread, threading.Timer) and not thread.finished.is_set()
        for thread in threading.enumerate()
    )


def test_a_run_that_does_not_end_after_two_signals_is_ended_by_force() -> None:
    script = """
    import os, signal, time
    from revirt.cli.signals import OrderlyStop, UnwindingStop
    with OrderlyStop():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(1)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    ended = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(script)], env=environment, check=False
    )

    assert ended.returncode == 143


def test_a_signal_before_the_run_stops_it_as_it_starts() -> None:
    reasons: list[str] = []

    with OrderlyStop() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        stop.arm(reasons.append)

    assert reasons == ["SIGHUP"]
    assert stop.exit_status == 129


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)

    with OrderlyStop():
        assert signal.getsignal(signal.SIGINT) is not before

    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with OrderlyStop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.exit_status is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_unwinds_what_is_no_run(number: signal.Signals, status: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    steps = []
    try:
        with UnwindingStop() as stop:
            try:
                os.kill(os.getpid(), number)
                steps.append("went on")
            finally:
                # One more while it tidies up changes nothing.
                os.kill(os.getpid(), number)
                steps.append("tidied up")
        after = signal.getsignal(number)
    finally:
        signal.signal(number, before)

    assert steps == ["tidied up"]
    assert stop.exit_status == status
    assert after is signal.SIG_DFL


def test_ctrl_c_and_errors_are_passed_on_by_what_is_no_run() -> None:
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), UnwindingStop() as stop:
            raise error
        assert stop.exit_status is None
