"""A replay that differs says where it began to, and in what."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import damage
import pytest
from library import RecordingOf, RecordWith
from reader import BUFFER, guest_in

from revirt.log.chain import SEALED, Chain
from revirt.log.events import Event, Kind
from revirt.machine.machine import Machine
from revirt.machine.uart import Uart
from revirt.monitor.console import NullConsole
from revirt.recording import Recording
from revirt.replay import replay, session

FLAW = 6_000
"""Which of the readings is another one, counted from 0; it is taken at branch `FLAW` + 1."""

LATEST_OF_FLAW = FLAW + 2
SCRATCH = 7

Flaw = Callable[[int], int]
"""What the replaying machine of that number, counted from 0, reads instead."""


@pytest.fixture
def recording(tmp_path: Path, record_with: RecordWith) -> Recording:
    with NullConsole() as console:
        return record_with(guest_in(tmp_path), console, "virtual", checkpoint_every=2_500)


@pytest.fixture
def with_flaw(monkeypatch: pytest.MonkeyPatch) -> Callable[[Flaw], None]:
    """Return a function that lets replaying machines read something else, once."""

    def install(flaw: Flaw) -> None:
        numbers = count()

        class Flawed(Machine):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                number, read = next(numbers), self.board.uart.read

                def read_flawed(offset: int, size: int) -> int:
                    return flaw(number) if self.core.branches == FLAW + 1 else read(offset, size)

                monkeypatch.setattr(self.board.uart, "read", read_flawed)

        monkeypatch.setattr(session, "Machine", Flawed)

    return install


def test_a_read_that_is_never_the_same_is_found(
    recording: Recording, with_flaw: Callable[[Flaw], None]
) -> None:
    with_flaw(lambda number: 0x60 + number)

    report = replay(recording)

    assert report.divergence is not None
    located = report.divergence.located
    assert report.divergence.what == "ram"
    assert located["cause"] == "emulation"
    assert located["differs"][0]["name"] == f"page 0x9, memory at {BUFFER + FLAW:#x}"
    assert FLAW < located["branch"] <= LATEST_OF_FLAW


def test_a_read_that_differed_once_is_found(recording: Recording, with_flaw: Callable[[Flaw], None]) -> None:
    with_flaw(lambda number: 0x66 if number == 0 else 0x55)

    report = replay(recording)

    assert report.divergence is not None
    located = report.divergence.located
    assert located["cause"] == "emulation"
    (difference,) = located["differs"]
    assert difference["name"] == f"page 0x9, memory at {BUFFER + FLAW:#x}"
    assert (difference["recorded"][:2], difference["replayed"][:2]) == ("55", "66")
    assert FLAW < located["branch"] <= LATEST_OF_FLAW


def test_a_device_that_now_reads_otherwise_is_found(
    recording: Recording, with_flaw: Callable[[Flaw], None]
) -> None:
    """As if replayed by a revirt whose device does something else: both replays agree, the recording does not."""
    with_flaw(lambda _: 0xAA)

    report = replay(recording)

    assert report.divergence is not None
    located = report.divergence.located
    assert located["cause"] == "recording"
    (difference,) = located["differs"]
    assert difference["name"] == f"page 0x9, memory at {BUFFER + FLAW:#x}"
    assert (difference["recorded"][:2], difference["replayed"][:2]) == ("55", "aa")
    assert FLAW < located["branch"] <= LATEST_OF_FLAW
    assert located["between"] == [5_000, 7_500]


def test_a_register_of_a_device_that_differs_is_named(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Uart.write

    def write_flawed(self: Uart, offset: int, size: int, value: int) -> None:
        write(self, offset, size, value ^ 1 if offset == SCRATCH else value)

    monkeypatch.setattr(Uart, "write", write_flawed)

    report = replay(recording)

    assert report.divergence is not None
    names = [row["name"] for row in report.divergence.located["differs"]]
    assert "device uart, scr" in names
    assert any(name.startswith("page 0x8, memory at 0x8000") for name in names)


def test_typing_that_was_changed_shows_in_what_the_guest_answers(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    copy = damage.copy(recording_of("echo", "virtual").path, tmp_path / "copy")

    def change(events: list[Event]) -> None:
        place = next(at for at, event in enumerate(events) if event.kind is Kind.RECEIVED)
        events[place] = events[place]._replace(data=events[place].data.replace(b"hello", b"jelly"))
        chain = Chain()
        for at, event in enumerate(events):
            if event.kind in SEALED:
                events[at] = chain.seal(event)
            else:
                chain.add(event)

    damage.change_events(copy, change)
    report = replay(Recording.open(copy))

    assert report.divergence is not None
    assert report.divergence.what == "output"
    assert "hello" in report.divergence.expected
    assert "jelly" in report.divergence.found
    assert report.divergence.located["cause"] == "recording"


def test_a_log_that_was_changed_without_a_trace_in_the_guest_is_reported(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    copy = damage.copy(recording_of("hello", "virtual").path, tmp_path / "copy")

    def change(events: list[Event]) -> None:
        place = next(at for at, event in enumerate(events) if event.kind is Kind.TRANSMITTED)
        events[place] = events[place]._replace(check=1)  # output has none, and nothing looks at it

    damage.change_events(copy, change)
    report = replay(Recording.open(copy))

    assert report.divergence is not None
    assert report.divergence.what == "the log itself"
