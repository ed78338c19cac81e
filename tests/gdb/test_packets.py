"""Packets: what is sent is what arrives, and nothing that arrives is trusted."""

from __future__ import annotations

import random

import pytest
from fake import expanded
from hypothesis import given
from hypothesis import strategies as st

from revirt.gdb.packets import PACKET_SIZE, Decoder, Garbled, Packet, Sign, encode, escape, unescape


def decoded(data: bytes) -> list[object]:
    return list(Decoder().feed(data))


def test_a_packet_carries_its_checksum() -> None:
    # The example of the manual: "$g#67" asks for all registers.
    assert encode(b"g") == b"$g#67"
    assert decoded(b"$g#67") == [Packet(b"g")]


def test_the_manuals_example_of_a_repetition() -> None:
    assert encode(b"0000") == b"$0* #7a"


def test_an_empty_payload_is_a_packet() -> None:
    assert encode(b"") == b"$#00"
    assert decoded(b"$#00") == [Packet(b"")]


@given(st.binary(max_size=300))
def test_binary_data_arrives_as_it_was_sent(data: bytes) -> None:
    packet = encode(escape(data))

    body = packet[1:-3]

    assert unescape(expanded(body)) == data


@given(st.text(alphabet="0f", max_size=400))
def test_no_run_has_a_count_that_means_something_else(text: str) -> None:
    packet = encode(text.encode())

    body = packet[1:-3]

    assert not set(b"#$+-") & set(body)
    assert max(body, default=0) < 0x7F
    assert expanded(body) == text.encode()


@given(st.binary(max_size=200), st.integers(min_value=1, max_value=7))
def test_packets_may_come_in_pieces(data: bytes, size: int) -> None:
    # What a client sends holds no repetitions.
    body = escape(data)
    packet = b"$%b#%02x" % (body, sum(body) & 0xFF)
    decoder = Decoder()

    found = [each for at in range(0, len(packet), size) for each in decoder.feed(packet[at : at + size])]

    assert found == [Packet(data)]


def test_signs_between_packets() -> None:
    assert decoded(b"+$g#67-\x03") == [Sign.ACKNOWLEDGED, Packet(b"g"), Sign.REJECTED, Sign.BREAK]


def test_what_is_between_packets_and_means_nothing_is_left_out() -> None:
    assert decoded(b"hello\r\n#00$g#67 GET / HTTP/1.1") == [Packet(b"g")]


def test_a_wrong_checksum_is_worth_repeating() -> None:
    assert decoded(b"$g#68") == [Garbled(is_worth_repeating=True)]
    assert decoded(b"$g#zz") == [Garbled(is_worth_repeating=True)]


def test_checksums_may_be_in_capitals() -> None:
    assert decoded(b"$qC#B4") == [Packet(b"qC")]


def test_a_packet_that_begins_anew_forgets_what_was_before() -> None:
    assert decoded(b"$m1234$g#67") == [Packet(b"g")]


@pytest.mark.parametrize("size", [2 * PACKET_SIZE + 1, 10 * PACKET_SIZE])
def test_a_packet_that_is_too_long_is_not_kept(size: int) -> None:
    decoder = Decoder()

    found = [each for _ in range(size // 64 + 1) for each in decoder.feed(b"a" * 64)]
    found += decoder.feed(b"$")
    found += [each for _ in range(size // 64 + 1) for each in decoder.feed(b"a" * 64)]

    assert found == []
    assert len(decoder._body or b"") <= 2 * PACKET_SIZE
    assert list(decoder.feed(b"#00$g#67")) == [Garbled(is_worth_repeating=False), Packet(b"g")]


def test_an_escape_that_ends_a_packet_is_left_out() -> None:
    assert unescape(b"ab}") == b"ab"


def test_noise_never_raises() -> None:
    source = random.Random(4)
    decoder = Decoder()

    for _ in range(2_000):
        noise = bytes(source.choices(b"$#}*+-\x03a0\xff", k=source.randrange(40)))
        for each in decoder.feed(noise):
            assert isinstance(each, Packet | Garbled | Sign)
