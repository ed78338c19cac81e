"""``revirt net``: the packets of a recording, as rows, as bytes, and as a file for other programs."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
import wire
from library import COMMAND, RecordingOf, environment
from programs import run
from woven import Passing, woven

from revirt.cli import main
from revirt.cli.packets import packet_rows
from revirt.errors import UsageError
from revirt.log.events import Kind
from revirt.position import Edge
from revirt.recording import Recording
from revirt.recording.frames import LogClock
from revirt.replay.timing import event_times

GUEST, HOST = ("10.0.2.15", 80), ("10.0.2.2", 40000)
SYN, ACK, PUSH = wire.SYN, wire.ACK, wire.PUSH
EPOCH = 1_700_000_000


def inbound(branches: int, flags: int, sequence: int, acknowledged: int = 0, data: bytes = b"") -> Passing:
    return Passing(branches, wire.ethernet(wire.tcp(HOST, GUEST, flags, sequence, acknowledged, data)))


def outbound(branches: int, flags: int, sequence: int, acknowledged: int, data: bytes = b"") -> Passing:
    frame = wire.ethernet(wire.tcp(GUEST, HOST, flags, sequence, acknowledged, data))
    return Passing(branches, frame, is_inbound=False)


PASSING = [
    Passing(100, wire.ethernet(wire.arp(1, "10.0.2.2", "10.0.2.15"), 0x0806), halted=True),
    Passing(150, wire.ethernet(wire.udp(GUEST, HOST, b"?")), is_inbound=False, card=1),
    inbound(200, SYN, 1000),
    outbound(210, SYN | ACK, 9000, 1001),
    inbound(220, ACK | PUSH, 1001, 9001, b"GET / HTTP/1.0\r\n"),
    outbound(230, ACK, 9001, 1017),
    inbound(240, ACK | PUSH, 1001, 9001, b"GET / HTTP/1.0\r\n"),
    inbound(250, ACK | PUSH, 1017, 9001, b"\r\n"),
    outbound(260, ACK | PUSH, 9001, 1019, b"\x1b[31mred"),
]


@pytest.fixture
def talk(recording_of: RecordingOf, tmp_path: Path) -> Recording:
    """A recording by the virtual clock, with a conversation in it."""
    return woven(recording_of("hello", "virtual"), tmp_path / "talk", PASSING)


@pytest.fixture
def live_talk(recording_of: RecordingOf, tmp_path: Path) -> Recording:
    """The same by the host's clock."""
    return woven(recording_of("hello", "host"), tmp_path / "live", PASSING)


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert main(["net", *words, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_packets_are_listed_with_where_they_were_and_what_they_are(
    live_talk: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["net", str(live_talk.path)]) == 0

    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["#", "POSITION", "HLT", "TIME", "DIR", "CARD", "LENGTH", "TCP", "SUMMARY"]
    assert len(lines) == len(PASSING)
    assert lines[0].split()[1:] == (
        f"100:0 hlt {lines[0].split()[3]} in 0 42 ARP who has 10.0.2.15, asks 10.0.2.2".split()
    )
    assert " out     1      43       UDP 10.0.2.15:80 > 10.0.2.2:40000 len 1" in lines[1]
    assert "0  TCP 10.0.2.2:40000 > 10.0.2.15:80 SYN seq 1000 win 64240 len 0" in lines[2]


def test_every_form_has_the_rows(talk: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, str(talk.path), "--log-only")
    main(["net", str(talk.path), "--log-only", "--jsonl"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    main(["net", str(talk.path), "--log-only", "--csv"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    assert lines == found
    assert [row["position"] for row in found] == [f"{each.branches}:0" for each in PASSING]
    assert [row["data"] for row in found] == [each.data.hex() for each in PASSING]
    assert [row["direction"] for row in found] == ["in" if each.is_inbound else "out" for each in PASSING]
    assert [row["stream"] for row in found] == [None, None, *[0] * 7]
    assert [row["summary"] for row in table] == [row["summary"] for row in found]


def test_the_number_of_a_packet_is_that_of_its_event(
    talk: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    (number, *_) = (row["ordinal"] for row in rows(capsys, str(talk.path), "--log-only"))

    events = list(talk.events())
    assert isinstance(number, int)
    assert (events[number].kind, events[number].branches) == (Kind.FRAME_IN, 100)


def test_packets_between_two_points(talk: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, str(talk.path), "--log-only", "--from", "210", "--to", "240")

    assert [row["branches"] for row in found] == [210, 220, 230, 240]
    assert {row["stream"] for row in found} == {0}


def test_a_recording_without_a_network_has_no_packets(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows(capsys, str(recording_of("hello").path)) == []


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guest", ["timer", "echo"])
def test_the_log_tells_the_time_by_the_hosts_clock_as_a_replay_does(
    guest: str, recording_of: RecordingOf
) -> None:
    recording = recording_of(guest, "host")
    clock = LogClock.at_checkpoint(recording, 0)
    told = []
    for ordinal, event in enumerate(recording.events()):
        if ordinal > recording.checkpoints[0].event:
            told.append((ordinal, clock.ns_at(event.branches)))
            clock.follow(event)

    replayed = list(event_times(recording, Edge.START))

    assert len(told) > 5
    assert told == replayed


def test_times_by_the_virtual_clock_are_asked_of_a_replay(
    talk: Recording, recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A replay cannot send what was woven in: another one stands for it, with times of its own.
    monkeypatch.setattr(
        "revirt.replay.timing.event_times", lambda *_: ((number, number * 1000) for number in range(99))
    )

    found = list(packet_rows(talk, 200))

    assert [row.guest_ns for row in found] == [row.ordinal * 1000 for row in found]
    assert {row.guest_ns for row in packet_rows(talk, log_only=True)} == {None}


# -- connections -----------------------------------------------------------------------------------------------------


def test_a_connection_is_put_together(live_talk: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, str(live_talk.path), "--stream", "0")

    assert [(row["direction"], row["offset"], bytes.fromhex(str(row["data"]))) for row in found] == [
        ("in", 0, b"GET / HTTP/1.0\r\n"),
        ("in", 16, b"\r\n"),
        ("out", 0, b"\x1b[31mred"),
    ]


def test_what_a_connection_carried_cannot_move_the_cursor(
    live_talk: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["net", str(live_talk.path), "--stream", "0"]) == 0

    assert r'"\x1b[31mred"' in capsys.readouterr().out


def test_the_bytes_of_one_direction_are_printed_as_they_were(
    live_talk: Recording, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    command = [*COMMAND, "net", str(live_talk.path), "--stream", "0", "--raw", "in"]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True, timeout=60)

    assert done.stdout == b"GET / HTTP/1.0\r\n\r\n"


def test_bytes_that_never_came_are_counted(
    recording_of: RecordingOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passing = [inbound(200, SYN, 1000), inbound(210, ACK, 1011, 1, b"behind")]
    recording = woven(recording_of("hello", "host"), tmp_path / "gap", passing)

    (row,) = rows(capsys, str(recording.path), "--stream", "0")

    assert (row["offset"], row["missing"], row["branches"]) == (10, 10, 210)


@pytest.mark.parametrize("more", [[], ["--raw", "in"], ["--json"], ["-o", "no.pcapng"]])
def test_a_connection_that_there_is_not_is_refused(
    more: list[str],
    live_talk: Recording,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    assert main(["net", str(live_talk.path), "--stream", "7", *more]) == UsageError.exit_status

    assert "no TCP connection 7: the last one is 0" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_of_a_part_before_a_connection_there_is_nothing_to_show(
    live_talk: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows(capsys, str(live_talk.path), "--stream", "0", "--to", "0") == []


def test_a_recording_without_connections_has_none_to_show(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["net", str(recording_of("hello", "virtual").path), "--stream", "0"]) == UsageError.exit_status
    )

    assert "no TCP connection 0: there is none" in capsys.readouterr().err


# -- capture files ---------------------------------------------------------------------------------------------------


def test_tshark_opens_what_is_written_and_shows_the_positions(
    live_talk: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.pcapng"
    assert main(["net", str(live_talk.path), "-o", str(file)]) == 0

    fields = ("comment", "interface_name", "packet_flags_direction", "protocols")
    text = run(
        "tshark", "-r", file, "-T", "fields", *(word for name in fields for word in ("-e", f"frame.{name}"))
    )

    found = [line.split("\t") for line in text.splitlines()]
    assert [row[0] for row in found] == [f"position {each.branches}:0" for each in PASSING]
    assert [row[1] for row in found] == [f"card {each.card}" for each in PASSING]
    assert [int(row[2], 0) for row in found] == [1 if each.is_inbound else 2 for each in PASSING]
    assert found[0][3] == "eth:ethertype:arp"
    assert found[2][3] == "eth:ethertype:ip:tcp"


def test_tshark_finds_the_same_times_and_the_same_connection(live_talk: Recording, tmp_path: Path) -> None:
    file = tmp_path / "talk.pcapng"
    main(["net", str(live_talk.path), "-o", str(file)])

    times = run("tshark", "-r", file, "-T", "fields", "-e", "frame.time_epoch").split()
    follow = run("tshark", "-r", file, "-q", "-z", "follow,tcp,raw,0").split()

    epoch_ns = live_talk.manifest.machine["epoch"] * 10**9
    told = [epoch_ns + (row.guest_ns or 0) for row in packet_rows(live_talk)]
    assert times == [f"{ns // 10**9}.{ns % 10**9:09}" for ns in told]
    assert b"GET / HTTP/1.0\r\n".hex() in follow


def test_a_file_of_one_connection_has_that_alone(live_talk: Recording, tmp_path: Path) -> None:
    file = tmp_path / "talk.pcapng"

    main(["net", str(live_talk.path), "--stream", "0", "-o", str(file)])

    assert len(run("tshark", "-r", file).splitlines()) == 7


def test_a_capture_goes_through_a_pipe(live_talk: Recording, tmp_path: Path) -> None:
    file = tmp_path / "talk.pcapng"
    main(["net", str(live_talk.path), "-o", str(file)])

    command = [*COMMAND, "net", str(live_talk.path), "-o", "-"]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True, timeout=60)

    assert done.stdout == file.read_bytes()


def test_a_file_that_is_there_is_replaced_only_if_that_is_said(
    live_talk: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.pcapng"
    file.write_text("mine")

    assert main(["net", str(live_talk.path), "-o", str(file)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main(["net", str(live_talk.path), "-o", str(file), "--force"]) == 0
    assert file.read_bytes().startswith(b"\x0a\x0d\x0d\x0a")


def test_a_recording_that_is_damaged_leaves_no_file(
    live_talk: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (segment,) = (live_talk.path / "log").iterdir()
    segment.write_bytes(segment.read_bytes()[:-1])
    (tmp_path / "here").mkdir()

    assert main(["net", str(live_talk.path), "-o", str(tmp_path / "here" / "x.pcapng")]) == 4

    assert os.listdir(tmp_path / "here") == []


def test_a_place_that_cannot_be_written_is_an_error(
    live_talk: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["net", str(live_talk.path), "-o", str(tmp_path / "none" / "x.pcapng")]) == 1

    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--raw", "in"], "--raw prints a connection"),
        (["--raw", "in", "--stream", "0", "--json"], "bytes, and not rows"),
        (["--raw", "in", "--stream", "0", "-o", "x"], "-o writes packets"),
        (["-o", "x", "--json"], "prints no rows"),
        (["-o", "x", "--log-only"], "may leave unknown"),
        (["--from", "400000000000"], "ends before"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(
    words: list[str], problem: str, talk: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["net", str(talk.path), *words]) == 2

    assert problem in capsys.readouterr().err


def test_a_terminal_gets_no_packets(talk: Recording) -> None:
    ours, theirs = pty.openpty()

    command = [*COMMAND, "net", str(talk.path), "-o", "-"]
    done = subprocess.run(
        command, env=environment(), stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=60
    )

    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert b"nothing for a terminal" in done.stderr
