"""Disks in the life of recordings: what they held at first, and what becomes of that."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from disk_guest import SECTOR, disk_guest, written
from library import COMMAND, environment
from sealed import USER, key_file

from revirt.cli import main
from revirt.errors import CorruptError, HostError, RecordingError, UsageError
from revirt.image import base
from revirt.image.base import BaseImage
from revirt.image.sparse import allocated_size
from revirt.log.events import Kind
from revirt.monitor.console import NullConsole
from revirt.monitor.plugs import DiskPlug, Plugs
from revirt.monitor.session import RecordOptions, RunSummary, record
from revirt.recording import (
    Recording,
    RecordingState,
    RingLimits,
    Verdict,
    cut,
    disk_usage,
    move,
    pack,
    pack_to,
    remove,
    repair,
    unpack,
    unpack_from,
)
from revirt.recording.disks import attach_base, base_path, check_bases, find_bases
from revirt.recording.machine import machine_of
from revirt.recording.manifest import NAME, Manifest
from revirt.recording.pack_format import END, INDEX_NAME, Index, Member, encode_header, new_digest, padding
from revirt.replay import replay
from revirt.timeline import Timeline

ROUNDS = 60
SECTORS = 64
BASE = Random(1).randbytes(SECTORS * SECTOR)
Make = Callable[..., Recording]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("REVIRT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(BASE)
    return path


def run(
    directory: Path, plugs: list[DiskPlug], path: Path, rounds: int = ROUNDS, **options: Any
) -> RunSummary:
    on_start = options.pop("on_start", None)
    options = {"clock": "virtual", "checkpoint_every": 2_000, **options}
    with NullConsole() as console:
        return record(
            disk_guest(directory, rounds=rounds),
            console,
            RecordOptions(**options, plugs=Plugs(disks=tuple(plugs))),
            path,
            on_start=on_start,
        )


@pytest.fixture
def make(image: Path, tmp_path: Path) -> Make:
    """Return what records the guest, with *image* as its disk."""

    def made(name: str = "recording", **options: Any) -> Recording:
        run(tmp_path, [DiskPlug(image)], tmp_path / name, **options)
        return Recording.open(tmp_path / name)

    return made


def disks_of(recording: Recording) -> Any:
    return machine_of(recording.path, recording.manifest).devices.disks


def contents(recording: Recording, event: int | None = None) -> bytes:
    """Return what the disk holds at the end, or at *event*."""
    timeline = Timeline(recording, jobs=1)
    if event is None:
        timeline.seek_end()
    else:
        timeline.seek_event(event)
    return timeline.machine.disks[0].read(0, SECTORS)


def is_known(path: Path) -> bool:
    """Return whether the digest of *path* is told without reading all of it."""
    told: list[int] = []
    opened = BaseImage.open(path)
    opened.digest(lambda done, _: told.append(done))
    opened.close()
    return not told


def replace_image(path: Path) -> None:
    """Do what building a guest again does."""
    path.with_suffix(".new").write_bytes(BASE[::-1])
    path.with_suffix(".new").replace(path)


# -- what a disk holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["virtual", "host"])
def test_at_every_moment_a_disk_holds_what_was_written_until_then(make: Make, clock: str) -> None:
    recording = make(clock=clock)
    writes = [ordinal for ordinal, event in enumerate(recording.events()) if event.kind is Kind.STORED]

    assert replay(recording).exact
    assert len(writes) == ROUNDS
    assert contents(recording) == written(BASE, ROUNDS)
    for number in (0, 17, 40):
        assert contents(recording, writes[number]) == written(BASE, number + 1)


def test_what_the_guest_wrote_never_reaches_the_image(make: Make, image: Path) -> None:
    make()

    assert image.read_bytes() == BASE


def test_a_ring_with_a_disk_replays_from_what_is_left(make: Make) -> None:
    recording = make(limits=RingLimits(size=30_000), checkpoint_every=500)

    assert recording.manifest.start.checkpoint > 0
    assert replay(recording).exact
    assert contents(recording) == written(BASE, ROUNDS)


def test_a_machine_has_eight_disks_and_no_more(image: Path, tmp_path: Path) -> None:
    plugs = [DiskPlug(image, overlay=8192)] * 8

    run(tmp_path, plugs, tmp_path / "eight")

    recording = Recording.open(tmp_path / "eight")
    assert replay(recording).exact
    assert len(Timeline(recording, jobs=1).machine.disks) == 8
    with pytest.raises(UsageError, match="at most 4 network cards and 8 disks"):
        run(tmp_path, [*plugs, DiskPlug(image)], tmp_path / "nine")
    assert not (tmp_path / "nine").exists()


def test_more_than_a_machine_can_keep_is_refused_in_words(tmp_path: Path) -> None:
    with (tmp_path / "large.img").open("wb") as file:
        file.truncate(600 << 20)

    with pytest.raises(UsageError, match="take at most 4 GiB together") as error:
        run(tmp_path, [DiskPlug(tmp_path / "large.img")] * 8, tmp_path / "large")

    assert "overlay=SIZE" in error.value.hint
    assert not (tmp_path / "large").exists()


def test_an_image_of_no_whole_sectors_is_one_with_zeros_behind_it(tmp_path: Path) -> None:
    (tmp_path / "odd.img").write_bytes(BASE[:-200])

    run(tmp_path, [DiskPlug(tmp_path / "odd.img")], tmp_path / "odd")

    recording = Recording.open(tmp_path / "odd")
    assert replay(recording).exact
    assert contents(recording) == written(BASE[:-200] + bytes(200), ROUNDS)


def test_a_read_only_disk_is_not_written(image: Path, tmp_path: Path) -> None:
    summary = run(tmp_path, [DiskPlug(image, overlay=0)], tmp_path / "ro")

    recording = Recording.open(tmp_path / "ro")
    assert replay(recording).exact
    assert contents(recording) == BASE
    assert summary.warnings == ()
    assert b"".join(event.data for event in recording.events() if event.is_serial_output) == b"E\n" * ROUNDS


def test_a_guest_whose_disk_is_full_gets_errors_and_somebody_is_told_once(
    image: Path, tmp_path: Path
) -> None:
    summary = run(tmp_path, [DiskPlug(image, overlay=3 * 4096)], tmp_path / "full")

    recording = Recording.open(tmp_path / "full")
    (warning,) = summary.warnings
    assert warning.startswith("disk 0 was full: the guest may write 12 KiB to it")
    printed = b"".join(event.data for event in recording.events() if event.is_serial_output)
    assert b"E\n" in printed
    assert b".\n" in printed
    assert replay(recording).exact


# -- the image --------------------------------------------------------------------------------------------------


def test_a_recording_outlives_that_its_image_is_made_anew(make: Make, image: Path) -> None:
    recording = make()

    replace_image(image)

    assert replay(recording).exact


def test_neither_the_next_recording_nor_a_replay_hashes_the_image_again(make: Make, image: Path) -> None:
    first = make("first")
    assert is_known(base_path(first.path, 0))
    assert is_known(image)

    second = make("second")
    assert is_known(base_path(second.path, 0))

    remove(second.path)
    assert is_known(base_path(first.path, 0))


def test_on_another_file_system_the_recording_names_the_image(
    make: Make, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(base, "clone", lambda *_: False)
    monkeypatch.setattr(os, "link", link)
    recording = make()
    monkeypatch.undo()

    assert os.readlink(base_path(recording.path, 0)) == str(image.resolve())
    assert replay(recording).exact
    image.unlink()
    with pytest.raises(RecordingError, match="disk 0 of recording is not to be had"):
        replay(recording)


@pytest.fixture
def spoil(image: Path) -> dict[str, Callable[[Recording], None]]:
    """What may happen to an image, by name."""

    def change(recording: Recording) -> None:
        place = base_path(recording.path, 0)
        place.unlink()
        place.write_bytes(BASE[::-1])

    def shorten(recording: Recording) -> None:
        place = base_path(recording.path, 0)
        place.unlink()
        place.write_bytes(BASE[:512])

    def delete(recording: Recording) -> None:
        shutil.rmtree(base_path(recording.path, 0).parent)

    def turn_into_directory(recording: Recording) -> None:
        place = base_path(recording.path, 0)
        place.unlink()
        place.mkdir()

    return {"changed": change, "shorter": shorten, "missing": delete, "a directory": turn_into_directory}


WAYS = ["changed", "shorter", "missing", "a directory"]


@pytest.mark.parametrize("way", WAYS)
def test_another_image_is_none(make: Make, spoil: dict[str, Callable[[Recording], None]], way: str) -> None:
    recording = make()

    spoil[way](recording)

    with pytest.raises(RecordingError) as error:
        replay(recording)
    assert error.value.hint == "say where it is: revirt disk recording --number 0 --base FILE"
    (found,) = check_bases(recording.path, disks_of(recording))
    assert found.problem


def test_an_image_that_only_looks_the_same_is_found_when_all_is_read(make: Make) -> None:
    recording = make()
    place = base_path(recording.path, 0)
    place.unlink()
    place.write_bytes(BASE[::-1])

    (found,) = find_bases(recording.path, disks_of(recording))
    assert found.problem is None

    (found,) = check_bases(recording.path, disks_of(recording))
    assert found.problem is not None
    assert "SHA-256 differs" in found.problem


def test_an_image_is_accepted_from_elsewhere_if_it_is_the_one(make: Make, tmp_path: Path) -> None:
    recording = make()
    base_path(recording.path, 0).unlink()
    (tmp_path / "found.img").write_bytes(BASE)
    (tmp_path / "wrong.img").write_bytes(BASE[::-1])
    disks = disks_of(recording)

    with pytest.raises(RecordingError, match="is not the image that disk 0"):
        attach_base(recording.path, disks, 0, tmp_path / "wrong.img")
    with pytest.raises(UsageError, match="has only disk 0; there is no disk 1"):
        attach_base(recording.path, disks, 1, tmp_path / "found.img")
    for _ in range(2):  # the second time it has another name of the same file
        assert attach_base(recording.path, disks, 0, tmp_path / "found.img").exists()

    (tmp_path / "found.img").unlink()
    assert replay(recording).exact
    assert os.listdir(recording.path / "disks") == ["0"]


def test_an_image_that_changes_meanwhile_is_told_of(image: Path, tmp_path: Path) -> None:
    def change(_: Any) -> None:
        with image.open("r+b") as file:
            file.seek(60 * SECTOR)
            file.write(b"changed")
        os.utime(image, ns=(0, 12345))

    with image.open("rb"):
        summary = run(tmp_path, [DiskPlug(image)], tmp_path / "recording", on_start=change)

    (warning,) = summary.warnings
    assert warning.startswith("the image of disk 0, ")
    assert warning.endswith("was changed meanwhile: a replay wants it as it was when the recording began")


def test_an_image_that_changes_while_it_is_replayed_is_told_of(make: Make) -> None:
    recording = make()
    assert replay(recording).warnings == ()

    report = replay(recording, on_start=lambda _: os.utime(base_path(recording.path, 0), ns=(0, 12345)))

    (warning,) = report.warnings
    assert "disks/0, was changed meanwhile" in warning


def test_a_host_that_cannot_read_the_image_any_more_ends_a_recording_that_replays_up_to_there(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = BaseImage.read, 10

    def fail_late(self: BaseImage, offset: int, size: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise HostError(f"the disk image {self.path} cannot be read")
        return read(self, offset, size)

    monkeypatch.setattr(BaseImage, "read", fail_late)
    with pytest.raises(HostError, match="cannot be read"):
        make(clock="host")
    monkeypatch.undo()

    recording = Recording.open(tmp_path / "recording")
    assert recording.state is RecordingState.INTERRUPTED
    assert replay(recording).exact
    repair(recording.path)
    assert replay(Recording.open(recording.path)).exact


# -- what is done with recordings -------------------------------------------------------------------------------


def test_a_cut_has_the_image(make: Make, image: Path, tmp_path: Path) -> None:
    recording = make()
    infos = recording.checkpoints

    cut(recording, tmp_path / "cut", infos[1], infos[3].branches, asked=("a", "b"))

    remove(recording.path)
    image.unlink()
    assert replay(Recording.open(tmp_path / "cut")).exact


def test_a_cut_of_a_recording_without_its_image_waits_for_it(make: Make, tmp_path: Path, image: Path) -> None:
    recording = make()
    base_path(recording.path, 0).unlink()
    infos = recording.checkpoints

    cut(recording, tmp_path / "cut", infos[1], infos[3].branches, asked=("a", "b"))

    part = Recording.open(tmp_path / "cut")
    with pytest.raises(RecordingError, match="not to be had"):
        replay(part)
    attach_base(part.path, disks_of(part), 0, image)
    assert replay(part).exact


def test_a_fork_has_the_image(make: Make, image: Path, tmp_path: Path) -> None:
    recording = make(clock="host")

    assert main(["fork", str(recording.path), "--at", "50%", "--batch", "-o", str(tmp_path / "fork")]) == 0

    remove(recording.path)
    image.unlink()
    fork = Recording.open(tmp_path / "fork")
    assert replay(fork).exact
    assert contents(fork) == written(BASE, ROUNDS)


def test_what_needs_a_recording_that_is_elsewhere_has_a_copy(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = make()
    infos = recording.checkpoints

    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(base, "clone", lambda *_: False)
    monkeypatch.setattr(os, "link", link)
    cut(recording, tmp_path / "cut", infos[1], infos[3].branches, asked=("a", "b"))
    assert main(["fork", str(recording.path), "--at", "50%", "--batch", "-o", str(tmp_path / "fork")]) == 0

    for name in ("cut", "fork"):
        assert not (tmp_path / name / "disks/0").is_symlink()
        assert (tmp_path / name / "disks/0").stat().st_nlink == 1
        assert replay(Recording.open(tmp_path / name)).exact


def test_a_recording_takes_its_image_along(make: Make, image: Path, tmp_path: Path) -> None:
    recording = make()
    image.unlink()

    moved = move(recording.path, tmp_path / "moved")

    assert replay(Recording.open(moved)).exact


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_recording_takes_its_image_to_another_file_system(
    make: Make, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_linked: bool
) -> None:
    with image.open("r+b") as file:
        file.truncate(32 << 20)
    recording = make()
    if is_linked:
        base_path(recording.path, 0).unlink()
        base_path(recording.path, 0).symlink_to(image)
        is_known(image)

    def elsewhere(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    rename = os.rename
    with monkeypatch.context() as patched:
        patched.setattr(base, "clone", lambda *_: False)
        patched.setattr(os, "link", elsewhere)
        patched.setattr(
            os, "rename", lambda old, new: elsewhere() if Path(old) == recording.path else rename(old, new)
        )
        moved = move(recording.path, tmp_path / "moved")

    assert not recording.path.exists()
    place = base_path(moved, 0)
    assert place.is_symlink() == is_linked
    assert is_known(place)
    assert is_known(image)
    assert allocated_size(place.stat()) < 1 << 20
    assert replay(Recording.open(moved)).exact


def test_deleting_a_recording_leaves_the_image(make: Make, image: Path) -> None:
    recording = make()

    remove(recording.path)

    assert image.read_bytes() == BASE


def test_space_is_that_of_an_image_that_nobody_else_has(make: Make, image: Path) -> None:
    recording = make()
    if base_path(recording.path, 0).samefile(image):
        assert disk_usage(recording.path).disks == 0

    image.unlink()

    assert disk_usage(recording.path).disks == allocated_size(base_path(recording.path, 0).stat()) > 0


def test_a_sealed_recording_vouches_for_the_digest_of_its_disk(make: Make, tmp_path: Path) -> None:
    recording = make(sign=key_file(tmp_path), clock="host")
    verification = recording.verify(USER.public)
    assert not list(verification)
    assert verification.verdict is Verdict.INTACT
    plain = Manifest.read(recording.path / NAME)

    plain.machine["devices"]["disks"][0]["sha256"] = "0" * 64
    (recording.path / NAME).write_text(plain.to_json())

    verification = Recording.open(recording.path).verify(USER.public)
    assert list(verification)
    assert verification.verdict is Verdict.TAMPERED


def test_a_recording_without_its_image_is_intact(make: Make) -> None:
    recording = make()
    shutil.rmtree(recording.path / "disks")

    verification = Recording.open(recording.path).verify()

    assert not list(verification)
    assert verification.verdict is Verdict.INTACT


# -- packs ------------------------------------------------------------------------------------------------------


def test_a_pack_without_images_is_as_before_and_says_which_it_wants(
    make: Make, image: Path, tmp_path: Path
) -> None:
    recording = make()

    report = pack(recording.path, tmp_path / "pack")

    assert report.left_out == ()
    assert [disk.sha256 for disk in report.disks] == [disks_of(recording)[0].sha256]
    assert not report.has_images
    with tarfile.open(tmp_path / "pack") as archive:
        assert not [name for name in archive.getnames() if "disks" in name]
        index = archive.extractfile(INDEX_NAME)
        assert index is not None
        assert index.readline() == b"# revirt pack 1\n"
    unpack(tmp_path / "pack", tmp_path / "again")
    again = Recording.open(tmp_path / "again")
    with pytest.raises(RecordingError, match="not to be had"):
        replay(again)
    attach_base(again.path, disks_of(again), 0, image)
    assert replay(again).exact


def test_a_pack_with_images_is_all_that_is_wanted(make: Make, image: Path, tmp_path: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(64 << 20)
    recording = make()

    report = pack(recording.path, tmp_path / "pack", with_disks=True)
    remove(recording.path)
    image.unlink()
    unpack(tmp_path / "pack", tmp_path / "again")

    assert report.has_images
    assert report.size < 1 << 20
    place = base_path(tmp_path / "again", 0)
    assert place.stat().st_size == 64 << 20
    assert allocated_size(place.stat()) < 1 << 20
    assert os.listdir(place.parent) == ["0"]
    assert is_known(place)
    assert replay(Recording.open(tmp_path / "again")).exact


def test_a_pack_with_images_is_the_same_each_time_and_leaves_nothing_beside_it(
    make: Make, tmp_path: Path
) -> None:
    recording = make()
    (tmp_path / "packs").mkdir()

    packs = [pack(recording.path, tmp_path / "packs" / name, with_disks=True).digest for name in "ab"]

    assert packs[0] == packs[1]
    assert sorted(os.listdir(tmp_path / "packs")) == ["a", "b"]


def test_a_recording_without_its_image_is_not_packed_with_it(make: Make, tmp_path: Path) -> None:
    recording = make()
    base_path(recording.path, 0).unlink()

    with pytest.raises(RecordingError, match="not to be had"):
        pack(recording.path, tmp_path / "pack", with_disks=True)

    assert not (tmp_path / "pack").exists()
    pack(recording.path, tmp_path / "pack")


def members_of(data: bytes) -> dict[str, bytes]:
    """Return the files in a pack, by their names in the recording."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {each.name.partition("/")[2]: archive.extractfile(each) for each in archive}
        return {name: file.read() for name, file in files.items() if name and file is not None}


def pack_of(files: dict[str, bytes], *, has_images: bool = True) -> bytes:
    """Return a pack of *files*, whatever they are."""
    members = [Member(name, len(data), _digest(data)) for name, data in files.items()]
    index = Index.of(Path("forged"), members, has_images=has_images)
    out = encode_header(INDEX_NAME, len(index.data)) + index.data + bytes(padding(len(index.data)))
    for member in members:
        out += member.header + files[member.name] + bytes(padding(member.size))
    return out + END


def _digest(data: bytes) -> bytes:
    digest = new_digest()
    digest.update(data)
    return digest.digest()


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


HOSTILE = {
    "another": _compressed(BASE[::-1]),
    "longer": _compressed(BASE + b"x"),
    "much longer": _compressed(bytes(1 << 30)),
    "shorter": _compressed(BASE[:-1]),
    "cut short": _compressed(BASE)[:-5],
    "empty": b"",
    "no such stream": b"not compressed",
    "with more behind it": _compressed(BASE) + b"more",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_the_image_is_not_unpacked(make: Make, tmp_path: Path, what: str) -> None:
    out = io.BytesIO()
    pack_to(make().path, out, with_disks=True)
    files = members_of(out.getvalue())
    assert pack_of(files) == out.getvalue()
    files["disks/0.zst"] = HOSTILE[what]

    with pytest.raises(CorruptError, match="the image of disk 0 is not the one"):
        unpack_from(io.BytesIO(pack_of(files)), tmp_path / "again", source=Path("forged"))

    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".revirt-*"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("disks/1.zst", "image of a disk that there is not"),
        ("disks/8.zst", "is no file of a recording"),
        ("disks/0", "is no file of a recording"),
        ("disks/../0.zst", "is no file of a recording"),
    ],
)
def test_images_have_the_names_of_disks(make: Make, tmp_path: Path, name: str, problem: str) -> None:
    out = io.BytesIO()
    pack_to(make().path, out, with_disks=True)
    files = members_of(out.getvalue())
    files[name] = files.pop("disks/0.zst")
    files = dict(sorted(files.items(), key=lambda each: (each[0] != NAME, each[0])))

    with pytest.raises(CorruptError, match=problem):
        unpack_from(io.BytesIO(pack_of(files)), tmp_path / "again", source=Path("forged"))

    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("has_images", [False, True])
def test_the_version_of_a_pack_says_whether_images_are_in_it(
    make: Make, tmp_path: Path, has_images: bool
) -> None:
    out = io.BytesIO()
    pack_to(make().path, out, with_disks=not has_images)

    forged = pack_of(members_of(out.getvalue()), has_images=has_images)

    with pytest.raises(CorruptError, match="images of disks are in version 2 only, and in each of that"):
        unpack_from(io.BytesIO(forged), tmp_path / "again", source=Path("forged"))


# -- a power cut ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["virtual", "host"])
def test_a_recorder_that_is_killed_leaves_what_the_guest_had_written_by_then(
    image: Path, tmp_path: Path, clock: str
) -> None:
    guest = disk_guest(tmp_path, rounds=0)
    path = tmp_path / "killed"
    words = ["record", "--kernel", str(guest.file), "--memory", "1M", "--disk", str(image), "--clock", clock]
    recorder = subprocess.Popen(
        [*COMMAND, *words, "--checkpoint-every", "200000", "-o", str(path), "--batch"],
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while len(list(path.glob("log/*.seg"))) < 4:
            assert recorder.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        recorder.send_signal(signal.SIGKILL)
        recorder.wait()

    recording = Recording.open(path)
    assert recording.state is RecordingState.INTERRUPTED
    assert replay(recording).exact
    rounds = sum(event.kind is Kind.STORED for event in recording.events())
    assert rounds > 100
    assert contents(recording) == written(BASE, rounds)
    repair(path)
    repaired = Recording.open(path)
    assert replay(repaired).exact
    assert contents(repaired) == written(BASE, rounds)
