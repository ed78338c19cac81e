"""What becomes of an index, and of a recording that has one; and what those that are damaged or false can do."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from copies import CHECKPOINT_EVERY, copy_of, files_of, finely_indexed
from library import COMMAND, RecordingOf, environment

from revirt.checkpoint.format import CHECKPOINT_FRAME, decode_checkpoint_header, decode_map, encode_map
from revirt.cli import main
from revirt.errors import CorruptError, DivergenceError, HostError, RecordingError, RevirtError, UsageError
from revirt.index import Index, build_index
from revirt.index import format as index_format
from revirt.log.frame import compress_fast, write_whole
from revirt.position import Position
from revirt.recording import Recording, RecordingState, disk_usage, move, pack, repair
from revirt.timeline import Execute, Timeline


@pytest.fixture
def recording(recording_of: RecordingOf, tmp_path: Path) -> Recording:
    """A recording that may be changed, with four checkpoints and no index."""
    return copy_of(recording_of("paging", "host", checkpoint_every=CHECKPOINT_EVERY["paging"]), tmp_path)


def use(recording: Recording) -> list[object]:
    """Do everything that an index is for; return what came of it."""
    timeline = Timeline(Recording.open(recording.path))
    found: list[object] = [timeline.index.intervals_writing([2, 300])]
    for fraction in (0.2, 0.55, 0.9):
        timeline.seek_fraction(fraction)
        found.append(timeline.machine.digest())
        found.append(timeline.icount())
    found.append(timeline.seek_icount(50_000))
    found.append(timeline.seek_end())
    return found


# -- other commands ----------------------------------------------------------------------------------------------------


def test_a_recording_is_the_same_with_an_index(recording: Recording, tmp_path: Path) -> None:
    before = pack(recording.path, tmp_path / "before.revirt")

    build_index(recording, jobs=1)

    assert not list(Recording.open(recording.path).verify())
    after = pack(recording.path, tmp_path / "after.revirt")
    assert (after.digest, after.left_out) == (before.digest, ())


def test_an_index_is_moved_and_deleted_with_its_recording(recording: Recording, tmp_path: Path) -> None:
    build_index(recording, jobs=1)
    expected = use(recording)

    moved = Recording.open(move(recording.path, tmp_path / "moved"))

    assert use(moved) == expected
    assert main(["rm", "-f", str(moved.path)]) == 0
    assert not moved.path.exists()


def test_du_counts_an_index_by_itself(recording: Recording) -> None:
    before = disk_usage(recording.path)

    build_index(recording, jobs=1)

    after = disk_usage(recording.path)
    assert after.index == sum(map(len, files_of(recording).values())) > 0
    assert replace(after, index=0) == before


def test_a_cut_has_no_index_and_may_have_one(recording: Recording, tmp_path: Path) -> None:
    build_index(recording, jobs=1)
    timeline = Timeline(recording)
    place = timeline.seek_icount(60_000)
    cut = tmp_path / "cut"

    assert main(["cut", str(recording.path), "icount:60000", "end", "-o", str(cut)]) == 0

    assert Recording.open(cut).checkpoints[0].branches <= place.branches
    assert not Index(Recording.open(cut))
    assert list(build_index(Recording.open(cut), jobs=1).index.events() or ())


def test_a_stretch_whose_log_was_cut_short_has_no_index_any_more(recording: Recording) -> None:
    build_index(recording, jobs=1)
    last = sorted((recording.path / "log").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-1])
    died = replace(recording.manifest, state=RecordingState.RECORDING, end=None)
    (recording.path / "manifest.json").write_text(died.to_json())
    repair(recording.path)
    repaired = Recording.open(recording.path)

    index = Index(repaired)

    assert [each.number for each in index.missing] == [index.stretches[-1].number]
    assert build_index(repaired, jobs=1).made == 1
    assert Index(repaired).is_complete


def test_the_index_of_another_recording_is_none(
    recording: Recording, recording_of: RecordingOf, tmp_path: Path
) -> None:
    build_index(recording, jobs=1)
    other = copy_of(recording_of("hello"), tmp_path)
    shutil.copytree(recording.path / "index", other.path / "index")

    assert not Index(other)
    assert build_index(other, jobs=1).made == 1
    assert sorted(path.name for path in (other.path / "index").iterdir()) == ["00000000"]


# -- damage and harm ---------------------------------------------------------------------------------------------------


def test_what_is_damaged_is_refused_and_made_again(recording: Recording) -> None:
    finely_indexed(recording)
    good, expected = files_of(recording), use(recording)
    chance = random.Random(7)

    for name in chance.sample(sorted(good), 12):
        data = bytearray(good[name])
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (recording.path / "index" / name).write_bytes(
            data[: chance.choice([len(data), chance.randrange(len(data))])]
        )

        with pytest.raises(CorruptError) as caught:
            read_all(recording)
        assert "index" in caught.value.path.parts
        assert caught.value.hint == "'revirt index' makes the index again"
        (recording.path / "index" / name).write_bytes(good[name])

    (recording.path / "index" / "00000001" / "intervals").write_bytes(b"RVRTINDX")
    assert build_index(recording, jobs=1).made == 1
    assert use(recording) == expected


def read_all(recording: Recording) -> None:
    index = Index(Recording.open(recording.path))
    for each in index.stretches:
        index.verify(each.number)


def test_what_is_forged_behind_the_checks_does_no_harm(recording: Recording) -> None:
    finely_indexed(recording)
    path = recording.path / "index" / "00000001" / "intervals"
    good = path.read_bytes()
    chance = random.Random(11)

    for _ in range(60):
        frame, raw = index_format.FRAME.decode(path, good)
        fields, payload = list(frame.fields), bytearray(raw)
        if chance.random() < 0.7:
            changed = chance.randrange(2, len(fields))
            fields[changed] = chance.choice([0, 1, fields[changed] + 1, (1 << 32) - 1])
        else:
            for _ in range(chance.randrange(1, 9)):
                payload[chance.randrange(len(payload))] = chance.choice([0, 1, 255])
        forged = index_format.FRAME.encode(tuple(fields), bytes(payload), compress_fast)
        write_whole(path, *forged)

        with suppress(RevirtError):
            use(recording)


def test_a_replay_from_a_false_state_is_caught(recording: Recording) -> None:
    finely_indexed(recording)
    directory = recording.path / "index" / "00000001"
    path = directory / "00000002.ckpt"
    header, raw = CHECKPOINT_FRAME.decode(path, path.read_bytes())
    whole = decode_checkpoint_header(path, path.read_bytes())
    page_map = decode_map(raw[whole.state_size :])
    page_map[-1], page_map[-2] = page_map[-2], 0
    forged = raw[: whole.state_size] + encode_map(page_map)
    write_whole(path, *CHECKPOINT_FRAME.encode(header.fields, forged, compress_fast))
    forge_check(directory / "intervals")
    timeline = Timeline(Recording.open(recording.path))
    timeline.seek(Position(whole.info.branches + 1))

    with pytest.raises(DivergenceError):
        timeline.run([Execute(0xDEAD)])


def test_an_index_that_is_made_again_under_a_timeline_is_used_if_it_is_the_same(recording: Recording) -> None:
    finely_indexed(recording)
    timeline = Timeline(recording)
    places = [timeline.seek_fraction(fraction) for fraction in (0.3, 0.6, 0.9)]
    digest = timeline.machine.digest()

    shutil.rmtree(recording.path / "index")
    finely_indexed(recording)
    timeline.seek(places[0])
    timeline.seek(places[-1])
    assert timeline.machine.digest() == digest

    timeline.seek(places[1])
    build_index(recording, jobs=1, again=True)
    with pytest.raises(CorruptError):
        timeline.seek(places[0])
    other = Timeline(recording)
    other.seek(places[-1])
    assert other.machine.digest() == digest


def forge_check(path: Path) -> None:
    """Let the file of intervals *path* say that the files beside it are its own."""
    frame, raw = index_format.FRAME.decode(path, path.read_bytes())
    fields = (frame.fields[0], index_format.files_check(path.parent), *frame.fields[2:])
    write_whole(path, *index_format.FRAME.encode(fields, raw, compress_fast))


@pytest.mark.parametrize("name", ["index", "index/00000000", "index/00000000/intervals"])
def test_links_are_not_followed(name: str, recording: Recording, tmp_path: Path) -> None:
    build_index(recording, jobs=1)
    elsewhere = tmp_path / "elsewhere"
    (recording.path / name).rename(elsewhere)
    (recording.path / name).symlink_to(elsewhere)
    before = {path: path.stat() for path in sorted(tmp_path.rglob("*")) if elsewhere in (path, *path.parents)}

    with pytest.raises(CorruptError, match="link"):
        Timeline(recording)
    if name == "index":
        with pytest.raises(CorruptError, match="link"):
            build_index(recording, jobs=1)
    else:
        assert build_index(recording, jobs=1).made == 1

    assert {path: path.stat() for path in before} == before


def test_an_index_of_a_newer_revirt_is_none(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("revirt.index.format.FRAME", replace(index_format.FRAME, version=2))
    build_index(recording, jobs=1)
    monkeypatch.undo()

    assert not Index(recording)
    assert build_index(recording, jobs=1).made == len(recording.checkpoints)


# -- making it ---------------------------------------------------------------------------------------------------------


def test_a_recording_that_cannot_be_written_to_says_so(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("os.mkdir", refuse)

    with pytest.raises(HostError, match="Read-only file system"):
        build_index(recording)


def test_a_full_disk_leaves_what_was_made_before(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(recording, jobs=1)
    shutil.rmtree(recording.path / "index" / "00000001")
    before = files_of(recording)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("revirt.index.counting.write_whole", refuse)
    with pytest.raises(HostError, match="No space left"):
        build_index(recording, jobs=1)

    assert files_of(recording) == before
    assert len(list((recording.path / "index").iterdir())) == len(recording.checkpoints) - 1


def test_one_at_a_time_makes_it(recording: Recording) -> None:
    directory = recording.path / "index"
    directory.mkdir()
    lock = os.open(directory, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(RecordingError, match="is being made already"):
            build_index(recording)
    finally:
        os.close(lock)

    assert build_index(recording, jobs=1).made


@pytest.mark.parametrize("options", [{"jobs": 0}, {"spacing": 0}])
def test_no_job_and_no_branch_are_refused(options: dict[str, int], recording: Recording) -> None:
    with pytest.raises(UsageError, match="at least one"):
        build_index(recording, **options)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_wrong_with_the_recording_comes_from_any_process(jobs: int, recording: Recording) -> None:
    path = recording.checkpoint_path(1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptError) as caught:
        build_index(recording, jobs=jobs)

    assert caught.value.path == path
    assert (caught.value.problem, caught.value.hint) == (
        "payload does not match its check",
        "'revirt verify' lists what is damaged",
    )
    assert not list((recording.path / "index").glob("*.tmp"))


def test_a_process_that_is_killed_is_missed(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))

    with pytest.raises(HostError, match="ended with status 1"):
        build_index(recording, jobs=2)


def test_sigterm_ends_it_with_nothing_half_made(recording_of: RecordingOf, tmp_path: Path) -> None:
    made = recording_of("timer", "virtual", checkpoint_every=CHECKPOINT_EVERY["timer"])
    recording = copy_of(made, tmp_path)
    command = [*COMMAND, "index", str(recording.path), "--jobs", "2"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(recording.path.glob("index/*.tmp/*")):
            time.sleep(0.01)
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM

    assert not list((recording.path / "index").glob("*.tmp"))
    assert main(["index", str(recording.path), "--jobs", "2"]) == 0
    assert Index(recording).is_complete


def test_the_command_says_what_it_made(recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    counted = [event_row["icount"] for event_row in events_of(recording, capsys)]
    assert main(["index", str(recording.path), "--jobs", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["index", str(recording.path)]) == 0
    words = capsys.readouterr().out

    stretches = len(recording.checkpoints)
    assert (facts["stretches"], facts["made"], facts["intervals"]) == (stretches, stretches, stretches)
    assert facts["size"] == disk_usage(recording.path).index
    assert "there already" in words
    assert [each["icount"] for each in events_of(recording, capsys)] == counted
    assert counted[-1] == facts["instructions"]


def events_of(recording: Recording, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["events", str(recording.path), "--icount", "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found
