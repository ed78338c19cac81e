"""Frames in a line of words."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest
import wire
from programs import run

from revirt.packets import CaptureWriter, format_mac, parse_mac, summarize

A, B = ("10.0.2.15", 43210), ("192.0.2.1", 80)


def icmp(kind: int, code: int = 0, rest: bytes = b"\x12\x34\x00\x07" + b"ping") -> bytes:
    return wire.ipv4(A[0], B[0], 1, struct.pack(">BBH", kind, code, 0) + rest)


def icmp6(kind: int, rest: bytes) -> bytes:
    return wire.ipv6("fe80::1", "ff02::1", 58, struct.pack(">BBHI", kind, 0, 0, 0) + rest)


FRAMES = {
    "ARP who has 10.0.2.2, asks 10.0.2.15": wire.ethernet(wire.arp(1, "10.0.2.15", "10.0.2.2"), 0x0806),
    "ARP 10.0.2.15 is at 52:54:00:12:34:56": wire.ethernet(wire.arp(2, "10.0.2.15", "10.0.2.2"), 0x0806),
    "TCP 10.0.2.15:43210 > 192.0.2.1:80 SYN seq 7 win 64240 len 0": wire.ethernet(
        wire.tcp(A, B, wire.SYN, 7)
    ),
    "TCP 192.0.2.1:80 > 10.0.2.15:43210 PSH ACK seq 1 ack 8 win 64240 len 5": wire.ethernet(
        wire.tcp(B, A, wire.ACK | wire.PUSH, 1, 8, b"hello")
    ),
    "TCP 192.0.2.1:80 > 10.0.2.15:43210 FIN RST seq 0 win 64240 len 0": wire.ethernet(
        wire.tcp(B, A, wire.FIN | wire.RST)
    ),
    "TCP 192.0.2.1:80 > 10.0.2.15:43210 no flags seq 0 win 64240 len 0": wire.ethernet(wire.tcp(B, A, 0)),
    "UDP 10.0.2.15:43210 > 192.0.2.1:80 len 3": wire.ethernet(wire.udp(A, B, b"abc")),
    "DHCP DISCOVER of 52:54:00:12:34:56 wants 10.0.2.15": wire.ethernet(
        wire.udp(("0.0.0.0", 68), ("255.255.255.255", 67), wire.dhcp(1, options=bytes([50, 4, 10, 0, 2, 15])))
    ),
    "DHCP ACK of 52:54:00:12:34:56 gives 10.0.2.15": wire.ethernet(
        wire.udp(("10.0.2.2", 67), ("10.0.2.15", 68), wire.dhcp(5, yours="10.0.2.15"))
    ),
    "UDP 10.0.2.2:67 > 10.0.2.15:68 len 9": wire.ethernet(
        wire.udp(("10.0.2.2", 67), ("10.0.2.15", 68), b"not a one")
    ),
    "ICMP 10.0.2.15 > 192.0.2.1 echo request id 4660 seq 7 len 4": wire.ethernet(icmp(8)),
    "ICMP 10.0.2.15 > 192.0.2.1 port unreachable": wire.ethernet(icmp(3, 3)),
    "ICMP 10.0.2.15 > 192.0.2.1 unreachable": wire.ethernet(icmp(3, 13)),
    "ICMP 10.0.2.15 > 192.0.2.1 type 99 code 1": wire.ethernet(icmp(99, 1)),
    "ICMPv6 fe80::1 > ff02::1 neighbour solicitation for 2001:db8::5": wire.ethernet(
        icmp6(135, bytes.fromhex("20010db8000000000000000000000005")), 0x86DD
    ),
    "ICMPv6 fe80::1 > ff02::1 router solicitation": wire.ethernet(icmp6(133, b""), 0x86DD),
    "UDP [2001:db8::1]:5 > [2001:db8::2]:6 len 2": wire.ethernet(
        wire.ipv6("2001:db8::1", "2001:db8::2", 17, struct.pack(">HHHH", 5, 6, 10, 0) + b"hi"), 0x86DD
    ),
    "UDP [2001:db8::1]:5 > [2001:db8::2]:6 len 0": wire.ethernet(
        wire.ipv6(
            "2001:db8::1", "2001:db8::2", 0, bytes([17, 0]) + bytes(6) + struct.pack(">HHHH", 5, 6, 8, 0)
        ),
        0x86DD,
    ),
    "vlan 42 UDP 10.0.2.15:43210 > 192.0.2.1:80 len 0": wire.ethernet(
        struct.pack(">HH", 42, 0x0800) + wire.udp(A, B, b""), 0x8100
    ),
    "SCTP 10.0.2.15 > 192.0.2.1 len 8": wire.ethernet(wire.ipv4(A[0], B[0], 132, bytes(8))),
    "protocol 99 10.0.2.15 > 192.0.2.1 len 8": wire.ethernet(wire.ipv4(A[0], B[0], 99, bytes(8))),
    "UDP 10.0.2.15 > 192.0.2.1 len 8, fragment at 1480, the last": wire.ethernet(
        wire.ipv4(A[0], B[0], 17, bytes(8), fragment=185)
    ),
    "Ethernet 52:54:00:12:34:56 > 02:00:c0:ff:ee:01 type 0x88b5 len 4": wire.ethernet(b"test", 0x88B5),
    "Ethernet 52:54:00:12:34:56 > 02:00:c0:ff:ee:01 802.3 len 4": wire.ethernet(b"test", 4),
}


@pytest.mark.parametrize("summary", FRAMES)
def test_a_frame_is_told_in_a_line(summary: str) -> None:
    assert summarize(FRAMES[summary]) == summary


def test_padding_behind_a_packet_is_not_counted() -> None:
    frame = wire.ethernet(wire.tcp(A, B, wire.ACK, 1, 1)).ljust(60, b"\0")

    assert summarize(frame).endswith(" len 0")


@pytest.mark.parametrize(
    ("frame", "summary"),
    [
        (b"", "cut short: 0 bytes"),
        (bytes(13), "cut short: 13 bytes"),
        (wire.ethernet(b""), "IPv4 52:54:00:12:34:56 > 02:00:c0:ff:ee:01 malformed"),
        (
            wire.ethernet(wire.arp(1, "1.1.1.1", "2.2.2.2")[:20], 0x0806),
            "ARP 52:54:00:12:34:56 > .* malformed",
        ),
        (wire.ethernet(wire.udp(A, B, bytes(100)))[:60], r"UDP .* len 100, cut short"),
        (wire.ethernet(wire.ipv4(A[0], B[0], 6, bytes(12))), r"TCP 10.0.2.15 > 192.0.2.1 malformed"),
        (wire.ethernet(wire.ipv4(A[0], B[0], 6, bytes(20))), r"TCP 10.0.2.15 > 192.0.2.1 malformed"),
        (wire.ethernet(wire.ipv4(A[0], B[0], 17, bytes(8))), r"UDP 10.0.2.15 > 192.0.2.1 malformed"),
        (wire.ethernet(b"\x41" + wire.udp(A, B, b"")[1:]), "IPv4 .* malformed"),
    ],
)
def test_what_is_broken_is_said_to_be(frame: bytes, summary: str) -> None:
    assert re.fullmatch(summary, summarize(frame))


def test_no_frame_is_too_strange_and_none_can_move_a_cursor() -> None:
    randomness = random.Random(9)
    for frame in FRAMES.values():
        for _ in range(500):
            damaged = bytearray(frame[: randomness.randrange(len(frame) + 1)])
            for _ in range(min(len(damaged), randomness.randrange(1, 5))):
                damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)

            summary = summarize(bytes(damaged))

            assert summary.isascii()
            assert summary.isprintable()
            assert len(summary) < 300


def test_a_chain_of_headers_has_an_end() -> None:
    options = bytes([0, 0]) + bytes(6)

    frame = wire.ethernet(wire.ipv6("::1", "::2", 0, options * 8000), 0x86DD)

    assert summarize(frame) == "protocol 0 ::1 > ::2 len 63936"


def test_tshark_agrees_on_ports_numbers_and_lengths(tmp_path: Path) -> None:
    randomness = random.Random(3)
    segments = [
        (
            randomness.randrange(1, 65536),
            randomness.randrange(2**32),
            randomness.randrange(2**32),
            bytes(size),
        )
        for size in (0, 1, 100, 1400)
    ]
    with open(tmp_path / "a.pcapng", "wb") as file:
        writer = CaptureWriter(file)
        for port, sequence, acknowledged, data in segments:
            packet = wire.tcp((A[0], port), B, wire.ACK, sequence, acknowledged, data)
            writer.write(0, 0, wire.ethernet(packet), is_inbound=False, comment="")

    fields = ("tcp.srcport", "tcp.seq_raw", "tcp.ack_raw", "tcp.len")
    text = run(
        "tshark",
        *("-r", tmp_path / "a.pcapng", "-T", "fields"),
        *(word for name in fields for word in ("-e", name)),
    )

    told = [summarize(wire.ethernet(wire.tcp((A[0], p), B, wire.ACK, s, a, d))) for p, s, a, d in segments]
    found = [re.findall(r"15:(\d+) .* seq (\d+) ack (\d+) .* len (\d+)", each)[0] for each in told]
    assert found == [tuple(line.split("\t")) for line in text.splitlines()]


@pytest.mark.parametrize(
    "text", ["52:54:00:12:34", "52:54:00:12:34:5g", "525400123456", "52:54-00:12:34:56", ""]
)
def test_an_address_is_six_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="no Ethernet address"):
        parse_mac(text)


def test_addresses_are_written_as_they_are_read() -> None:
    assert format_mac(parse_mac("52-54-00-AB-cd-EF")) == "52:54:00:ab:cd:ef"
