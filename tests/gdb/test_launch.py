"""Starting gdb: what can be wrong with where it is to connect."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from gdb_session import Served
from library import RecordingOf

from revirt.cli import main
from revirt.errors import HostError
from revirt.gdb import gdb_command

GUESTS = Path(__file__).parents[2] / "guests"


def test_without_gdb_nothing_can_be_launched() -> None:
    with pytest.raises(HostError, match="no-such-gdb"):
        gdb_command("/socket", None, program="no-such-gdb")


def test_a_socket_is_for_its_owner_and_goes_with_the_server(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    path = tmp_path / "socket"

    with Served(recording_of("hello"), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert not path.exists()


def test_a_port_that_is_taken_is_said_to_be(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        status = main(["gdb", str(recording_of("hello").path), "--port", str(port)])

    assert status == HostError.exit_status
    assert f"cannot listen at 127.0.0.1 port {port}" in capsys.readouterr().err


def test_an_address_that_is_not_this_hosts_is_refused(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in ("192.0.2.1", "x" * 70):  # the first is for documents only: RFC 5737
        assert main(["gdb", str(recording_of("hello").path), "--listen", address]) == HostError.exit_status

        assert f"cannot listen at {address}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["there", "x" * 200])
def test_a_socket_that_cannot_be_made_is_an_error(
    recording_of: RecordingOf, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").touch()

    status = main(["gdb", str(recording_of("hello").path), "--socket", str(tmp_path / name)])

    assert status == HostError.exit_status
    assert "cannot listen at" in capsys.readouterr().err
    assert (tmp_path / "there").exists()


def test_symbols_are_for_a_gdb_that_is_launched(recording_of: RecordingOf) -> None:
    assert main(["gdb", str(recording_of("hello").path), "--symbols", "vmlinux"]) == 2
