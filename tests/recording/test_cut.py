"""Cutting a stretch out of a recording: what is in the cut, and what happens on the way."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import tracemalloc
from array import array
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

import damage
import pytest
from busy import busy_in
from countdown import Countdown
from hypothesis import given, settings
from hypothesis import strategies as st
from library import RecordingOf

from revirt.checkpoint import CheckpointInfo, CheckpointReader
from revirt.checkpoint.excerpt import write_checkpoint_excerpt
from revirt.checkpoint.format import (
    MAX_PAGES,
    PAGES_FRAME,
    checkpoint_name,
    encode_checkpoint,
    pages_name,
)
from revirt.checkpoint.pages import encode_bitmap
from revirt.errors import (
    CorruptError,
    HostError,
    RecordingError,
    RecordingExistsError,
    RevirtError,
    UsageError,
)
from revirt.log.events import Kind
from revirt.log.frame import compress_fast
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import (
    CutReport,
    Manifest,
    Recording,
    RecordingState,
    cut,
    pack,
    repair,
    unpack,
)
from revirt.recording.manifest import NAME

EVERY = 1_000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def busy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of ten checkpoints, each with pages that no other has."""
    scene = tmp_path_factory.mktemp("busy")
    options = RecordOptions(clock="virtual", until=Position(9_500), checkpoint_every=EVERY)
    with NullConsole() as console:
        record(busy_in(scene), console, options, scene / "busy")
    return scene / "busy"


@pytest.fixture
def busy(busy_path: Path) -> Recording:
    return Recording.open(busy_path)


@pytest.fixture
def copied(busy_path: Path, tmp_path: Path) -> Path:
    """A copy of that recording, to be changed."""
    return damage.copy(busy_path, tmp_path / "copied")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """An empty directory to cut into."""
    (tmp_path / "scene").mkdir()
    return tmp_path / "scene"


def make(source: Recording, target: Path, checkpoint: int, branches: int, **options: Any) -> CutReport:
    """Cut from that checkpoint to *branches*."""
    (start,) = (info for info in source.checkpoints if info.number == checkpoint)
    return cut(source, target, start, branches, asked=("here", "there"), **options)


def names_in(path: Path) -> set[str]:
    return {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}


# -- what is in it ----------------------------------------------------------------------------------------------


def test_a_cut_has_the_events_and_checkpoints_of_its_stretch_under_their_numbers(
    busy: Recording, scene: Path
) -> None:
    report = make(busy, scene / "cut", 3, 6_500)

    made = Recording.open(scene / "cut")
    first = busy.checkpoints[3].event - 1
    expected = [event for event in busy.events(after=first) if event.branches <= 6_500]
    assert list(made.events()) == expected
    assert made.manifest.start.event == first
    assert made.checkpoints == busy.checkpoints[3:7]
    assert made.state is RecordingState.COMPLETE
    assert not list(made.verify())
    assert (report.start, report.branches, report.is_end) == (busy.checkpoints[3], 6_500, False)
    assert (report.events, report.checkpoints) == (len(expected), 4)
    assert report.size == sum((made.path / name).stat().st_size for name in names_in(made.path))


def test_the_manifest_is_that_of_the_original_but_for_what_a_cut_changes(
    busy: Recording, scene: Path
) -> None:
    make(busy, scene / "cut", 3, 6_500)

    old, new = busy.manifest, Recording.open(scene / "cut").manifest
    changed = {name for name in Manifest.__slots__ if getattr(old, name) != getattr(new, name)}
    assert changed == {"uuid", "kept", "end", "origins"}
    assert new.origins == [{"uuid": old.uuid, "from": "here", "to": "there"}]
    end = Recording.open(scene / "cut").event_end
    assert new.end == {"reason": "cut", "branches": 6_500, "events": end, "checkpoints": 7}
    assert new.cut_at == 6_500


def test_whole_segments_and_checkpoints_come_out_as_they_went_in(busy: Recording, scene: Path) -> None:
    make(busy, scene / "cut", 3, 6_500)

    same = {
        name
        for name in names_in(scene / "cut")
        if (scene / "cut" / name).read_bytes() == (busy.path / name).read_bytes()
    }
    assert {f"checkpoints/{number:08}.ckpt" for number in range(3, 7)} <= same
    assert {f"pages/{number:08}.pages" for number in range(3, 7)} <= same
    segments = sorted(name for name in names_in(scene / "cut") if name.startswith("log/"))
    assert set(segments[:-1]) <= same
    assert segments[-1] not in same


def test_a_cut_of_all_differs_in_the_manifest_only(busy: Recording, scene: Path) -> None:
    report = make(busy, scene / "cut", 0, busy.end_branches)

    assert report.is_end
    assert names_in(scene / "cut") == names_in(busy.path)
    differing = {
        name
        for name in names_in(busy.path)
        if (scene / "cut" / name).read_bytes() != (busy.path / name).read_bytes()
    }
    assert differing == {NAME}
    assert Recording.open(scene / "cut").manifest.end == busy.manifest.end


def test_pages_that_the_cut_does_not_need_are_not_in_it(busy: Recording, scene: Path) -> None:
    make(busy, scene / "cut", 8, 8_500)

    made = Recording.open(scene / "cut")
    assert list(made.load_checkpoint(8).batches()) == list(busy.load_checkpoint(8).batches())
    # The guest writes to eight pages in turn: those of the checkpoints between are all overwritten by then.
    assert {name for name in names_in(made.path) if name.startswith("pages/")} == {
        "pages/00000000.pages",  # the guest's own code
        "pages/00000008.pages",
    }
    assert (made.path / "pages/00000000.pages").stat().st_size <= (
        busy.path / "pages/00000000.pages"
    ).stat().st_size


def test_a_cut_of_a_cut_names_both_that_it_comes_from(busy: Recording, scene: Path) -> None:
    make(busy, scene / "one", 2, 7_500)
    one = Recording.open(scene / "one")

    make(one, scene / "two", 4, 5_500)

    two = Recording.open(scene / "two")
    assert [each["uuid"] for each in two.manifest.origins] == [busy.manifest.uuid, one.manifest.uuid]
    assert not list(two.verify())
    make(busy, scene / "direct", 4, 5_500)
    for name in names_in(scene / "two") - {NAME}:
        assert (scene / "two" / name).read_bytes() == (scene / "direct" / name).read_bytes()


def test_a_cut_may_end_where_a_cut_ends_behind_its_last_event(recording_of: RecordingOf, scene: Path) -> None:
    packer = recording_of("packer")
    last = max(
        event.branches for event in packer.events() if event.kind is not Kind.END and event.branches < 50_000
    )
    make(packer, scene / "one", 0, 50_000)
    one = Recording.open(scene / "one")
    assert (one.segments[-1].last_branches, one.end_branches) == (last, 50_000)

    make(one, scene / "two", 0, one.end_branches)

    assert Recording.open(scene / "two").end_branches == 50_000


def test_a_cut_is_packed_and_unpacked_as_any_recording(busy: Recording, scene: Path) -> None:
    make(busy, scene / "cut", 3, 6_500)

    pack(scene / "cut", scene / "cut.revirt")
    unpack(scene / "cut.revirt", scene / "again")

    for name in names_in(scene / "cut"):
        assert (scene / "cut" / name).read_bytes() == (scene / "again" / name).read_bytes()
    with pytest.raises(RecordingError, match="is complete"):
        repair(scene / "cut")


def test_a_recorder_that_died_behind_the_end_is_cut_to_that_end(copied: Path, scene: Path) -> None:
    whole = Recording.open(copied)
    reason = (whole.manifest.end or {})["reason"]
    change_manifest(copied, state="recording", end=None)

    report = make(Recording.open(copied), scene / "cut", 0, whole.end_branches)

    end = Recording.open(scene / "cut").manifest.end or {}
    assert report.is_end
    assert (end["reason"], end["branches"]) == (reason, whole.end_branches)


def change_manifest(path: Path, **changes: Any) -> None:
    """Write other contents into the manifest of *path*, with the check that belongs to them."""
    contents = Manifest.read(path / NAME)
    for name, value in changes.items():
        setattr(contents, name, value)
    (path / NAME).unlink()
    (path / NAME).write_text(contents.to_json())


def test_a_seal_is_not_copied_and_that_is_said(copied: Path, scene: Path) -> None:
    (copied / "seal").mkdir()
    (copied / "seal" / "00000000.head").write_text("{}")

    report = make(Recording.open(copied), scene / "cut", 0, 500)

    assert report.was_sealed
    assert not (scene / "cut" / "seal").exists()


@pytest.mark.parametrize(
    "origins",
    [
        None,
        {},
        [1],
        [{}],
        [{"uuid": "x", "from": "0:0"}],
        [{"uuid": "x", "from": "0:0", "to": 1}],
        [{"uuid": "x", "from": "0:0", "to": "end", "more": ""}],
    ],
)
def test_origins_that_are_none_are_refused(origins: Any, copied: Path) -> None:
    plain = {**json.loads((copied / NAME).read_text()), "origins": origins}
    del plain["check"]
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    plain["check"] = blake2b(canonical, digest_size=16).hexdigest()

    with pytest.raises(CorruptError, match="origins are not places in recordings"):
        Manifest.from_json(json.dumps(plain).encode(), copied / NAME)


def test_only_a_cut_has_origins(busy: Recording, scene: Path) -> None:
    make(busy, scene / "cut", 3, 6_500)

    assert json.loads((busy.path / NAME).read_text())["origins"] == []
    assert len(json.loads((scene / "cut" / NAME).read_text())["origins"]) == 1


@pytest.mark.parametrize("branches", [None, -1, 1 << 63, True, "7"])
def test_a_cut_that_does_not_say_where_is_not_cut_anywhere(branches: Any) -> None:
    contents = Manifest(guest={}, machine={}, clock="host", versions={}, command=[])
    contents.origins, contents.end = [{}], {"reason": "cut", "branches": branches}

    assert contents.cut_at is None


# -- what is asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("checkpoint", "branches"), [(3, 2_999), (0, 9_501)])
def test_what_is_not_in_the_recording_cannot_be_cut(
    checkpoint: int, branches: int, busy: Recording, scene: Path
) -> None:
    with pytest.raises(UsageError, match="nothing can be cut") as raised:
        make(busy, scene / "cut", checkpoint, branches)

    assert "ends at 9500:0" in raised.value.hint
    assert list(scene.iterdir()) == []


def test_nothing_is_overwritten(busy: Recording, scene: Path) -> None:
    (scene / "cut").write_text("mine")

    with pytest.raises(RecordingExistsError):
        make(busy, scene / "cut", 0, 500)

    assert (scene / "cut").read_text() == "mine"
    assert os.listdir(scene) == ["cut"]


def test_what_appears_meanwhile_is_not_overwritten(busy: Recording, scene: Path) -> None:
    def progress(what: str, _done: int, _total: int | None) -> None:
        if what == "checking":
            (scene / "cut").write_text("mine")

    with pytest.raises(RecordingExistsError):
        make(busy, scene / "cut", 0, 500, progress=progress)

    assert (scene / "cut").read_text() == "mine"
    assert os.listdir(scene) == ["cut"]


@pytest.mark.parametrize("place", ["cut", "log/cut", "pages/a/cut"])
def test_a_recording_is_not_cut_into_itself(place: str, copied: Path) -> None:
    before = names_in(copied)

    with pytest.raises(RecordingError, match="inside the recording"):
        make(Recording.open(copied), copied / place, 0, 500)

    assert names_in(copied) == before


def test_the_first_recording_in_its_directory_becomes_the_latest(busy: Recording, home: Path) -> None:
    make(busy, home / "a", 0, 500)
    make(busy, home / "b", 0, 500)

    assert os.readlink(home / "latest") == "a"


# -- what may happen on the way ---------------------------------------------------------------------------------


def test_an_interrupt_at_any_moment_leaves_nothing(busy: Recording, scene: Path) -> None:
    for allowed in itertools.count():
        try:
            make(busy, scene / "a" / "cut", 3, 6_500, progress=Countdown(allowed, KeyboardInterrupt()))
            break
        except KeyboardInterrupt:
            assert list(scene.iterdir()) == []

    assert allowed > 4


@pytest.mark.parametrize(
    "name",
    [
        "os.mkdir",
        "os.fsync",
        "os.rename",
        "os.replace",
        "revirt.checkpoint.store.write_all",
        "revirt.log.excerpt.write_whole",
        "revirt.checkpoint.excerpt.write_whole",
        "revirt.recording.cutting.write_whole",
    ],
)
def test_a_disk_that_fails_at_any_moment_is_a_clean_error(
    name: str, busy: Recording, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, attribute = name.rpartition(".")
    real = getattr(import_module(module), attribute)
    full = OSError(28, "No space left on device")
    for allowed in itertools.count():
        with monkeypatch.context() as patched:
            patched.setattr(name, Countdown(allowed, full, real))
            try:
                make(busy, scene / "cut", 3, 6_500)
                break
            except HostError as error:
                said = str(error)
        assert said.endswith("No space left on device")
        if os.listdir(scene) == ["cut"]:
            # It was in its place: only its directory could not be synced any more.
            assert name == "os.fsync"
            assert not list(Recording.open(scene / "cut").verify())
            shutil.rmtree(scene / "cut")
        assert list(scene.iterdir()) == []

    assert allowed > 0


def test_damage_outside_the_stretch_does_not_matter(copied: Path, scene: Path) -> None:
    for name in ("log/00000001.seg", "pages/00000001.pages", "checkpoints/00000001.ckpt", "log/00000008.seg"):
        data = bytearray((copied / name).read_bytes())
        data[-1] ^= 1
        (copied / name).unlink()
        (copied / name).write_bytes(data)
    assert list(Recording.open(copied).verify())

    make(Recording.open(copied), scene / "cut", 3, 6_500)

    assert not list(Recording.open(scene / "cut").verify())


@pytest.mark.parametrize("name", ["log/00000004.seg", "pages/00000004.pages", "checkpoints/00000004.ckpt"])
def test_damage_inside_the_stretch_is_refused_by_name(name: str, copied: Path, scene: Path) -> None:
    data = bytearray((copied / name).read_bytes())
    data[-1] ^= 1
    (copied / name).unlink()
    (copied / name).write_bytes(data)

    with pytest.raises(CorruptError) as raised:
        make(Recording.open(copied), scene / "cut", 3, 6_500)

    assert raised.value.path == copied / name
    assert list(scene.iterdir()) == []


def test_contradictions_are_named_where_they_came_from(copied: Path, scene: Path) -> None:
    """The files are sound, each by itself; only verifying the cut shows it."""
    damage.flip_page(copied, random.Random(1), checkpoint=4)

    with pytest.raises(CorruptError) as raised:
        make(Recording.open(copied), scene / "cut", 3, 6_500)

    assert raised.value.path.is_relative_to(copied)
    assert list(scene.iterdir()) == []


@pytest.mark.parametrize("flip", [damage.flip_event, damage.flip_map, damage.flip_state, damage.flip_raw])
@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32))
def test_what_is_cut_of_a_changed_recording_is_sound_or_nothing_is(
    flip: damage.Flip, seed: int, busy_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scene = tmp_path_factory.mktemp("changed")
    flip(damage.copy(busy_path, scene / "changed"), random.Random(seed))
    try:
        source = Recording.open(scene / "changed")
        start = source.checkpoints[3]
        cut(source, scene / "cut", start, 6_500, asked=("here", "there"))
    except RevirtError:
        assert os.listdir(scene) == ["changed"]
    else:
        assert not list(Recording.open(scene / "cut").verify())
    shutil.rmtree(scene)


def test_a_checkpoint_that_is_not_what_the_log_names_is_refused(copied: Path, scene: Path) -> None:
    def move_on(events: list[Any]) -> None:
        place = [event.number for event in events if event.kind is Kind.CHECKPOINT].index(3)
        at = [index for index, event in enumerate(events) if event.kind is Kind.CHECKPOINT][place]
        events[at] = events[at]._replace(number=7)

    damage.change_events(copied, move_on)

    with pytest.raises(CorruptError, match="does not stand where its event does"):
        make(Recording.open(copied), scene / "cut", 3, 6_500)


def test_a_manifest_without_room_for_an_origin_is_refused(
    copied: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Recording.open(copied)
    monkeypatch.setattr("revirt.recording.manifest.SIZE_LIMIT", 500)

    with pytest.raises(CorruptError, match="leaves no room"):
        make(source, scene / "cut", 3, 6_500)

    assert list(scene.iterdir()) == []


def test_ids_that_files_only_claim_take_no_memory(tmp_path: Path, scene: Path) -> None:
    """Each of these files says that it was made for a million pages, none of which is left."""
    count = 6
    for name in ("checkpoints", "pages"):
        (tmp_path / name).mkdir()
        (scene / name).mkdir()
    for number in range(count):
        first = 1 + number * MAX_PAGES
        info = CheckpointInfo(number, number, False, 0, 0, number)
        ckpt = encode_checkpoint(info, b"", array("Q"), first, MAX_PAGES)
        (tmp_path / "checkpoints" / checkpoint_name(number)).write_bytes(b"".join(ckpt))
        index = encode_bitmap((), MAX_PAGES)
        pages = PAGES_FRAME.encode((number, first, MAX_PAGES, 0), index, compress_fast)
        (tmp_path / "pages" / pages_name(number)).write_bytes(b"".join(pages))
    source = CheckpointReader(tmp_path / "checkpoints", tmp_path / "pages")

    tracemalloc.start()
    write_checkpoint_excerpt(
        source, range(count), scene / "checkpoints", scene / "pages", lambda _done, _total: None
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 << 20
    assert names_in(scene) == {
        *(f"checkpoints/{checkpoint_name(number)}" for number in range(count)),
        *(f"pages/{pages_name(number)}" for number in range(count)),
    }
