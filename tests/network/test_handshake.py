"""The acknowledgement of a guest's SYN and ACK."""

from __future__ import annotations

import pytest
import wire

from revirt.monitor.network.handshake import RepeatedAcknowledgements, acknowledgement

GUEST, PEER = ("10.0.2.15", 80), ("10.0.2.2", 40000)
BOTH = wire.SYN | wire.ACK


@pytest.mark.parametrize("sequence", [0, 7, 2**32 - 1])
def test_it_is_what_a_peer_would_send(sequence: int) -> None:
    answer = acknowledgement(wire.ethernet(wire.tcp(GUEST, PEER, BOTH, sequence, 5000)))

    expected = wire.ethernet(
        wire.tcp(PEER, GUEST, wire.ACK, 5000, sequence + 1, window=256),
        source=wire.OTHER_MAC,
        destination=wire.GUEST_MAC,
    )
    assert answer is not None
    # All but the identification, "don't fragment", time to live and header checksum of IP.
    assert (answer[:18], answer[34:]) == (expected[:18], expected[34:])
    assert answer[26:34] == expected[26:34]
    assert wire.checksum(answer[14:34]) == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        wire.ethernet(wire.tcp(GUEST, PEER, wire.SYN)),
        wire.ethernet(wire.tcp(GUEST, PEER, wire.ACK)),
        wire.ethernet(wire.tcp(GUEST, PEER, BOTH | wire.RST)),
        wire.ethernet(wire.udp(GUEST, PEER, bytes(100))),
        wire.ethernet(wire.arp(1, "10.0.2.2", "10.0.2.15"), 0x0806),
        wire.ethernet(b"\x4f" + wire.tcp(GUEST, PEER, BOTH)[1:]),
        wire.ethernet(wire.tcp(GUEST, PEER, BOTH))[:53],
    ],
)
def test_nothing_else_is_acknowledged(frame: bytes) -> None:
    assert acknowledgement(frame) is None


def ack(
    acknowledged: int, *, window: int = 100, sequence: int = 1, data: bytes = b"", port: int = 80
) -> bytes:
    packet = wire.tcp((GUEST[0], port), PEER, wire.ACK, sequence, acknowledged, data, window=window)
    return wire.ethernet(packet)


def test_an_acknowledgement_that_says_the_same_again_is_told() -> None:
    repeats = RepeatedAcknowledgements()

    assert [repeats.is_repeat(ack(number), 5.0) for number in (10, 10, 10, 20, 20)] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_what_says_something_new_is_no_repetition() -> None:
    repeats = RepeatedAcknowledgements()
    frames = [
        ack(10),
        ack(10, window=200),
        ack(10, window=200, port=81),
        ack(10, window=200, sequence=2),
        ack(10, window=200, sequence=2, data=b"x"),
        ack(10, window=200, sequence=2, data=b"x"),
        wire.ethernet(wire.tcp(GUEST, PEER, wire.ACK | wire.FIN, 2, 10, window=200)),
        wire.ethernet(wire.tcp(GUEST, PEER, wire.ACK | wire.FIN, 2, 10, window=200)),
        b"",
    ]

    assert not any(repeats.is_repeat(frame, 5.0) for frame in frames)


def test_what_is_said_again_after_a_while_is_passed_on() -> None:
    repeats = RepeatedAcknowledgements()

    assert [repeats.is_repeat(ack(10), at) for at in (5.0, 5.5, 6.0, 6.5)] == [False, True, False, True]


def test_many_connections_do_not_fill_us() -> None:
    repeats = RepeatedAcknowledgements()
    for port in range(1, 5000):
        repeats.is_repeat(ack(10, port=port), 5.0)

    assert len(repeats._latest) == 1024
