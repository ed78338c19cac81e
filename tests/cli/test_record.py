from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from revirt.cli import main
from revirt.cli.parser import make_parser
from revirt.cli.running import console_of, exit_status
from revirt.image import Guest
from revirt.monitor.console import NullConsole, PipeConsole
from revirt.monitor.script import ScriptedConsole
from revirt.monitor.session import RunSummary


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    script = tmp_path / "script.txt"
    script.write_text('expect "> "\nquit\n')
    (tmp_path / "other.txt").write_text("quit\n")
    return Guest(name="g", summary="", memory=1 << 20, file=tmp_path / "g.bin", script=script)


@pytest.fixture(autouse=True)
def pipes_for_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False))
        yield
        monkeypatch.undo()


def kind_of_console(line: str, guest: Guest) -> type[NullConsole]:
    with console_of(make_parser().parse_args(["record", *line.split()]), guest.script) as console:
        return type(console)


def test_off_a_terminal_the_guests_own_script_types(guest: Guest) -> None:
    assert kind_of_console("g", guest) is ScriptedConsole


def test_standard_input_types_if_it_is_told_to(guest: Guest) -> None:
    assert kind_of_console("g --stdin", guest) is PipeConsole


def test_without_a_script_standard_input_types() -> None:
    assert kind_of_console("g", Guest(name="g", summary="", memory=1 << 20)) is PipeConsole


def test_in_a_batch_without_a_script_nobody_types() -> None:
    assert kind_of_console("g --batch", Guest(name="g", summary="", memory=1 << 20)) is NullConsole


def test_a_script_may_be_named_as_a_file_of_the_guest(guest: Guest) -> None:
    assert kind_of_console("g --script other.txt", guest) is ScriptedConsole


def summary(reason: str, exit_code: int | None = None, *, crashed: bool = False) -> RunSummary:
    return RunSummary(
        reason=reason,
        exit_code=exit_code,
        crashed=crashed,
        branches=0,
        guest_ns=0,
        seconds=0,
        cpu_seconds=0,
        events=0,
        log_bytes=0,
        checkpoints=0,
        checkpoint_bytes=0,
        path=None,
    )


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (summary("power off"), 0),
        (summary("script ended"), 0),
        (summary("exit", 0x00), 0),
        (summary("exit", 0x10), 0),
        (summary("exit", 0x11), 1),
        (summary("triple fault", crashed=True), 1),
        (summary("escape key"), 130),
        (summary("terminal went away"), 129),
    ],
)
def test_the_exit_status_tells_how_the_run_ended(run: RunSummary, status: int) -> None:
    assert exit_status(run) == status


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("record", "nothing to run"),
        ("record hello --kernel k", "one of"),
        ("record hello --bios", "one of"),
        ("record --bios --append quiet", "--append goes with --kernel"),
        ("record --bios --memory 5", "memory"),
        ("record hello --append x", "--append goes with --kernel"),
        ("record hello --memory 64M", "--memory goes with --kernel and --bios"),
        ("record hello --no-record -o x", "-o has no meaning"),
        ("record hello --batch --log-size 0", "--log-size 0 keeps nothing"),
        ("record --kernel k --memory much", "'much' is not a size"),
    ],
)
def test_arguments_that_do_not_fit_are_a_usage_error(
    line: str, message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    assert main(line.split()) == 2
    assert message in capfd.readouterr().err


def test_a_run_that_does_not_begin_offers_no_recording_that_was_there_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "mine")
    assert main(["record", "hello", "--batch", "-o", path]) == 0
    capfd.readouterr()

    assert main(["record", "hello", "--batch", "--net", f"pcap:{tmp_path / 'none.pcap'}", "-o", path]) != 0

    said = capfd.readouterr().err
    assert "none.pcap: No such file" in said
    assert "recorded before that" not in said


def test_a_screen_that_does_not_fit_is_not_blamed_on_disks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["record", "plugged", "--framebuffer", "1024x768", "--batch", "-o", str(tmp_path / "screen")]

    assert main(words) == 2

    said = capfd.readouterr().err
    assert "takes more than half of 4 MiB" in said
    assert "overlay" not in said


@pytest.mark.parametrize("size", ["64x48", "99999x99999"])
def test_a_screen_of_a_size_that_there_is_not_is_told_which_there_are(
    size: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "hello", "--batch", "--framebuffer", size]) == 2

    assert f"pixels, not {size}" in capfd.readouterr().err


def test_a_screen_in_the_terminal_does_not_go_with_a_script_and_one_for_viewers_does(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["record", "hello", "--vga", "--batch", "-o", str(tmp_path / "shown")]

    assert main([*words, "--display", "terminal"]) == 2
    assert "--display vnc goes beside a script" in capfd.readouterr().err
    assert main([*words, "--display", f"vnc=unix:{tmp_path / 'vnc'}"]) == 0
