"""A program that tries what an operating system expects of a CPU, run inside Debian: right, and right again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from library import RecordWith, built

from revirt.image import Guest, from_command_line
from revirt.image.build import build
from revirt.image.debian import PROMPT, READY
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.monitor.script import Script, ScriptedConsole

pytestmark = [pytest.mark.debian, pytest.mark.xdist_group("debian")]

SOURCE = Path(__file__).parents[1] / "guests" / "selftest.c"
DONE = "selftest: done"
SCRIPT = rf"""
timeout 120
expect "{READY}"
expect "{PROMPT}"
send "selftest\n"
expect "{DONE}"
quit
"""

UNLIKE_A_PROCESSOR = {
    "misaligned store": "nothing",
    "simd by zero": "nothing",
}
"""Where Unicorn does not do what a processor does, as docs/determinism.md says, and what it does instead."""

ROUNDED_BY_UNICORN = "extended remainder"
"""FPREM computes in double precision there."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.fail("gcc is needed to build selftest.c")
    program = tmp_path_factory.mktemp("selftest") / "selftest"
    flags = ["-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", program, SOURCE, "-lm"], check=True)
    return program


@pytest.fixture(scope="module")
def guest(program: Path) -> Guest:
    debian = built("debian")
    directory = build(debian, progress=print, extra={"/bin/selftest": program})
    return from_command_line(directory / "vmlinuz", directory / "initrd", debian.append, debian.memory)


def results(output: str) -> dict[str, str]:
    """Return the results in *output* by their names."""
    lines = output.replace("\r", "").partition(DONE)[0].splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_selftest_in_debian_gives_what_it_gives_here_and_replays(
    clock: ClockMode,
    program: Path,
    guest: Guest,
    record_with: RecordWith,
    replay_elsewhere: Callable[..., dict[str, Any]],
) -> None:
    native = results(subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout)

    with ScriptedConsole(Script.parse(SCRIPT)) as console:
        recording = record_with(guest, console, clock)
    report = replay_elsewhere(recording)

    assert (report["status"], report["exact"]) == (0, True), report
    output = b"".join(event.data for event in recording.events() if event.kind is Kind.TRANSMITTED)
    guests = results(output.decode().partition(READY)[2])
    assert {name: guests.get(name) for name in UNLIKE_A_PROCESSOR} == UNLIKE_A_PROCESSOR
    for name in native.keys() - UNLIKE_A_PROCESSOR.keys() - {ROUNDED_BY_UNICORN}:
        assert guests.get(name) == native[name], name
    assert float(guests[ROUNDED_BY_UNICORN]) == pytest.approx(float(native[ROUNDED_BY_UNICORN]))
