"""Networks on TAP interfaces of this host, with the host's own network at the other end.

Whoever may not make interfaces sees that he is told so; CI runs as root.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import wire
from waiting import PATIENCE_S, Wakes, until

from revirt.errors import HostError
from revirt.monitor.network.tap import TapBackend

NAME = f"rv{os.getpid() % 10**8}"
ETHERTYPE = 0x88B5  # for experiments (IEEE 802)


def may_make_interfaces() -> bool:
    capabilities = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")
    )
    return bool(int(capabilities.split()[1], 16) >> 12 & 1) and os.path.exists(
        "/dev/net/tun"
    )  # CAP_NET_ADMIN


needs_tap = pytest.mark.skipif(not may_make_interfaces(), reason="wants CAP_NET_ADMIN and /dev/net/tun")


@pytest.fixture
def backend() -> Iterator[TapBackend]:
    with closing(TapBackend(Wakes(), NAME)) as backend:
        yield backend


@pytest.fixture
def neighbour(backend: TapBackend) -> Iterator[socket.socket]:
    """The host's end of the interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as end:
        end.bind((NAME, ETHERTYPE))
        end.settimeout(PATIENCE_S)
        yield end


@needs_tap
def test_what_the_guest_sends_arrives_at_the_host(backend: TapBackend, neighbour: socket.socket) -> None:
    frame = wire.ethernet(b"from the guest".ljust(50), ETHERTYPE)

    backend.send(frame)

    assert neighbour.recv(2000) == frame


@needs_tap
def test_what_the_host_sends_arrives_at_the_guest(backend: TapBackend, neighbour: socket.socket) -> None:
    frame = wire.ethernet(b"from the host".ljust(50), ETHERTYPE)

    neighbour.send(frame)

    # The host says more on a new interface, of IPv6.
    assert until(lambda: [each for each in backend.frames() if each == frame])


@needs_tap
def test_an_interface_that_was_made_for_it_goes_with_it(backend: TapBackend) -> None:
    assert NAME in dict(socket.if_nameindex()).values()

    backend.close()

    assert NAME not in dict(socket.if_nameindex()).values()


@needs_tap
def test_an_interface_belongs_to_one_guest(backend: TapBackend) -> None:
    with pytest.raises(HostError, match="Device or resource busy") as caught:
        TapBackend(Wakes(), NAME)

    assert caught.value.hint == "another program has that interface"


@needs_tap
def test_an_interface_that_is_no_tap_is_left_alone() -> None:
    with pytest.raises(HostError, match="cannot have the TAP interface lo") as caught:
        TapBackend(Wakes(), "lo")

    assert caught.value.hint == "there is an interface of that name which is no TAP"


def test_who_may_not_make_interfaces_is_told_who_may() -> None:
    script = (
        "from revirt.errors import HostError\n"
        "from revirt.monitor.network.tap import TapBackend\n"
        "try: TapBackend(print, 'rvnever')\n"
        "except HostError as error: print(error, '|', error.hint)\n"
    )

    done = subprocess.run(as_nobody(script), capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.startswith("cannot "), done.stderr
    assert "ip tuntap add rvnever mode tap user" in done.stdout or "/dev/net/tun" in done.stdout


def as_nobody(script: str) -> list[str]:
    lines = f"import os, sys\nsys.path = {sys.path!r}\n"
    lines += "import revirt.monitor.network.tap\nif os.getuid() == 0: os.setgroups([]); os.setuid(65534)\n"
    return [sys.executable, "-c", lines + script]


def test_the_request_is_as_long_as_the_kernel_has_it() -> None:
    from revirt.monitor.network.tap import _REQUEST

    assert struct.calcsize(_REQUEST) == 40
