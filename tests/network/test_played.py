"""Capture files, played in by the machine's clock."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wire

from revirt.monitor.network import networks_of, open_network
from revirt.monitor.network.played import PlayedBackend
from revirt.packets import CaptureError, CaptureWriter

FRAMES = [wire.ethernet(bytes([number]) * 50) for number in range(5)]
MS = 10**6


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "packets.pcapng"


Play = Callable[..., PlayedBackend]


@pytest.fixture
def play() -> Iterator[Play]:
    """Return a function that plays a file, which is closed at the end."""
    made: list[PlayedBackend] = []

    def open_one(*arguments: object) -> PlayedBackend:
        made.append(PlayedBackend(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield open_one
    for each in made:
        each.close()


def write(path: Path, *frames: tuple[int, bytes]) -> None:
    """Write *frames* with their times in milliseconds."""
    with open(path, "wb") as file:
        writer = CaptureWriter(file)
        for time_ms, frame in frames:
            writer.write(0, 1_700_000_000 * 10**9 + time_ms * MS, frame, is_inbound=True, comment="")


def test_frames_come_as_far_apart_as_they_were_captured(file: Path, play: Play) -> None:
    write(file, (500, FRAMES[0]), (510, FRAMES[1]), (510, FRAMES[2]), (700, FRAMES[3]))
    backend = play(file, 2000 * MS)

    assert backend.due_ns() == 2000 * MS
    assert backend.take_due(1999 * MS) == []
    assert backend.take_due(2000 * MS) == [FRAMES[0]]
    assert backend.due_ns() == 2010 * MS
    assert backend.take_due(2010 * MS) == [FRAMES[1], FRAMES[2]]
    assert backend.take_due(9000 * MS) == [FRAMES[3]]
    assert backend.due_ns() is None
    assert backend.fault is None


def test_a_frame_from_before_the_one_before_it_comes_with_that(file: Path, play: Play) -> None:
    write(file, (10, FRAMES[0]), (30, FRAMES[1]), (5, FRAMES[2]), (31, FRAMES[3]))
    backend = play(file)

    backend.take_due(0)
    assert backend.due_ns() == 20 * MS
    assert backend.take_due(20 * MS) == [FRAMES[1], FRAMES[2]]
    assert backend.due_ns() == 21 * MS


def test_many_frames_of_one_time_come_a_few_at_a_time(file: Path, play: Play) -> None:
    write(file, *[(0, FRAMES[0])] * 1000)
    backend = play(file)

    sizes = []
    while backend.due_ns() is not None:
        sizes.append(len(backend.take_due(0)))

    assert sum(sizes) == 1000
    assert max(sizes) == 64


def test_what_no_card_takes_is_dropped(file: Path, play: Play) -> None:
    write(file, (0, bytes(13)), (5, FRAMES[0]), (6, bytes(65554)))
    backend = play(file)

    assert backend.due_ns() == 5 * MS
    assert backend.take_due(10 * MS) == [FRAMES[0]]
    assert backend.due_ns() is None
    assert backend.drops.inbound == 2


def test_what_was_sent_where_it_was_captured_is_not_played(file: Path, play: Play) -> None:
    with open(file, "wb") as out:
        writer = CaptureWriter(out)
        for number in range(4):
            writer.write(0, number * MS, FRAMES[number], is_inbound=number % 2 == 1, comment="")
    backend = play(file)

    assert backend.due_ns() == 1 * MS
    assert backend.take_due(10 * MS) == [FRAMES[1], FRAMES[3]]
    assert backend.drops.inbound == 0


def test_a_file_that_goes_wrong_is_played_up_to_there(file: Path, play: Play) -> None:
    write(file, (0, FRAMES[0]), (5, FRAMES[1]))
    file.write_bytes(file.read_bytes()[:-1])
    backend = play(file)

    assert backend.take_due(10 * MS) == [FRAMES[0]]
    assert backend.fault == f"{file}: ends within a block"
    assert backend.due_ns() is None


def test_a_file_whose_first_frame_is_wrong_is_no_network(file: Path) -> None:
    file.write_bytes(struct.pack("<IHHiIIIIIII", 0xA1B2C3D4, 2, 4, 0, 0, 0, 1, 0, 0, 60, 60))

    with pytest.raises(CaptureError, match="ends within a frame"):
        PlayedBackend(file)


def test_an_empty_capture_is_a_quiet_network(file: Path, play: Play) -> None:
    write(file)

    backend = play(file)

    assert backend.due_ns() is None
    assert backend.fault is None


def test_it_is_named_by_its_file_and_listens_to_nobody(file: Path) -> None:
    write(file, (0, FRAMES[0]))
    (spec,) = networks_of([f"pcap:{file},at=250ms"])

    backend = open_network(spec, lambda: None)

    assert backend.due_ns() == 250 * MS
    backend.send(FRAMES[1])
    assert backend.frames() == []
    backend.close()
    assert backend.due_ns() is None
