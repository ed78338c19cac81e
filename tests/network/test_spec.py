"""Networks as people name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from revirt.errors import UsageError
from revirt.monitor.network import Drops, Forward, NetworkSpec, networks_of, open_network
from revirt.packets import CaptureError, format_mac


def test_each_kind_has_its_target_and_cards_count_their_addresses() -> None:
    texts = ("passt", "unix:/run/net", "unix-listen:net", "tap:tap0", "pcap:a.pcap", "none")

    specs = networks_of(texts)

    assert [(spec.kind, spec.target) for spec in specs] == [
        ("passt", ""),
        ("unix", "/run/net"),
        ("unix-listen", "net"),
        ("tap", "tap0"),
        ("pcap", "a.pcap"),
        ("none", ""),
    ]
    assert [format_mac(spec.mac)[-2:] for spec in specs] == ["56", "57", "58", "59", "5a", "5b"]


def test_an_address_and_a_beginning_can_be_said() -> None:
    (spec,) = networks_of(["pcap:a,,b.pcap,mac=02-00-00-00-00-01,at=1.5s"])

    assert spec == NetworkSpec("pcap", "a,b.pcap", bytes.fromhex("020000000001"), at_ns=1_500_000_000)


def test_a_forward_goes_by_passt_from_the_loopback_unless_it_says_otherwise() -> None:
    (spec,) = networks_of([], ["tcp:8080:80", "udp:0.0.0.0:5353:53"])

    assert spec.kind == "passt"
    assert spec.forwards == (
        Forward("tcp", "127.0.0.1", 8080, 80),
        Forward("udp", "0.0.0.0", 5353, 53),
    )


def test_a_forward_is_for_the_passt_among_others() -> None:
    specs = networks_of(["none", "passt"], ["tcp:8080:80"])

    assert [len(spec.forwards) for spec in specs] == [0, 1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not something to connect a network card to"),
        ("bridge:br0", "not something to connect a network card to"),
        ("passt:x", "write passt"),
        ("unix", "write unix:PATH"),
        ("unix:", "write unix:PATH"),
        ("tap:a/b", "'a/b' is no name of a network interface"),
        ("tap:tap%d", "is no name of a network interface"),
        ("tap:sixteen-letters!", "is no name of a network interface"),
        ("passt,mtu=9000", "no option 'mtu'"),
        ("passt,at=5s", "no option 'at'"),
        ("pcap:a,b.pcap", "no option 'b.pcap'"),
        ("passt,mac=52:54:00", "no Ethernet address"),
        ("passt,mac=01:00:5e:00:00:01", "the address of a group"),
        ("passt,mac=00:00:00:00:00:00", "is no address"),
        ("pcap:a,at=5", "is not a time"),
        ("pcap:a,at=50%", "is not a time"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        networks_of([text])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("8080:80", "not a port to forward"),
        ("tcp:8080", "not a port to forward"),
        ("sctp:1:2", "not a port to forward"),
        ("tcp:0:80", "0 is not a port"),
        ("tcp:80:65536", "65536 is not a port"),
        ("tcp:localhost:80:80", "'localhost' is no IPv4 address"),
        ("tcp:[::1]:80:80", "not a port to forward"),
    ],
)
def test_a_forward_that_cannot_be_meant_is_a_usage_error(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        networks_of(["passt"], [text])


def test_forwards_want_a_passt_and_each_port_once() -> None:
    with pytest.raises(UsageError, match="no --net is"):
        networks_of(["tap:tap0"], ["tcp:80:80"])
    with pytest.raises(UsageError, match="forwarded twice"):
        networks_of([], ["tcp:8080:80", "tcp:127.0.0.1:8080:81"])


def test_two_cards_do_not_share_an_address() -> None:
    with pytest.raises(UsageError, match="two network cards have the address 52:54:00:12:34:57"):
        networks_of(["none,mac=52:54:00:12:34:57", "none"])


def test_a_card_without_a_cable_loses_what_it_sends_and_nobody_is_told() -> None:
    (spec,) = networks_of(["none"])

    backend = open_network(spec, lambda: None)
    backend.send(bytes(60))

    assert (backend.frames(), backend.due_ns(), backend.fault) == ([], None, None)
    assert backend.drops == Drops()


def test_a_capture_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (spec,) = networks_of([f"pcap:{tmp_path}/none.pcap"])

    with pytest.raises(CaptureError, match=r"none\.pcap: No such file or directory"):
        open_network(spec, lambda: None)
