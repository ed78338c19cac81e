"""Circular recordings that keep what they have when something happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from busy import busy_in
from library import COMMAND

from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.monitor.trigger import Trigger, TriggerOptions
from revirt.position import Position
from revirt.recording import Recording, RingLimits
from revirt.replay import replay


def say(trigger: Trigger, text: bytes) -> None:
    for character in text:
        trigger.transmitted(bytes((character,)))


@pytest.mark.parametrize(
    ("text", "fired"),
    [
        (b"all is well\nKernel panic - not", "console: Kernel panic"),
        (b"login: ", None),
        (b"Kernel pa\nnic", None),
    ],
)
def test_a_pattern_is_found_in_a_line_as_it_grows(text: bytes, fired: str | None) -> None:
    trigger = Trigger(TriggerOptions(patterns=(re.compile(b"Kernel panic"),)))

    say(trigger, text)

    assert trigger.fired == fired


def test_the_first_thing_that_happens_counts_and_freezes_once() -> None:
    frozen: list[int] = []
    trigger = Trigger(TriggerOptions(crash=True, exits=frozenset({3})))
    trigger.attach(lambda: frozen.append(1))

    trigger.ended(crashed=False, exit_code=0)
    assert trigger.fired is None
    trigger.ended(crashed=False, exit_code=3)
    trigger.fire("SIGUSR1")

    assert trigger.fired == "exit code 0x03"
    assert frozen == [1]


def test_what_happened_before_there_was_a_ring_freezes_it() -> None:
    frozen: list[int] = []
    trigger = Trigger(TriggerOptions())

    trigger.fire("SIGUSR1")
    trigger.attach(lambda: frozen.append(1))

    assert frozen == [1]


def test_the_run_ends_so_much_guest_time_after_what_happened() -> None:
    trigger = Trigger(TriggerOptions(after_ns=500))

    before = trigger.reason_to_stop(1_000)
    trigger.fire("SIGUSR1")

    reasons = [trigger.reason_to_stop(now) for now in (2_000, 2_499, 2_500)]
    assert [before, *reasons] == [None, None, None, "trigger: SIGUSR1"]


def test_a_ring_keeps_everything_from_the_trigger_on(tmp_path: Path) -> None:
    trigger = Trigger(TriggerOptions(patterns=(re.compile(b"\n"),), after_ns=300_000))
    options = RecordOptions(
        clock="virtual",
        until=Position(2_000_000),
        checkpoint_every=1_000,
        limits=RingLimits(size=20_000),
        trigger=trigger,
    )

    with NullConsole() as console:
        record(busy_in(tmp_path), console, options, tmp_path / "ring")

    recording = Recording.open(tmp_path / "ring")
    assert trigger.fired is not None
    assert recording.manifest.end is not None
    assert recording.manifest.end["trigger"] == trigger.fired
    assert recording.manifest.end["branches"] < 40_000
    assert recording.log_bytes + recording.checkpoint_bytes > 20_000
    assert recording.checkpoints[0].number == 0
    assert replay(recording).exact


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_a_signal_ends_a_recording_in_order_also_of_a_guest_that_sleeps(tmp_path: Path, clock: str) -> None:
    path = tmp_path / "signalled"
    command = [*COMMAND, "record", "echo", "--stdin", "--clock", clock, "-o", path]
    options = ["--log-size", "10M", "--trigger", "signal", "--after", "1ms", "--json"]
    keyboard, typed = os.pipe()
    with subprocess.Popen([*command, *options], stdin=keyboard, stdout=subprocess.PIPE) as recorder:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not list((path / "log").glob("*.seg")):
                time.sleep(0.01)
            recorder.send_signal(signal.SIGUSR1)
            assert recorder.wait(60) == 0
        finally:
            recorder.kill()
    os.close(keyboard)
    os.close(typed)

    end = Recording.open(path).manifest.end
    assert end is not None
    assert end["reason"] == "trigger: SIGUSR1"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--trigger", "sometimes"], "not something to wait for"),
        (["--trigger", "exit:300"], "from 0 to 255"),
        (["--trigger", "console:("], "not a regular expression"),
        (["--after", "3s"], "there is none"),
        (["--keep", "soon"], "not a time"),
        (["--log-size", "large"], "not a size"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], problem: str, tmp_path: Path) -> None:
    command = [*COMMAND, "record", "hello", "-o", tmp_path / "no", *arguments]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert not (tmp_path / "no").exists()
