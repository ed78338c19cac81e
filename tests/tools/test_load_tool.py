"""Recordings under load: one in earnest, and what its own parts would notice."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import load
import pytest
from library import RecordingOf
from loading import Load, relay
from loading.guest import compile_program, write_script
from loading.judge import judge, judge_elsewhere
from loading.peers import Exchange, Peers
from loading.relay import Fault, Flood
from loading.trial import Trial, heard

from revirt.monitor.script import Script
from revirt.recording import RecordingState

FRAMES = [struct.pack(">I", number) * 16 for number in range(2000)]
GUEST, ROUTER = b"\x52\x54\0\0\0\x01", b"\x52\x55\0\0\0\x02"


# -- in earnest ------------------------------------------------------------------------------------------------


@pytest.mark.debian
@pytest.mark.xdist_group("debian")
def test_a_recording_under_load_replays_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recordings", "1", "--megabytes", "1", "--operations", "60", "--flood-s", "0.5", "--seed", "3"]
    words += ["--drop", "4000", "--duplicate", "4000", "--reorder", "8000", "--connections", "4"]

    status = load.main([*words, "--jobs", "1", "--json", "--directory", str(tmp_path)])

    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert (status, trial["problems"]) == (0, [])
    counts = trial["counts"]
    assert counts["moved"] == 2_000_000
    assert counts["frames_out"] > 700
    for name in ("writes", "answered", "retransmitted", "dropped", "duplicated", "overtaken"):
        assert counts[name] > 0, name


# -- the cable -------------------------------------------------------------------------------------------------


def carry(fault: Fault) -> list[bytes]:
    return [out for frame in FRAMES for out in fault.carry(frame)] + fault.let_go()


def test_a_cable_does_what_is_asked_of_it_and_the_same_for_the_same_seed() -> None:
    bad = Load(drop=100_000, duplicate=100_000, reorder=100_000)

    fault = Fault(bad, "seed")
    out = carry(fault)

    counts = fault.counts
    assert sum(counts.values()) == len(FRAMES)
    assert all(150 < counts[fate] < 250 for fate in ("dropped", "duplicated", "overtaken"))
    came = Counter(out)
    assert len(FRAMES) - len(came) == counts["dropped"]
    assert sum(count == 2 for count in came.values()) == counts["duplicated"]
    assert out == carry(Fault(bad, "seed"))
    assert out != carry(Fault(bad, "another"))


def test_overtaken_frames_come_late_and_are_not_lost() -> None:
    out = carry(Fault(Load(drop=0, duplicate=0, reorder=50_000), "seed"))

    assert sorted(out) == sorted(FRAMES)
    late = [number for number, frame in enumerate(out) if frame in FRAMES[: max(0, number)]]
    assert late
    assert all(abs(FRAMES.index(frame) - number) <= 20 for number, frame in enumerate(out))


def test_a_good_cable_carries_everything_as_it_is() -> None:
    assert carry(Fault(Load(drop=0, duplicate=0, reorder=0), "seed")) == FRAMES


def test_the_last_frame_is_let_go_though_nothing_overtakes_it() -> None:
    fault = Fault(Load(drop=0, duplicate=0, reorder=1_000_000), "seed")

    assert fault.carry(b"alone") == []
    assert fault.let_go() == [b"alone"]
    assert fault.let_go() == []


def checksum(data: bytes) -> int:
    words = struct.unpack(f">{len(data) // 2}H", data) if len(data) % 2 == 0 else ()
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_pings_are_well_formed_and_only_their_answers_are_kept_back() -> None:
    flood = Flood(10.0, "seed")
    flood.start()

    pings = flood.due(GUEST, ROUTER)

    assert len(pings) == flood.sent == 16
    for ping in pings:
        assert ping[:14] == GUEST + ROUTER + b"\x08\x00"
        assert checksum(ping[14:34]) == 0xFFFF
        echo = ping[34:]
        assert checksum(echo + bytes(len(echo) % 2)) == 0xFFFF
    answer = pings[0][:34] + b"\0" + pings[0][35:]
    stranger = answer[:38] + b"\0\0" + answer[40:]
    assert not flood.due(GUEST, ROUTER)
    assert flood.takes(answer)
    assert not flood.takes(stranger)
    assert not flood.takes(pings[1])
    assert len(flood.due(GUEST, ROUTER)) == 1
    assert flood.answered == 1


def test_a_flood_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(relay.time, "monotonic", lambda: now[0])
    flood = Flood(2.0, "seed")

    before = flood.due(GUEST, ROUTER)
    flood.start()
    during = flood.due(GUEST, ROUTER)
    now[0] += 2.0
    after = flood.due(GUEST, ROUTER)

    assert (len(before), len(during), len(after)) == (0, 16, 0)


# -- the program in the guest, run here ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("program") / "load")


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


def test_both_ends_find_that_they_got_what_was_sent(program: Path) -> None:
    exchanges = [Exchange(300_001, 70_000, 5), Exchange(0, 1, 6), Exchange(65_536, 1 << 20, 0)]

    with Peers(exchanges, []) as peers:
        done = run(program, "call", "127.0.0.1", peers.port, 3)
        problems = peers.problems()

    assert (done.stdout, done.returncode, problems) == ("load: call: 3 of 3 right\n", 0, [])
    assert peers.moved == 300_001 + 70_000 + 1 + 65_536 + (1 << 20)


class Mangling(Exchange):
    """Gets a bit wrong of what it sends."""

    def _send(self, link: socket.socket) -> bytes:
        digest = super()._send(link)
        return bytes([digest[0] ^ 1]) + digest[1:]


class Deaf(Exchange):
    """Gets a bit wrong of what it receives."""

    def _receive(self, link: socket.socket) -> bytes | None:
        digest = super()._receive(link)
        return digest and bytes([digest[0] ^ 1]) + digest[1:]


@pytest.mark.parametrize(
    ("kind", "right", "problems"),
    [(Mangling, 1, ["the guest got something else than was sent"]), (Deaf, 0, [])],
)
def test_each_end_finds_what_was_changed_on_its_way(
    program: Path, kind: type[Exchange], right: int, problems: list[str]
) -> None:
    with Peers([kind(10_000, 10_000, 9)], []) as peers:
        done = run(program, "call", "127.0.0.1", peers.port, 1)
        found = peers.problems()

    assert (done.stdout, found) == (f"load: call: {right} of 1 right\n", problems)
    assert done.returncode == 1 - right


def test_a_guest_that_hangs_up_and_one_that_never_comes_are_problems() -> None:
    with Peers([Exchange(10, 10, 1), Exchange(10, 10, 2)], []) as peers:
        with socket.create_connection(("127.0.0.1", peers.port)) as link:
            link.recv(24)
        while not peers.has_begun:
            pass
        problems = peers.problems()

    assert problems[1:] == ["1 connections were never made"]
    assert problems[0].startswith(("the guest hung up", "the connection broke"))


def test_the_file_is_what_the_program_takes_it_for(program: Path, tmp_path: Path) -> None:
    done = run(program, "disk", tmp_path / "file", 300, 7)

    assert (done.stdout, done.returncode) == ("load: disk: 300 of 300 right\n", 0)
    assert (tmp_path / "file").stat().st_size > 0


def test_a_disk_that_does_not_take_what_is_written_is_noticed(program: Path) -> None:
    done = run(program, "disk", "/dev/full", 300, 7)

    assert "went wrong" in done.stdout
    assert done.returncode == 1


# -- what the guest says, and what its recording is ------------------------------------------------------------


def said(serve: str = "3 of 3", disk: str = "9 of 9") -> bytes:
    lines = [f"load: serve: {serve} right", "load: call: 3 of 3 right", f"load: disk: {disk} right"]
    lines += ["Tcp: RtoAlgorithm RetransSegs InErrs", "Tcp: 1 42 0"]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        (said(), []),
        (said(serve="2 of 3"), ["serve"]),
        (said(disk="0 of 9"), ["disk"]),
        (said(disk="0 of 0"), ["disk"]),
        (b"", ["serve", "call", "disk"]),
    ],
)
def test_what_the_guest_complains_of_is_heard(output: bytes, wrong: list[str]) -> None:
    trial = Trial(name="trial")

    problems = heard(output, trial)

    assert problems == [f"the guest: {name}: not right" for name in wrong]
    assert trial.counts == ({"retransmitted": 42} if output else {})


def test_the_script_waits_for_what_is_printed_and_not_for_what_is_typed(tmp_path: Path) -> None:
    script = Script.load(write_script(tmp_path / "script", "true"))

    texts = [command.text for command in script.commands if hasattr(command, "text")]

    assert b"load: over" in texts
    assert not any(b"load: over" in text and text != b"load: over" for text in texts)


def judged(path: Path, state: RecordingState = RecordingState.COMPLETE, **options: Any) -> list[str]:
    found: list[str] = judge(path, state, is_whole=options.get("is_whole", False))["problems"]
    return found


def test_a_sound_recording_has_no_problems_and_replays_from_every_checkpoint(
    recording_of: RecordingOf,
) -> None:
    recording = recording_of("timer", checkpoint_every=50_000)

    found = judge(recording.path, RecordingState.COMPLETE, is_whole=False)

    assert found["problems"] == []
    assert found["counts"]["replays"] == found["counts"]["checkpoints"] == len(recording.checkpoints) > 2


def test_a_recording_that_is_not_what_it_should_be_is_told(recording_of: RecordingOf, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(recording_of("hello").path, path)

    mistaken = judged(path, RecordingState.INTERRUPTED)
    segment = next((path / "log").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(Exception, match="seg"):
        judged(path)

    assert mistaken[0] == "its state is complete, not interrupted"


def test_a_recording_that_cannot_be_judged_is_a_problem(tmp_path: Path) -> None:
    found = judge_elsewhere(tmp_path / "none", RecordingState.COMPLETE, is_whole=False)

    assert "not a recording" in "".join(found["problems"])
