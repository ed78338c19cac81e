"""TCP connections put together again."""

from __future__ import annotations

import random

import pytest
import wire

from revirt.packets import Assembler, Chunk, StreamTable
from revirt.packets.layers import SYN, Segment

A, B = ("10.0.2.15", 43210), ("192.0.2.1", 80)


def segment(sequence: int, data: bytes = b"", flags: int = 0) -> Segment:
    return Segment(1, 2, sequence % 2**32, 0, flags, 0, data, len(data))


def put_together(*segments: Segment) -> bytes:
    """Return what comes of *segments*, with ``.`` for every byte that is missing."""
    half, data = Assembler(), b""
    for chunk in [chunk for each in segments for chunk in half.take(each)] + half.finish():
        data += b"." * chunk.missing
        assert chunk.offset == len(data)
        data += chunk.data
    return data


@pytest.mark.parametrize("start", [1000, 2**32 - 3, 2**32 - 1, 2**31])
@pytest.mark.parametrize(
    ("segments", "payload"),
    [
        ([(0, b"abc"), (3, b"def")], b"abcdef"),
        ([(0, b"abc"), (0, b"abc"), (3, b"def")], b"abcdef"),
        ([(3, b"def"), (0, b"abc")], b"abcdef"),
        ([(6, b"ghi"), (3, b"def"), (0, b"abc")], b"abcdefghi"),
        ([(0, b"abcd"), (2, b"XXef")], b"abcdef"),
        ([(2, b"cdXX"), (0, b"abcdef")], b"abcdef"),
        ([(2, b"cdef"), (4, b"XXgh"), (0, b"ab")], b"abcdefgh"),
        ([(3, b"def"), (3, b"XYZ"), (0, b"abc")], b"abcdef"),
        ([(0, b"abc"), (5, b"f")], b"abc..f"),
        ([(2, b"c"), (5, b"f")], b"..c..f"),
        ([(-5, b"old"), (0, b"abc")], b"abc"),
        ([(0, b"abc"), (2**30 + 10, b"far"), (3, b"d")], b"abcd"),
    ],
)
def test_bytes_are_where_their_numbers_say(
    segments: list[tuple[int, bytes]], payload: bytes, start: int
) -> None:
    began = segment(start - 1, flags=SYN)

    assert put_together(began, *(segment(start + at, data) for at, data in segments)) == payload


def test_a_connection_that_began_before_the_recording_begins_with_what_there_is() -> None:
    assert put_together(segment(500, b"the rest")) == b"the rest"


def test_data_with_the_first_packet_counts() -> None:
    assert put_together(segment(500, b"early", SYN), segment(506, b", late")) == b"early, late"


def test_segments_in_any_order_come_to_the_same() -> None:
    randomness = random.Random(11)
    payload = randomness.randbytes(20_000)
    for _ in range(50):
        pieces = []
        for at in range(0, len(payload), 500):
            first, last = max(0, at - randomness.randrange(600)), at + 500 + randomness.randrange(600)
            pieces.append(segment(2**32 - 7000 + first, payload[first:last]))
        randomness.shuffle(pieces)

        assert put_together(segment(2**32 - 7001, flags=SYN), *pieces) == payload


def test_what_is_sent_to_fill_us_is_let_go_of() -> None:
    half = Assembler()
    half.take(segment(0, flags=SYN))
    for number in range(100_000):
        half.take(segment(100 + number * 1000, bytes(1000)))

    assert sum(len(chunk.data) for chunk in half.finish()) == 16_777_000


def test_chunks_tell_where_they_are() -> None:
    half = Assembler()

    assert half.take(segment(10, b"ab")) == [Chunk(0, b"ab")]
    assert half.take(segment(14, b"ef")) == []
    assert half.take(segment(12, b"cd")) == [Chunk(2, b"cd"), Chunk(4, b"ef")]
    half.take(segment(20, b"z"))
    assert half.finish() == [Chunk(10, b"z", missing=4)]


def numbers(*packets: bytes) -> list[int | None]:
    table = StreamTable()
    return [(table.find(wire.ethernet(packet)) or (None,))[0] for packet in packets]


def test_connections_count_by_their_first_packets() -> None:
    other = (A[0], 43211)

    assert numbers(
        wire.tcp(A, B, wire.SYN, 1),
        wire.tcp(other, B, wire.SYN, 5),
        wire.udp(A, B, b"no connection"),
        wire.tcp(B, A, wire.SYN | wire.ACK, 9, 2),
        wire.tcp(B, other, wire.ACK, 9, 2),
    ) == [0, 1, None, 0, 1]


def test_ends_that_connect_again_make_another_connection_and_a_repeated_beginning_does_not() -> None:
    assert numbers(
        wire.tcp(A, B, wire.SYN, 1),
        wire.tcp(A, B, wire.SYN, 1),
        wire.tcp(A, B, wire.RST, 2),
        wire.tcp(A, B, wire.SYN, 100),
        wire.tcp(B, A, wire.ACK, 1),
    ) == [0, 0, 0, 1, 1]


def test_a_fragment_is_of_no_connection() -> None:
    packet = wire.tcp(A, B, wire.SYN, 1)

    assert numbers(wire.ipv4(A[0], B[0], 6, packet[20:], fragment=0x2000)) == [None]


def test_a_flood_of_beginnings_does_not_fill_us() -> None:
    table = StreamTable()
    for number in range(200_000):
        table._connection((("10.0.0.1", number), ("10.0.0.2", 1)), segment(0, flags=SYN))

    assert table.count == 200_000
    assert len(table._open) == 1 << 17
