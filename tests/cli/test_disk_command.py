"""``revirt disk``, and what other commands say of disks."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from disk_guest import SECTOR, disk_guest, written
from library import RecordingOf, built
from programs import needed
from programs import run as run_program

from revirt.cli import main
from revirt.log.events import Kind
from revirt.monitor.console import NullConsole
from revirt.monitor.plugs import DiskPlug, Plugs
from revirt.monitor.session import RecordOptions, record
from revirt.position import Edge
from revirt.recording import Recording
from revirt.replay.timing import event_times

ROUNDS = 20
BASE = Random(1).randbytes(64 * SECTOR)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(BASE)
    return path


def make(name: str, images: list[Path], clock: Any = "virtual", overlay: int = 1 << 20) -> Recording:
    plugs = Plugs(disks=tuple(DiskPlug(path, overlay) for path in images))
    options = RecordOptions(clock=clock, checkpoint_every=1_000, plugs=plugs)
    with NullConsole() as console:
        record(disk_guest(Path(), rounds=ROUNDS), console, options, Path(name))
    return Recording.open(Path(name))


@pytest.fixture
def recording(image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recording:
    monkeypatch.setenv("REVIRT_CACHE", str(tmp_path / "cache"))
    return make("made", [image])


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


# -- the list of writes -----------------------------------------------------------------------------------------


def test_it_lists_what_was_written_where_and_when(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(said(capsys, "disk", "made", "--json"))

    events = [(number, event) for number, event in enumerate(recording.events()) if event.kind is Kind.STORED]
    times = dict(event_times(recording, Edge.START))
    assert len(rows) == ROUNDS
    for number, (row, (ordinal, event)) in enumerate(zip(rows, events, strict=True), 1):
        sector = 7 * number % 64
        after = written(BASE, number)[sector * SECTOR : (sector + 1) * SECTOR]
        assert row == {
            "ordinal": ordinal,
            "position": f"{event.branches}:0",
            "branches": event.branches,
            "halted": False,
            "guest_ns": times[ordinal],
            "disk": 0,
            "sector": sector,
            "size": SECTOR,
            "digest": hashlib.blake2b(after, digest_size=8).hexdigest(),
        }


def test_the_log_of_a_host_clock_tells_the_times(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = make("made", [image], clock="host")

    rows = json.loads(said(capsys, "disk", "made", "--json", "--log-only"))

    times = dict(event_times(recording, Edge.START))
    assert [row["guest_ns"] for row in rows] == [times[row["ordinal"]] for row in rows]


@pytest.mark.usefixtures("recording")
def test_it_has_a_table_lines_and_csv(capsys: pytest.CaptureFixture[str]) -> None:
    table = said(capsys, "disk", "made").splitlines()
    lines = [json.loads(line) for line in said(capsys, "disk", "made", "--jsonl").splitlines()]
    rows = list(csv.DictReader(io.StringIO(said(capsys, "disk", "made", "--csv"))))

    assert table[0].split() == ["#", "POSITION", "HLT", "TIME", "DISK", "SECTOR", "BYTES", "HASH"]
    assert len(table) - 1 == len(lines) == len(rows) == ROUNDS
    assert table[1].split()[-3:] == ["7", "512", lines[0]["digest"]]
    assert rows[0]["sector"] == "7"


@pytest.mark.usefixtures("recording")
def test_a_range_of_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    every = json.loads(said(capsys, "disk", "made", "--json"))
    first, last = every[3], every[8]

    part = json.loads(
        said(
            capsys, "disk", "made", "--from", first["position"], "--to", f"event:{last['ordinal']}", "--json"
        )
    )

    assert part == every[3:9]


@pytest.mark.usefixtures("recording")
def test_without_a_replay_the_virtual_clock_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(said(capsys, "disk", "made", "--log-only", "--json"))

    assert {row["guest_ns"] for row in rows} == {None}


def test_the_writes_to_one_disk_are_listed(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.img").write_bytes(BASE)
    make("made", [image, tmp_path / "other.img"])

    assert len(json.loads(said(capsys, "disk", "made", "--number", "0", "--json"))) == ROUNDS
    assert json.loads(said(capsys, "disk", "made", "--number", "1", "--json")) == []


def test_a_recording_without_disks_has_no_writes(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(recording_of("hello").path)

    assert json.loads(said(capsys, "disk", path, "--json")) == []
    assert main(["disk", path, "-o", "x.img"]) == 2
    assert "has no disk; there is no disk 0" in capsys.readouterr().err


# -- what a disk held -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("recording")
def test_it_takes_out_what_a_disk_held_at_any_moment(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(said(capsys, "disk", "made", "--json"))

    said(capsys, "disk", "made", "--at", f"event:{rows[9]['ordinal']}", "-o", "middle.img")
    said(capsys, "disk", "made", "-o", "end.img")
    said(capsys, "disk", "made", "--at", "start", "-o", "start.img", "--number", "0")

    assert (here / "middle.img").read_bytes() == written(BASE, 10)
    assert (here / "end.img").read_bytes() == written(BASE, ROUNDS)
    assert (here / "start.img").read_bytes() == BASE


@pytest.mark.usefixtures("recording")
def test_it_says_what_it_took_out(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(said(capsys, "disk", "made", "--at", "start", "-o", "a.img", "--json"))
    text = said(capsys, "disk", "made", "-o", "b.img")

    assert facts == {
        "path": "a.img",
        "position": "0:0",
        "number": 0,
        "size": len(BASE),
        "blocks_written": 0,
    }
    assert re.fullmatch(
        r"written: b\.img, disk 0 at \d+:\d+, 32 KiB, 8 blocks of 4 KiB written by the guest\n", text
    )


@pytest.mark.usefixtures("recording")
def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.img").write_bytes(b"mine")

    assert main(["disk", "made", "-o", "mine.img"]) == 1

    assert "mine.img exists already" in capsys.readouterr().err
    assert (here / "mine.img").read_bytes() == b"mine"


@pytest.mark.usefixtures("recording")
def test_what_cannot_be_taken_out_leaves_no_file(here: Path) -> None:
    before = sorted(os.listdir(here))

    assert main(["disk", "made", "--at", "999999999", "-o", "x.img"]) == 2
    assert main(["disk", "made", "--number", "1", "-o", "x.img"]) == 2
    assert main(["disk", "made", "-o", "nowhere/x.img"]) == 1

    assert sorted(os.listdir(here)) == before


def test_of_several_disks_it_wants_to_know_which(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.img").write_bytes(BASE[::-1])
    make("made", [image, tmp_path / "other.img"])

    assert main(["disk", "made", "-o", "x.img"]) == 2
    assert "has 2 disks" in capsys.readouterr().err
    said(capsys, "disk", "made", "-o", "x.img", "--number", "1")

    assert (tmp_path / "x.img").read_bytes() == BASE[::-1]


@pytest.mark.parametrize(
    "words",
    [
        ["--at", "end"],
        ["--base", "disk.img", "-o", "x.img"],
        ["--base", "disk.img", "--from", "0"],
        ["-o", "x.img", "--log-only"],
    ],
)
@pytest.mark.usefixtures("recording")
def test_options_that_do_not_go_together_are_refused(words: list[str], here: Path) -> None:
    assert main(["disk", "made", *words]) == 2

    assert not (here / "x.img").exists()


# -- the image --------------------------------------------------------------------------------------------------


def test_the_image_is_taken_from_elsewhere(
    recording: Recording, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recording.path / "disks/0").unlink()

    assert main(["replay", "made", "-q"]) == 4
    assert "revirt disk made --number 0 --base FILE" in capsys.readouterr().err
    said(capsys, "disk", "made", "--number", "0", "--base", str(image))

    assert main(["replay", "made", "-q"]) == 0


@pytest.mark.usefixtures("recording")
def test_another_image_is_not_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "wrong.img").write_bytes(BASE[::-1])

    assert main(["disk", "made", "--base", "wrong.img"]) == 4

    assert "its SHA-256 differs" in capsys.readouterr().err
    assert main(["replay", "made", "-q"]) == 0


COMMANDS = [
    ["replay", "made", "-q"],
    ["audit", "made"],
    ["debug", "made", "--plain", "-e", "seek end"],
    ["gdb", "made", "--port", "0"],
    ["index", "made"],
    ["fork", "made", "--at", "50%", "--batch", "-o", "new"],
    ["diff", "made", "made"],
    ["disk", "made", "-o", "x.img"],
    ["console", "made", "--at", "50%"],
    ["events", "made", "--icount"],
    ["cut", "made", "1s", "2s", "-o", "new"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("way", ["missing", "another"])
def test_who_would_replay_is_told_before_anything_is_done(
    recording: Recording, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], way: str
) -> None:
    place = recording.path / "disks/0"
    place.unlink()
    if way == "another":
        place.write_bytes(BASE[::-1])
    before = sorted(os.listdir(here))

    status = main(words)

    output = capsys.readouterr()
    assert status == 4, output.err
    assert "the image of disk 0" in output.err or "is not the image that disk 0" in output.err
    assert "revirt disk made --number 0 --base FILE" in output.err
    assert output.out == ""
    assert sorted(os.listdir(here)) == before


def test_what_replays_nothing_does_without_the_image(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    (recording.path / "disks/0").unlink()

    for words in (["info"], ["events"], ["console"], ["stats"], ["du"], ["verify"], ["disk", "--log-only"]):
        said(capsys, words[0], "made", *words[1:])


def test_verify_tells_of_an_image_that_is_not_there_and_calls_the_recording_intact(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "made", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disks"][0]["problem"] is None

    (recording.path / "disks/0").unlink()

    assert main(["verify", "made"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("intact: ")
    assert "disk 0 cannot be replayed: missing" in output.err


def test_verify_reads_the_whole_image(recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    place = recording.path / "disks/0"
    found = place.stat()
    with place.open("r+b") as file:
        file.write(BASE[:1])  # changes nothing but the times
    os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert main(["verify", "made"]) == 0
    assert capsys.readouterr().err == ""

    with place.open("r+b") as file:
        file.write(b"!" if BASE[:1] != b"!" else b"?")

    assert main(["verify", "made"]) == 0
    assert "its SHA-256 differs" in capsys.readouterr().err


def test_info_describes_disks_and_cards(
    recording: Recording, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "info", "made")
    facts = json.loads(said(capsys, "info", "made", "--json"))

    digest = hashlib.sha256(BASE).hexdigest()
    assert "{" not in text
    assert re.search(
        rf"^disk 0 +32 KiB, 32 KiB may be written, 10 KiB written in 20 writes;"
        rf" at first made/disks/0, SHA-256 {digest}$",
        text,
        re.MULTILINE,
    )
    assert facts["disks"] == [
        {
            "number": 0,
            "size": len(BASE),
            "sha256": digest,
            "overlay": len(BASE),
            "path": "made/disks/0",
            "problem": None,
            "writes": ROUNDS,
            "written": ROUNDS * SECTOR,
        }
    ]
    assert recording.path.name == "made"
    assert image.exists()


def test_info_lists_the_other_devices(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = str(disk_guest(Path(), rounds=2).file)
    words = ["--memory", "4M", "--disk", f"{image},readonly", "--rng", "--framebuffer", "640x400", "--batch"]
    assert main(["record", "--kernel", code, *words, "-o", "made"]) in (0, 1)
    capsys.readouterr()

    text = said(capsys, "info", "made")

    assert re.search(r"^devices +rng, framebuffer 640x400$", text, re.MULTILINE)
    assert re.search(r"^disk 0 +32 KiB, read-only, nothing written; ", text, re.MULTILINE)


def test_record_tells_once_of_a_disk_that_is_full(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = str(disk_guest(Path(), rounds=ROUNDS).file)

    main(
        [
            "record",
            "--kernel",
            code,
            "--memory",
            "1M",
            "--disk",
            f"{image},overlay=8K",
            "--batch",
            "-o",
            "made",
        ]
    )

    assert capfd.readouterr().err.count("disk 0 was full") == 1


@pytest.mark.usefixtures("recording")
def test_pack_says_which_images_it_wants_or_has(capsys: pytest.CaptureFixture[str]) -> None:
    digest = hashlib.sha256(BASE).hexdigest()

    assert main(["pack", "made", "-o", "without"]) == 0
    assert digest in capsys.readouterr().err
    assert main(["pack", "made", "-o", "with", "--with-disks"]) == 0
    assert digest not in capsys.readouterr().err
    assert main(["unpack", "without", "-o", "again"]) == 0
    assert "revirt disk again --number 0 --base FILE" in capsys.readouterr().err
    assert main(["unpack", "with", "-o", "whole", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disks"] == [
        {"number": 0, "size": len(BASE), "sha256": digest, "is_packed": True}
    ]
    assert main(["replay", "whole", "-q"]) == 0


# -- Debian -----------------------------------------------------------------------------------------------------

SCRIPT = r"""
timeout 120
expect "# "
send "head -c 300000 /dev/urandom > /root/one; sync; sha256sum /root/one; echo did $((1 + 0))\n"
expect "did 1"
send "seq 50000 > /root/two; rm /root/one; sync; sha256sum /root/two; echo did $((1 + 1))\n"
expect "did 2"
send "poweroff -f\n"
"""


@pytest.mark.debian
def test_a_file_system_that_was_taken_out_holds_what_the_guest_said_it_did(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built("debian-disk")
    (here / "script").write_text(SCRIPT)
    assert (
        main(["record", "debian-disk", "--clock", "host", "--script", "script", "-o", "made", "--json"]) == 0
    )
    recording = Recording.open(here / "made")
    capsys.readouterr()
    sent = [(number, event) for number, event in enumerate(recording.events()) if event.is_serial_output]
    text = b"".join(event.data for _, event in sent).decode(errors="replace")
    digests = dict(re.findall(r"([0-9a-f]{64})  /root/(one|two)", text))
    digests = {name: digest for digest, name in digests.items()}
    told = next(number for number, event in sent if digests["one"].encode() in event.data)

    said(capsys, "disk", "made", "--at", f"event:{told}", "-o", "then.img")
    said(capsys, "disk", "made", "-o", "end.img")

    for image, name in (("then.img", "one"), ("end.img", "two")):
        # As a mount would: what is in the journal belongs to it.
        run_e2fsck(image)
        run_program("debugfs", "-R", f"dump /root/{name} {here}/{name}", image)
        assert hashlib.sha256((here / name).read_bytes()).hexdigest() == digests[name]
    assert "one" not in run_program("debugfs", "-R", "ls -p /root", "end.img")
    assert (here / "end.img").stat().st_blocks * 512 < (here / "end.img").stat().st_size


def run_e2fsck(image: str) -> None:
    def check(*options: str) -> int:
        done = subprocess.run([needed("e2fsck"), *options, image], capture_output=True, timeout=60)
        return done.returncode

    assert check("-p", "-f") in (0, 1)  # 1: the journal was played in
    assert check("-n", "-f") == 0
