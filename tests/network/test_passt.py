"""Networks by a real passt: a port forwarded to a guest, and everything that can go wrong with another program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import wire
from library import environment
from programs import needed
from tiny_guest import ADDRESS, ROUTER, TinyGuest
from waiting import PATIENCE_S, Wakes, until

from revirt.errors import HostError
from revirt.monitor.network import Forward
from revirt.monitor.network.passt import PasstBackend
from revirt.packets import summarize


@pytest.fixture(autouse=True)
def _passt() -> None:
    needed("passt")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def backend(port: int) -> Iterator[PasstBackend]:
    with closing(PasstBackend(Wakes(), [Forward("tcp", "127.0.0.1", port, 80)])) as backend:
        yield backend


def test_a_program_of_the_host_talks_to_a_port_of_the_guest(backend: PasstBackend, port: int) -> None:
    guest = TinyGuest(backend)
    guest.find_router()

    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        assert guest.accept()[0] == ROUTER
        assert guest.port == 80
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert guest.receive(18) == b"GET / HTTP/1.0\r\n\r\n"
        guest.write(b"HTTP/1.0 200 OK\r\n\r\n")
        assert client.recv(64) == b"HTTP/1.0 200 OK\r\n\r\n"


def test_a_server_in_the_guest_may_speak_first(backend: PasstBackend, port: int) -> None:
    guest = TinyGuest(backend)
    guest.find_router()

    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        guest.accept()
        guest.write(b"220 welcome")

        assert client.recv(64) == b"220 welcome"


def test_the_guest_is_offered_the_address_of_qemus_networks(backend: PasstBackend) -> None:
    guest = TinyGuest(backend)
    client, server = ("0.0.0.0", 68), ("255.255.255.255", 67)

    guest.send(wire.udp(client, server, wire.dhcp(1)))

    assert summarize(guest.read()) == f"DHCP OFFER of 52:54:00:12:34:56 gives {ADDRESS}"


def test_the_hosts_own_hardware_address_is_not_told(backend: PasstBackend) -> None:
    answer = TinyGuest(backend).find_router()

    assert summarize(wire.ethernet(answer, 0x0806)) == "ARP 10.0.2.2 is at 52:55:0a:00:02:02"


def test_it_does_not_run_as_root_and_ends_with_the_network(backend: PasstBackend) -> None:
    process = backend._process._process
    status = Path(f"/proc/{process.pid}/status").read_text()

    assert "\nUid:\t0\t" not in status

    backend.close()
    assert process.poll() is not None
    assert backend.fault is None


def test_a_passt_that_dies_is_a_fault_and_no_more(backend: PasstBackend) -> None:
    backend._process._process.send_signal(signal.SIGKILL)
    until(lambda: backend.fault)

    assert backend.fault == "passt went away"
    backend.send(wire.ethernet(wire.arp(1, ADDRESS, ROUTER), 0x0806))
    assert backend.drops.outbound == 1


def test_it_ends_when_its_recorder_is_killed() -> None:
    script = (
        "from revirt.monitor.network.passt import PasstBackend\n"
        "import time\n"
        "print(PasstBackend(print)._process._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    recorder = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert recorder.stdout is not None
    with recorder.stdout:
        process = int(recorder.stdout.readline())
        recorder.kill()
        recorder.wait()

    until(lambda: not is_running(process), "the end of passt")


def is_running(process: int) -> bool:
    try:
        # Somebody has to reap it, which takes its time in a container.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_port_that_is_taken_is_named_with_what_can_be_done(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(HostError) as caught:
        PasstBackend(Wakes(), [Forward("tcp", "127.0.0.1", port, 80)])

    assert "passt does not start: Failed to bind" in str(caught.value)
    assert str(port) in str(caught.value)
    assert "something else listens there" in caught.value.hint


def test_ctrl_c_at_the_recorders_terminal_is_not_for_passt(backend: PasstBackend) -> None:
    assert os.getpgid(backend._process._process.pid) != os.getpgid(0)


def test_without_passt_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HostError, match="passt is not installed") as caught:
        PasstBackend(Wakes())

    assert "apt install passt" in caught.value.hint


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("echo Could not do it >&2; exit 1", "passt does not start: Could not do it"),
        ("exit 3", "passt does not start: status 3"),
    ],
)
def test_the_last_words_of_a_passt_that_does_not_start_are_passed_on(
    program: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "passt").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "passt").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    with pytest.raises(HostError) as caught:
        PasstBackend(Wakes())

    assert str(caught.value) == problem


def test_the_last_words_of_a_passt_that_dies_later_are_its_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Waits for the first frame, as something that goes wrong with that.
    (tmp_path / "passt").write_text(
        '#!/bin/bash\nwhile [ "$1" != --fd ]; do shift; done; fd=$2\n'
        'while [ "$1" != --pid ]; do shift; done; echo $$ > "$2"\n'
        'head -c 1 <&"$fd" > /dev/null; echo "Something is wrong" >&2\n'
    )
    (tmp_path / "passt").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    wakes = Wakes()

    with closing(PasstBackend(wakes)) as backend:
        backend.send(bytes(60))
        wakes.wait()

        assert backend.fault == "passt ended: Something is wrong"
