"""``revirt console`` with positions and times, as people and programs call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from library import RecordingOf

from revirt.cli import main
from revirt.log.events import Kind
from revirt.recording import Recording
from revirt.replay.cast import _Film

GREETING = b"\xe2\x82\xac 5 and \xe2\x82"


@pytest.fixture
def echo(recording_of: RecordingOf) -> Recording:
    return recording_of("echo", "virtual")


def said(recording: Recording) -> bytes:
    return b"".join(event.data for event in recording.events() if event.kind is Kind.TRANSMITTED)


def film(path: Path) -> tuple[dict, list[list]]:
    header, *events = (json.loads(line) for line in path.read_text().splitlines())
    return header, events


def test_at_a_position_is_printed_what_the_guest_had_sent_there(
    echo: Recording, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["console", str(echo.path), "--at", "50%"]) == 0
    half = capfdbinary.readouterr().out
    assert main(["console", str(echo.path), "--at", "end"]) == 0
    whole = capfdbinary.readouterr().out

    assert whole == said(echo)
    assert whole.startswith(half)
    assert 0 < len(half) < len(whole)


def test_a_cast_has_what_was_said_and_typed_with_the_guests_time(echo: Recording, tmp_path: Path) -> None:
    path = tmp_path / "echo.cast"

    assert main(["console", str(echo.path), "--cast", str(path)]) == 0

    header, events = film(path)
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    assert header["timestamp"] == 1_700_000_000
    assert "".join(text for _, code, text in events if code == "o").encode() == said(echo)
    typed = b"".join(event.data for event in echo.events() if event.kind is Kind.RECEIVED)
    assert "".join(text for _, code, text in events if code == "i").encode() == typed
    times = [seconds for seconds, _, _ in events]
    assert times == sorted(times)
    assert times[-1] <= echo.manifest.end["guest_ns"] / 1e9


def test_a_cast_ends_where_it_is_told_to(echo: Recording, tmp_path: Path) -> None:
    path = tmp_path / "half.cast"

    main(["console", str(echo.path), "--at", "50%", "--cast", str(path)])

    _, events = film(path)
    sent = "".join(text for _, code, text in events if code == "o").encode()
    assert said(echo).startswith(sent)
    assert 0 < len(sent) < len(said(echo))


def test_a_cast_overwrites_nothing(
    echo: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "echo.cast"
    path.write_text("mine")

    assert main(["console", str(echo.path), "--cast", str(path)]) != 0

    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_characters_that_come_in_pieces_are_whole_and_broken_ones_are_marked() -> None:
    told = _Film(0)

    told.send(0, GREETING)
    told.send(1_000_000_000, b"\xac\xff")
    told.type(1_500_000_000, b"\xc3")
    told.type(1_600_000_000, b"\xbc")
    told.send(2_000_000_000, b"\xe2")
    told.flush(final=True)

    assert [json.loads(line) for line in told.lines] == [
        [0.0, "o", "€ 5 and "], [1.0, "o", "€\ufffd"], [1.6, "i", "ü"], [2.0, "o", "\ufffd"],
    ]  # fmt: skip
