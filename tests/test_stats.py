"""Statistics of recordings: what they count, against what can be counted in another way."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import damage
import pytest
from library import RecordingOf

from revirt.cli import main
from revirt.errors import CorruptError, RecordingError
from revirt.log import columns, segment
from revirt.log.columns import Share
from revirt.log.events import Event, Kind
from revirt.log.rows import rows_of
from revirt.recording import (
    Manifest,
    Recording,
    RecordingState,
    Usage,
    checkpoint_stats,
    disk_usage,
    log_stats,
)

EVENTS = [
    Event(Kind.INTERRUPT, 500, False, 4096, 7, 48),
    Event(Kind.RECEIVED, 600, True, 4096, 7, data=b"hello"),
    Event(Kind.INTERRUPT, 900, False, 4096, 7, 48),
]


@pytest.fixture
def recording(recording_of: RecordingOf) -> Recording:
    return recording_of("vuln", "host", checkpoint_every=700)


# -- the log ----------------------------------------------------------------------------------------------------


def test_two_interrupts_take_the_19_bytes_of_the_example_in_the_format() -> None:
    shares = columns.measure(columns.encode(rows_of(EVENTS)), len(EVENTS))

    assert shares[Kind.INTERRUPT] == Share(events=2, data=0, raw=19)


def test_the_shares_of_all_kinds_are_all_of_the_columns() -> None:
    raw = columns.encode(rows_of(EVENTS))

    shares = columns.measure(raw, len(EVENTS))

    assert sum(share.raw for share in shares.values()) == len(raw)
    assert shares[Kind.RECEIVED].data == len(b"hello")


def test_a_kind_takes_what_it_takes_alone(recording: Recording) -> None:
    for each in recording.segments:
        found, events = segment.read(each.path)
        _, shares = segment.measure(each.path)

        for kind, share in shares.items():
            alone = [event for event in events if event.kind is kind]
            assert share.raw == len(columns.encode(rows_of(alone)))
            assert share.events == len(alone)
        assert sum(share.events for share in shares.values()) == found.count


@pytest.mark.parametrize("cut", range(1, 30))
def test_columns_that_are_cut_short_are_refused(cut: int) -> None:
    raw = columns.encode(rows_of(EVENTS))

    with pytest.raises(ValueError, match=r"columns end|bytes after"):
        columns.measure(raw[:-cut], len(EVENTS))


def test_bytes_behind_the_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="1 bytes after the last column"):
        columns.measure(columns.encode(rows_of(EVENTS)) + b"x", len(EVENTS))


def test_the_kinds_add_up_to_the_log(recording: Recording) -> None:
    stats = log_stats(recording)

    counts = Counter(event.kind.label for event in recording.events())
    assert {kind.kind: kind.events for kind in stats.kinds} == counts
    assert sum(kind.disk_bytes for kind in stats.kinds) == stats.total.disk_bytes == recording.log_bytes
    assert sum(kind.raw_bytes for kind in stats.kinds) == stats.total.raw_bytes
    assert stats.total.data_bytes == sum(len(event.data) for event in recording.events())
    assert stats.segments == len(list((recording.path / "log").iterdir()))
    assert stats.ratio == stats.total.raw_bytes / recording.log_bytes


def test_bytes_are_given_per_million_branches(recording: Recording) -> None:
    stats = log_stats(recording)

    branches = [event.branches for event in recording.events()]
    assert (stats.first_branches, stats.last_branches) == (branches[0], branches[-1])
    assert stats.total.per_million_branches == recording.log_bytes * 1e6 / (branches[-1] - branches[0])
    assert stats.total.per_million_instructions is None


def test_a_log_without_branches_has_no_bytes_per_branch(recording: Recording, tmp_path: Path) -> None:
    copy = damage.copy(recording.path, tmp_path / "copy")
    damage.change_events(copy, lambda events: events.__delitem__(slice(2, None)))

    stats = log_stats(Recording.open(copy))

    assert stats.total.events == 2
    assert stats.total.per_million_branches is None


def test_a_damaged_segment_is_named(recording: Recording, tmp_path: Path) -> None:
    copy = damage.copy(recording.path, tmp_path / "copy")
    path = min((copy / "log").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)

    with pytest.raises(CorruptError, match=r"00000000\.seg"):
        log_stats(Recording.open(copy))


def test_an_interrupted_recording_has_statistics(recording: Recording, tmp_path: Path) -> None:
    copy = damage.copy(recording.path, tmp_path / "copy")
    manifest = Manifest.read(copy / "manifest.json")
    manifest.state, manifest.end = RecordingState.RECORDING, None
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text(manifest.to_json())

    interrupted = Recording.open(copy)

    assert interrupted.state is RecordingState.INTERRUPTED
    assert log_stats(interrupted) == log_stats(recording)
    assert list(checkpoint_stats(interrupted)) == list(checkpoint_stats(recording))


def test_a_recording_that_has_just_begun_has_empty_statistics(recording: Recording, tmp_path: Path) -> None:
    copy = damage.copy(recording.path, tmp_path / "copy")
    for path in (copy / "log").iterdir():
        path.unlink()

    stats = log_stats(Recording.open(copy))

    assert (stats.segments, stats.kinds, stats.total.events, stats.ratio) == (0, [], 0, None)
    assert list(checkpoint_stats(Recording.open(copy))) == []


# -- checkpoints ------------------------------------------------------------------------------------------------


def test_pages_are_new_shared_or_zero(recording: Recording) -> None:
    memory = recording.manifest.machine["memory"] // 4096
    stored: set[int] = set()

    for stats in checkpoint_stats(recording):
        page_map = recording.load_checkpoint(stats.number).page_map
        new = set(page_map) - stored - {0}
        stored |= new

        assert stats.pages == memory == stats.new_pages + stats.shared_pages + stats.zero_pages
        assert stats.new_pages == len(new)
        assert stats.zero_pages == memory - sum(page_id != 0 for page_id in page_map)


def test_checkpoints_add_up_to_their_files(recording: Recording) -> None:
    found = list(checkpoint_stats(recording))

    assert [stats.number for stats in found] == [info.number for info in recording.checkpoints]
    assert len(found) > 1
    used = disk_usage(recording.path)
    assert sum(stats.bytes for stats in found) == used.checkpoints + used.pages


def test_more_pages_than_there_is_memory_are_refused(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = recording_of("paging", "host", checkpoint_every=30_000)
    copy = damage.copy(recording.path, tmp_path / "copy")
    manifest = Manifest.read(copy / "manifest.json")
    manifest.machine["memory"] = 16 * 4096
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text(manifest.to_json())

    with pytest.raises(
        CorruptError, match=r"00000001\.ckpt: maps \d+ pages, \d+ of them new, of a memory of 16"
    ):
        list(checkpoint_stats(Recording.open(copy)))


# -- space ------------------------------------------------------------------------------------------------------


def test_space_is_that_of_all_files(recording: Recording) -> None:
    files = [path for path in recording.path.rglob("*") if path.is_file()]

    used = disk_usage(recording.path)

    assert used.total == sum(path.stat().st_size for path in files)
    assert used.log == recording.log_bytes
    assert used.checkpoints + used.pages == recording.checkpoint_bytes
    assert used.other == (recording.path / "manifest.json").stat().st_size


def test_space_is_told_of_anything_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "r/log/deep").mkdir(parents=True)
    (tmp_path / "r/log/deep/file").write_bytes(bytes(5))
    (tmp_path / "r/notes").write_bytes(bytes(7))
    (tmp_path / "large").write_bytes(bytes(5000))
    (tmp_path / "r/log/link").symlink_to(tmp_path / "large")
    (tmp_path / "r/log/loop").symlink_to(tmp_path / "r")

    links = len(str(tmp_path / "large")) + len(str(tmp_path / "r"))
    assert disk_usage(tmp_path / "r") == Usage(log=5 + links, other=7)


def test_directories_may_be_nested_deeper_than_python_calls(tmp_path: Path) -> None:
    directories = [f"{tmp_path}/r" + "/d" * depth for depth in range(1500)]
    for path in directories:
        os.mkdir(path)
    try:
        assert disk_usage(tmp_path / "r") == Usage()
    finally:
        # Python 3.11 could not delete it afterwards.
        for path in reversed(directories):
            os.rmdir(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="nowhere"):
        disk_usage(tmp_path / "nowhere")


# -- the commands -----------------------------------------------------------------------------------------------


def test_stats_as_json_have_everything(recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(recording.path), "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["total"]["disk_bytes"] == recording.log_bytes
    assert {row["kind"] for row in facts["kinds"]} == {event.kind.label for event in recording.events()}
    assert len(facts["checkpoints"]) == len(recording.checkpoints)
    assert facts["instructions"] is None


def test_stats_as_rows_end_with_the_total(recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(recording.path), "--csv"]) == 0

    *kinds, total = csv.DictReader(capsys.readouterr().out.splitlines())
    assert total["kind"] == "total"
    assert sum(int(row["disk_bytes"]) for row in kinds) == int(total["disk_bytes"]) == recording.log_bytes


def test_stats_of_checkpoints_are_rows_too(recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(recording.path), "--checkpoints", "--jsonl"]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["number"] for row in rows] == [info.number for info in recording.checkpoints]


def test_stats_for_people_name_the_proportion(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(recording.path)]) == 0

    text = capsys.readouterr().out
    assert "in proportion to RAW" in text
    assert f"checkpoints: {len(recording.checkpoints)} in " in text


def test_du_without_names_is_of_all_and_ends_with_a_total(
    recording_of: RecordingOf,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path))
    for name in ("one", "two"):
        damage.copy(recording_of("vuln", "host").path, tmp_path / name)
    (tmp_path / "two/manifest.json").unlink()
    (tmp_path / "two/manifest.json").write_text("damaged")

    assert main(["du"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["NAME", "two", "one", "total"]


def test_du_of_one_recording_twice_is_one_row_in_bytes(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["du", str(recording.path), f"{recording.path}/.", "--json"]) == 0

    (row,) = json.loads(capsys.readouterr().out)
    parts = ("log", "checkpoints", "pages", "other")
    assert row["total"] == sum(row[part] for part in parts) == disk_usage(recording.path).total
    assert row["path"] == str(recording.path)
