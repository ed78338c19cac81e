from __future__ import annotations

import os
import struct
from pathlib import Path
from random import Random

import pytest

from revirt.errors import CorruptError, FormatVersionError
from revirt.log import columns, frame, segment
from revirt.log.events import Event, Kind
from revirt.log.frame import Frame, compress_fast
from revirt.log.rows import rows_of

EVENTS = [
    Event(Kind.CHECKPOINT, 0, False, 0x7C00),
    Event(Kind.INTERRUPT, 100, False, 0x7C10, 0xBEEF, 8),
    Event(Kind.TRANSMITTED, 107, False, 0x7C20, data=b"hello, world\r\n"),
    Event(Kind.CLOCK, 107, True, 0x7C30, number=12_345_678),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "00000003.seg"
    path.write_bytes(segment.encode(3, 40, rows_of(EVENTS)))
    return path


def test_a_segment_comes_back_as_it_was(path: Path) -> None:
    found, events = segment.read(path)

    assert events == EVENTS
    assert found == segment.Segment(path, 3, 4, 40, 0, 107, path.stat().st_size)
    assert segment.read_header(path) == found


def test_frames_that_nothing_makes_smaller_come_back_and_take_hardly_more_than_they_are(path: Path) -> None:
    chance = Random(1)
    frames = [
        Event(Kind.FRAME_IN, 1000 * n, False, n, n & 0xFFFF, 0, chance.randbytes(1514)) for n in range(600)
    ]

    data = segment.encode(3, 0, rows_of(frames))
    path.write_bytes(data)

    assert segment.read(path)[1] == frames
    assert len(data) < 1.01 * 600 * 1514


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    whole = path.read_bytes()

    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptError):
            segment.read(path)


def test_every_flipped_bit_of_the_header_is_noticed_by_its_header_alone(path: Path) -> None:
    whole = path.read_bytes()

    for bit in range(segment.FRAME.header_size * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptError):
            segment.read_header(path)


def test_every_truncation_is_noticed(path: Path) -> None:
    whole = path.read_bytes()

    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptError):
            segment.read(path)


def test_bytes_behind_a_segment_are_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(CorruptError, match="payload of"):
        segment.read(path)


def test_a_newer_version_is_named(path: Path) -> None:
    version = segment.FRAME.version
    newer = Frame(segment.FRAME.magic, version + 1, struct.Struct("<IIQQQQ"), segment.FRAME.raw_limit)
    path.write_bytes(b"".join(newer.encode((3, 1, 0, 0, 0, 99), b"else", compress_fast)))

    with pytest.raises(FormatVersionError) as caught:
        segment.read(path)

    assert (caught.value.found, caught.value.known) == (version + 1, version)


def test_a_segment_under_another_name_is_refused(path: Path) -> None:
    moved = path.rename(path.with_name("00000004.seg"))

    with pytest.raises(CorruptError, match="calls itself segment 3"):
        segment.read(moved)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((3, 0, 0, 0, 0), "claims 0 events"),
        ((3, 2**32 - 1, 0, 0, 0), "claims 4294967295 events"),
        ((3, 65_536, 0, 0, 0), "columns end"),
        ((3, 4, 0, 9, 3), "from 9 to 3 branches"),
        ((3, 4, 0, 0, 108), "header and events differ"),
        ((3, 3, 0, 0, 107), "column of values|after the last|columns end|header and events"),
    ],
)
def test_a_lying_header_with_a_right_check_is_refused(
    path: Path, fields: tuple[int, ...], problem: str
) -> None:
    path.write_bytes(b"".join(segment.FRAME.encode(fields, columns.encode(rows_of(EVENTS)), compress_fast)))

    with pytest.raises(CorruptError, match=problem):
        segment.read(path)


@pytest.mark.parametrize("raw_size", [16 << 20, (16 << 20) + 1, 2**32 - 1])
def test_a_claim_of_a_huge_payload_is_refused_before_it_is_allocated(path: Path, raw_size: int) -> None:
    stored = b"\x00" * 20
    rest = struct.pack("<II16s", raw_size, len(stored), frame.check_of(stored))
    rest += segment.FRAME.fields.pack(3, 4, 0, 0, 0)
    start = struct.pack("<8sHH", segment.FRAME.magic, 1, segment.FRAME.header_size)
    path.write_bytes(start + frame.check_of(start, rest) + rest + stored)

    with pytest.raises(CorruptError, match=r"cannot hold|payload of"):
        segment.read(path)


def test_a_payload_that_is_not_lz4_is_refused(path: Path) -> None:
    path.write_bytes(b"".join(segment.FRAME.encode((3, 4, 0, 0, 0), b"x" * 64, lambda _: b"\xff" * 40)))

    with pytest.raises(CorruptError, match="not a valid LZ4 block"):
        segment.read(path)


def test_a_payload_that_is_shorter_than_it_claims_is_refused(path: Path) -> None:
    path.write_bytes(
        b"".join(segment.FRAME.encode((3, 4, 0, 0, 0), b"x" * 64, lambda _: compress_fast(b"y" * 40)))
    )

    with pytest.raises(CorruptError, match="40 bytes where 64 were stored"):
        segment.read(path)


def test_a_fifo_in_place_of_a_segment_does_not_hang(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(CorruptError, match="not a regular file"):
        segment.read(path)


def test_a_file_larger_than_any_segment_is_not_read(path: Path) -> None:
    os.truncate(path, 1 << 40)

    with pytest.raises(CorruptError, match="more than any such file has"):
        segment.read(path)


def test_a_missing_segment_is_named(path: Path) -> None:
    path.unlink()

    with pytest.raises(CorruptError, match=r"00000003\.seg: missing"):
        segment.read(path)
