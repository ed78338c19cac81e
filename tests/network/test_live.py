"""Networks and the monitor: what cannot be connected, what is cut off, and where played frames arrive."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wire
from waiting import PATIENCE_S

from revirt.cli import main
from revirt.machine.inputs import ClockReading, Frame, Moment
from revirt.monitor.console import NullConsole
from revirt.monitor.live import Live
from revirt.monitor.network import networks_of, open_network
from revirt.monitor.network.framing import framed
from revirt.monitor.network.played import PlayedBackend
from revirt.monitor.sources import NetSource
from revirt.packets import CaptureWriter

FRAMES = [wire.ethernet(bytes([number]) * 50) for number in range(3)]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))


def test_a_network_that_there_is_not_leaves_no_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "recording"

    assert main(["record", "hello", "--net", f"unix:{tmp_path}/none", "--batch", "-o", str(output)]) == 1

    assert "cannot connect to" in capsys.readouterr().err
    assert not output.exists()


def test_a_network_that_goes_away_is_told_at_the_end_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave() -> None:
        listener.accept()[0].close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE_S)
        listener.bind(str(tmp_path / "net"))
        listener.listen()
        peer = threading.Thread(target=leave)
        peer.start()
        status = main(["record", "timer", "--net", f"unix:{tmp_path}/net", "--batch", "--json"])
        peer.join()

    assert status == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [f"network card 0: {tmp_path}/net went away"]


@pytest.mark.parametrize(
    ("net", "warnings"),
    [
        ("unix-listen:{}/net", ["at least 2 of the guest's frames were lost: the far end did not take them"]),
        ("none", []),  # as was asked for
    ],
)
def test_frames_that_the_far_end_did_not_take_are_counted(
    net: str, warnings: list[str], tmp_path: Path
) -> None:
    (spec,) = networks_of([net.format(tmp_path)])
    source = NetSource(0, lambda wake: open_network(spec, wake))
    source.connect(lambda: None)

    with closing(source):
        source.send(bytes(60))
        source.send(bytes(60))

        assert list(source.warnings) == warnings


def test_frames_without_a_driver_harm_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def send() -> None:
        with listener.accept()[0] as peer:
            peer.sendall(b"".join(framed(frame) for frame in FRAMES))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE_S)
        listener.bind(str(tmp_path / "net"))
        listener.listen()
        peer = threading.Thread(target=send)
        peer.start()
        status = main(
            [
                "record",
                "timer",
                "--net",
                f"unix:{tmp_path}/net",
                "-o",
                str(tmp_path / "made"),
                "--batch",
                "--json",
            ]
        )
        peer.join()
    capsys.readouterr()

    assert status == 0
    assert main(["replay", str(tmp_path / "made"), "-q"]) == 0


# -- played in by the machine's clock --------------------------------------------------------------------------------


class Clock:
    """A clock of one nanosecond for each branch."""

    ns_per_branch = 1

    def __init__(self) -> None:
        self.now_ns = 0

    def branches_at(self, ns: int) -> int:
        return ns


def live_with(path: Path, times_ns: list[int]) -> tuple[Live, Any]:
    """Return a monitor by the virtual clock that plays frames of those times, and the machine that it has."""
    with open(path, "wb") as file:
        writer = CaptureWriter(file)
        for time_ns, frame in zip(times_ns, FRAMES, strict=True):
            writer.write(0, time_ns, frame, is_inbound=True, comment="")
    nics = [SimpleNamespace(can_receive=True)]
    machine = SimpleNamespace(
        core=SimpleNamespace(branches=0),
        clock=Clock(),
        board=SimpleNamespace(peripherals=SimpleNamespace(nics=nics), uart=None),
        request_stop=lambda: None,
    )
    live = Live(
        NullConsole(),
        "virtual",
        until=None,
        progress=None,
        sources=[NetSource(0, lambda wake: PlayedBackend(path, 1000))],
    )
    live.connect()
    live.attach(machine)  # type: ignore[arg-type]
    return live, machine


def test_the_machine_stops_where_a_frame_is_due(tmp_path: Path) -> None:
    live, machine = live_with(tmp_path / "a.pcapng", [0, 500, 500])

    assert live.horizon(10) == 1000
    assert live.arrivals(Moment(999, False, 0)) == []
    machine.clock.now_ns = 1000
    assert live.arrivals(Moment(1000, False, 0)) == [Frame(0, FRAMES[0])]
    assert live.arrivals(Moment(1000, False, 0)) == []
    assert live.horizon(1000) == 1500
    # What is late, because the card could not take it, comes as soon as it can.
    assert live.horizon(1600) == 1601
    live.close()


@pytest.mark.parametrize("wake_ns", [None, 2000])
def test_the_clock_of_a_halted_guest_goes_on_to_the_next_frame(tmp_path: Path, wake_ns: int | None) -> None:
    live, machine = live_with(tmp_path / "a.pcapng", [0, 500, 600])
    moment = Moment(10, True, 0)

    assert live.idle(moment, wake_ns) == [ClockReading(1000)]
    machine.clock.now_ns = 1000
    assert live.arrivals(moment) == [Frame(0, FRAMES[0])]
    live.close()


def test_the_clock_of_a_halted_guest_goes_on_to_a_timer_that_is_due_before(tmp_path: Path) -> None:
    live, _ = live_with(tmp_path / "a.pcapng", [0, 500, 600])

    assert live.idle(Moment(10, True, 0), 900) == []
    live.close()
