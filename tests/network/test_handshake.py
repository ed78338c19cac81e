"""The acknowledgement of a guest's SYN and ACK."""

from __future__ import annotations

import pytest
import wire

from revirt.monitor.network.handshake import acknowledgement

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
