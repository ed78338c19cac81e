"""The golden recordings of the source tree: every reader comes to what was noted down when they were made."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from goldens.check import check, check_directory
from goldens.make import read_index
from goldens.table import DIRECTORY

from revirt.checkpoint.pages import list_pages, read_range
from revirt.cli import main
from revirt.log.events import Kind
from revirt.recording import Recording

ROOT = Path(__file__).parents[1]
VERSIONS = sorted(path for path in (ROOT / "logs").iterdir() if path.is_dir())
GOLDEN = [(directory, name) for directory in VERSIONS for name in read_index(directory)]
IDS = [f"{directory.name}-{name}" for directory, name in GOLDEN]

every_one = pytest.mark.parametrize(("directory", "name"), GOLDEN, ids=IDS)


@pytest.fixture
def entry(directory: Path, name: str) -> dict[str, Any]:
    """What the index says of the recording."""
    return read_index(directory)[name]


@pytest.fixture
def recording(directory: Path, entry: dict[str, Any], tmp_path: Path) -> Path:
    """The recording, where it may be changed; a pack was unpacked."""
    source, target = directory / entry["file"], tmp_path / "golden"
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        assert main(["unpack", str(source), "-o", str(target)]) == 0
    return target


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Run a command with ``--json`` and return what it printed."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@every_one
def test_a_golden_recording_is_and_replays_as_it_was(directory: Path, name: str) -> None:
    assert list(check(directory, name)) == []


def test_every_golden_recording_of_the_table_was_made_and_nothing_else_is_there() -> None:
    assert list(check_directory(ROOT / DIRECTORY)) == []


@every_one
def test_the_commands_that_read_say_what_the_index_says(
    recording: Path, entry: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    info = facts(capsys, "info", str(recording))
    events = facts(capsys, "events", str(recording))
    stats = facts(capsys, "stats", str(recording))
    used = facts(capsys, "du", str(recording))

    assert (info["uuid"], info["state"], info["clock"]) == (entry["uuid"], entry["state"], entry["clock"])
    assert info["checkpoints"] == len(entry["checkpoints"]) == len(stats["checkpoints"])
    assert info["kept"]["branches"] == entry["begins"]
    assert info["events"] == len(events) == sum(entry["events"].values())
    assert {row["kind"]: row["events"] for row in stats["kinds"] if row["events"]} == entry["events"]
    assert used[0]["log"] >= info["log_bytes"] > 0


@every_one
def test_the_commands_that_replay_say_what_the_index_says(
    recording: Path, entry: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    replayed = facts(capsys, "replay", str(recording))
    audited = facts(capsys, "audit", str(recording))
    counted = facts(capsys, "events", str(recording), "--icount")

    assert replayed["exact"]
    assert replayed["branches"] == audited["branches"] == entry["end"]["branches"]
    assert replayed["guest_seconds"] == entry["end"]["guest_ns"] / 1e9
    assert audited["verdict"] == entry["audit"]
    assert len(counted) == sum(entry["events"].values())


@every_one
def test_the_console_is_what_it_was(
    recording: Path, entry: dict[str, Any], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    capfdbinary.readouterr()

    assert main(["console", str(recording)]) == 0

    assert sha256(capfdbinary.readouterr().out).hexdigest() == entry["console"]


@every_one
def test_a_golden_recording_can_be_packed_and_unpacked(
    recording: Path, entry: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, again = tmp_path / "golden.revirt", tmp_path / "again"

    facts(capsys, "pack", str(recording), "-o", str(packed))
    facts(capsys, "unpack", str(packed), "-o", str(again))

    assert facts(capsys, "verify", str(again))["findings"] == []
    assert Recording.open(again).manifest.uuid == entry["uuid"]


# -- what they are there for ---------------------------------------------------------------------------------------


def opened(name: str, tmp_path: Path) -> Recording:
    entry = read_index(ROOT / DIRECTORY)[name]
    source = ROOT / DIRECTORY / entry["file"]
    if source.is_dir():
        return Recording.open(source)
    assert main(["unpack", str(source), "-o", str(tmp_path / name)]) == 0
    return Recording.open(tmp_path / name)


def test_together_they_have_every_kind_of_event_and_both_clocks() -> None:
    entries = read_index(ROOT / DIRECTORY).values()

    assert {kind for entry in entries for kind in entry["events"]} == {kind.label for kind in Kind}
    assert {entry["clock"] for entry in entries} == {"host", "virtual"}


def test_the_circular_one_has_a_file_of_pages_that_was_written_anew(tmp_path: Path) -> None:
    recording = opened("circular", tmp_path)

    ranges = [read_range(path) for path in list_pages(recording.path / "pages")]

    assert recording.manifest.start.checkpoint > 0
    assert any(0 < pages.present < pages.count for pages in ranges)


def test_the_triggered_one_says_what_fired(tmp_path: Path) -> None:
    manifest = opened("triggered", tmp_path).manifest

    assert manifest.ring is not None
    assert manifest.start.checkpoint > 0
    assert manifest.end is not None
    assert manifest.end["trigger"] == "console: round 70"


def test_the_interrupted_one_has_no_end(tmp_path: Path) -> None:
    recording = opened("interrupted", tmp_path)

    assert recording.manifest.state == "recording"
    assert recording.manifest.end is None


def test_the_repaired_one_keeps_what_was_put_aside(tmp_path: Path) -> None:
    recording = opened("repaired", tmp_path)

    aside = {path.name for path in recording.path.rglob("*.damaged")}

    assert recording.manifest.end is not None
    assert len(recording.manifest.end["lost"]) == len(aside) > 0
    assert any(name.endswith(".seg.damaged") for name in aside)


def test_the_crashed_one_says_so(tmp_path: Path) -> None:
    end = opened("crash", tmp_path).manifest.end

    assert end is not None
    assert end["crashed"]


@pytest.mark.parametrize("name", ["sealed", "sealed-circular"])
def test_the_sealed_ones_are_what_was_sealed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = opened(name, tmp_path).path

    made = facts(capsys, "verify", str(recording), "--key", str(ROOT / DIRECTORY / f"{name}.pub"))

    assert made["verdict"] == "intact"
    assert made["seal"]["ended"]
    assert (made["seal"]["evicted"] is not None) == (name == "sealed-circular")


def test_the_forked_one_names_its_parent_and_counts_on(tmp_path: Path) -> None:
    recording = opened("fork", tmp_path)

    (fork,) = recording.manifest.guest["forks"]
    assert (fork["at"], fork["branches"], fork["dropped"]) == ("400:0", 400, [])
    assert bytes.fromhex(fork["replaced"]["17"]) == b"echo forked\n"
    assert recording.checkpoints[0].number == 1
    assert list_pages(recording.path / "pages")[0].name == "00000000.pages"


def test_the_cut_one_names_its_origin(tmp_path: Path) -> None:
    manifest = opened("cut", tmp_path).manifest

    assert [(each["from"], each["to"]) for each in manifest.origins] == [("900:0", "1800:0")]
