"""Recordings that are sealed while they are made."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from busy import busy_in
from countdown import Countdown
from sealed import (
    USER,
    Clock,
    SealedWriter,
    create,
    die,
    findings,
    key_file,
    manifest,
    problems,
    stop_clock,
    verdict,
)

from revirt.cli import main
from revirt.errors import CorruptError, HostError, KeyFileError, RecordingError
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import (
    Manifest,
    Recording,
    RecordingState,
    RingLimits,
    Seal,
    Verdict,
    disk_usage,
    list_recordings,
    move,
    pack,
    remove,
    repair,
    unpack,
)
from revirt.recording.manifest import NAME
from revirt.replay import replay
from revirt.seal import leaves
from revirt.seal.epochs import verify_certificates
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import LeafKind
from revirt.seal.schedule import Schedule

STRANGER = PrivateKey.from_raw(bytes([8] * 32))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stop_clock(monkeypatch)


def seal_of(path: Path) -> Seal:
    return Seal.open(path, Manifest.read(path / NAME), USER.public)


def names_in(path: Path) -> list[str]:
    return sorted(each.name for each in (path / "seal").iterdir())


# -- what is on disk --------------------------------------------------------------------------------------------


def test_a_sealed_recording_holds_a_seal_and_is_intact(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.fills(2)
    writer.complete({"reason": "powered off"})

    assert names_in(tmp_path / "r") == [
        "00000000.batch",
        "00000000.head",
        "00000000.leaves",
        "00000001.leaves",
        "end",
        "key.pub",
    ]
    assert (tmp_path / "r/seal/key.pub").read_bytes() == USER.public.to_pem()
    assert verdict(tmp_path / "r") is verdict(tmp_path / "r", None) is Verdict.INTACT
    seal = seal_of(tmp_path / "r")
    assert (seal.head.events, seal.head.evicted) == (24, None)
    assert seal.end is not None
    assert seal.end.end == Recording.open(tmp_path / "r").manifest.end


def test_a_leaf_stands_for_what_was_written_at_one_time(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        writer.checkpoint(1)
        writer.ticks(10)
        writer.ticks(5)
        writer.checkpoint(2)

    files = list(seal_of(tmp_path / "r").leaf_files())

    assert [[(leaf.kind, leaf.number, leaf.detail) for leaf in file.leaves] for file in files] == [
        [
            (LeafKind.CHECKPOINT, 0, 1),
            (LeafKind.EVENTS, 0, 2),
            (LeafKind.EVENTS, 2, 10),
            (LeafKind.EVENTS, 12, 5),
        ],
        [(LeafKind.CHECKPOINT, 1, 18), (LeafKind.EVENTS, 17, 2)],
    ]
    assert [file.first for file in files] == [0, 4]


def test_a_recording_that_nothing_was_recorded_in_is_sealed_too(tmp_path: Path) -> None:
    create(tmp_path / "r").complete({"reason": "powered off"})

    assert verdict(tmp_path / "r") is Verdict.INTACT
    assert seal_of(tmp_path / "r").head.leaves == 0


def test_without_a_key_there_is_no_seal(tmp_path: Path) -> None:
    writer = create(tmp_path / "r", None)
    writer.fills()
    writer.complete({})

    assert not (tmp_path / "r/seal").exists()
    assert verdict(tmp_path / "r", None) is Verdict.INTACT
    assert verdict(tmp_path / "r") is Verdict.TAMPERED


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(USER.public.to_pem()), "a public key, which cannot sign"),
        (lambda path: path.chmod(0o640), "that others can reach"),
        (lambda path: path.write_bytes(b"x"), "holds no key"),
    ],
)
def test_without_a_usable_key_nothing_is_left_behind(
    prepare: Callable[[Path], object], problem: str, tmp_path: Path
) -> None:
    key = key_file(tmp_path)
    prepare(key)

    with pytest.raises(KeyFileError, match=problem):
        SealedWriter.create(tmp_path / "r", manifest(), sign=key)

    assert not (tmp_path / "r").exists()


# -- keys -------------------------------------------------------------------------------------------------------


def private_keys() -> list[PrivateKey]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is PrivateKey]


def test_the_users_key_is_gone_when_recording_begins(tmp_path: Path) -> None:
    user = PrivateKey.from_raw(bytes([9] * 32)).public
    key = key_file(tmp_path, PrivateKey.from_raw(bytes([9] * 32)))

    writer = SealedWriter.create(tmp_path / "r", manifest(), sign=key)

    assert user not in [each.public for each in private_keys()]
    writer.complete({})


def test_no_key_of_any_epoch_is_left_at_the_end(tmp_path: Path, clock: Clock) -> None:
    before = {each.public for each in private_keys()}
    writer = create(tmp_path / "r")
    writer.fills(1)
    clock.seconds += 1
    writer.ticks()
    schedule = writer._sealer._schedule  # type: ignore[union-attr]
    assert {each.public for each in private_keys()} - before

    writer.complete({})

    assert {each.public for each in private_keys()} <= before
    assert schedule._seed == bytes(32)
    with pytest.raises(ValueError, match="destroyed"):
        schedule.sign("type", b"payload")


def test_keys_are_destroyed_though_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = create(tmp_path / "r")
    writer.fills(1)
    schedule = writer._sealer._schedule  # type: ignore[union-attr]
    monkeypatch.setattr(os, "replace", Countdown(0, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))

    with pytest.raises(HostError):
        writer.complete({})

    assert schedule._seed == bytes(32)


# -- epochs -----------------------------------------------------------------------------------------------------


def test_every_epoch_has_a_head_whether_or_not_anything_happened(tmp_path: Path, clock: Clock) -> None:
    writer = create(tmp_path / "r")
    writer.checkpoint(1)
    for _ in range(3):
        clock.seconds += 1
        writer.idle()
    clock.seconds += 1
    writer.ticks()
    writer.complete({})

    seal = seal_of(tmp_path / "r")
    assert [(each.epoch, each.head.leaves, each.head.events) for each in seal.heads] == [
        (0, 2, 2),
        (1, 2, 2),
        (2, 2, 2),
        (3, 3, 12),
        (4, 3, 12),
    ]
    assert verdict(tmp_path / "r") is Verdict.INTACT


def test_within_an_epoch_a_head_takes_the_place_of_the_one_before(tmp_path: Path, clock: Clock) -> None:
    with create(tmp_path / "r") as writer:
        writer.fills(2)
        clock.seconds += 0.99
        writer.idle()
        assert [each.epoch for each in seal_of(tmp_path / "r").heads] == [0]

        clock.seconds += 0.01
        writer.idle()
        writer.ticks()
        assert [each.epoch for each in seal_of(tmp_path / "r").heads] == [0, 1]


def test_a_recording_goes_on_in_the_next_batch(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Schedule.begin
    monkeypatch.setattr(Schedule, "begin", lambda key, uuid: begin(key, uuid, epochs=2))
    writer = create(tmp_path / "r")
    writer.checkpoint(1)
    for _ in range(4):
        clock.seconds += 1
        writer.ticks()
    writer.complete({})

    seal = seal_of(tmp_path / "r")
    assert [each for each in names_in(tmp_path / "r") if each.endswith(".batch")] == [
        "00000000.batch",
        "00000001.batch",
        "00000002.batch",
    ]
    assert len(verify_certificates(seal.certificates, USER.public, seal.head.recording)) == 3
    assert verdict(tmp_path / "r") is Verdict.INTACT


# -- how it ends ------------------------------------------------------------------------------------------------


def test_an_aborted_recording_is_sealed_as_interrupted(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.fills()
    writer.abort({"reason": "SIGTERM"})

    end = seal_of(tmp_path / "r").end
    assert end is not None
    assert (end.state, end.end["reason"]) == ("interrupted", "SIGTERM")
    assert verdict(tmp_path / "r") is Verdict.INTERRUPTED


def test_a_recording_whose_recorder_died_is_interrupted(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.fills()
    die(writer)

    assert seal_of(tmp_path / "r").end is None
    assert verdict(tmp_path / "r") is Verdict.INTERRUPTED


def test_events_that_were_not_sealed_any_more_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = create(tmp_path / "r")
    writer.fills()
    monkeypatch.setattr(writer, "_sealer", None)
    writer.ticks(7)
    die(writer)

    verification = Recording.open(tmp_path / "r").verify(USER.public)
    assert list(verification) == []
    assert (verification.verdict, verification.unsealed) == (Verdict.INTERRUPTED, 7)


def test_a_recording_that_is_being_made_is_verified(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.fills()

    assert verdict(tmp_path / "r") is Verdict.RECORDING

    writer.complete({})
    assert verdict(tmp_path / "r") is Verdict.INTACT


def test_whoever_reads_while_a_recorder_writes_finds_nothing_wrong(tmp_path: Path, clock: Clock) -> None:
    writer, found, looks = create(tmp_path / "r"), [], 0
    over = threading.Event()

    def look() -> None:
        nonlocal looks
        while not over.is_set():
            found.extend(findings(tmp_path / "r"))
            looks += 1

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(40):
        writer.fills(1)
        clock.seconds += 0.3
    writer.complete({})
    over.set()
    reader.join()

    assert found == []
    assert looks > 3


# -- repair -----------------------------------------------------------------------------------------------------


def test_a_repaired_recording_stays_what_the_seal_says(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.fills()
    die(writer)
    (tmp_path / "r/seal/00000000.head.tmp").write_bytes(b"half")

    done = repair(tmp_path / "r")

    assert Recording.open(tmp_path / "r").state is RecordingState.COMPLETE
    assert verdict(tmp_path / "r") is Verdict.INTERRUPTED
    assert [each.path.name for each in done.lost] == ["00000000.head.tmp"]


def test_a_repaired_recording_that_was_aborted_stays_interrupted(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.fills()
    writer.abort({"reason": "SIGTERM"})

    repair(tmp_path / "r")

    assert Recording.open(tmp_path / "r").state is RecordingState.COMPLETE
    assert verdict(tmp_path / "r") is Verdict.INTERRUPTED


def end_without_manifest(path: Path) -> Manifest:
    """Make a recording whose recorder died with the end sealed and the manifest not written; return what it lacks."""
    writer = create(path)
    writer.fills()
    writer.complete({"reason": "powered off", "branches": 3000})
    whole = Manifest.read(path / NAME)
    unfinished = Manifest.read(path / NAME)
    unfinished.state, unfinished.end = RecordingState.RECORDING, None
    (path / NAME).write_text(unfinished.to_json())
    return whole


def test_a_repair_finishes_the_manifest_as_the_seal_has_it(tmp_path: Path) -> None:
    whole = end_without_manifest(tmp_path / "r")
    assert verdict(tmp_path / "r") is Verdict.INTERRUPTED

    done = repair(tmp_path / "r")

    assert Manifest.read(tmp_path / "r" / NAME) == whole
    assert (done.events, done.checkpoints) == (36, 3)
    assert verdict(tmp_path / "r") is Verdict.INTACT


def test_a_repair_does_not_call_whole_what_misses_events(tmp_path: Path) -> None:
    end_without_manifest(tmp_path / "r")
    (tmp_path / "r/log/00000002.seg").unlink()

    repair(tmp_path / "r")

    end = Manifest.read(tmp_path / "r" / NAME).end
    assert end is not None
    assert (end["reason"], end["events"]) == ("the recorder died; repaired", 24)
    assert verdict(tmp_path / "r") is Verdict.TAMPERED


def test_a_repair_asks_nothing_of_a_seal_that_does_not_hold(tmp_path: Path) -> None:
    end_without_manifest(tmp_path / "r")
    (tmp_path / "r/seal/end").write_bytes(b"{}")

    repair(tmp_path / "r")

    assert (Manifest.read(tmp_path / "r" / NAME).end or {})["reason"] == "the recorder died; repaired"
    assert verdict(tmp_path / "r") is Verdict.TAMPERED


def test_a_repair_moves_nothing_where_the_manifest_has_no_room_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile seal may bring an end that takes no more than an envelope, and indented more than a manifest."""
    end_without_manifest(tmp_path / "r")
    half = tmp_path / "r/seal/00000000.head.tmp"
    half.write_bytes(b"half")
    before = (tmp_path / "r" / NAME).read_bytes()
    monkeypatch.setattr("revirt.recording.manifest.SIZE_LIMIT", len(before))

    with pytest.raises(CorruptError, match="leaves no room"):
        repair(tmp_path / "r")

    assert half.exists()
    assert (tmp_path / "r" / NAME).read_bytes() == before


# -- housekeeping -----------------------------------------------------------------------------------------------


def test_a_seal_goes_wherever_its_recording_goes(tmp_path: Path, home: Path) -> None:
    home.mkdir()
    key = key_file(tmp_path)
    writer = SealedWriter.create(home / "r", manifest(), sign=key)
    writer.fills()
    writer.complete({})
    before = {path.name: path.read_bytes() for path in (home / "r/seal").iterdir()}

    moved = move(home / "r", home / "moved")
    pack(moved, tmp_path / "r.revirt")
    unpack(tmp_path / "r.revirt", tmp_path / "again")

    assert {path.name: path.read_bytes() for path in (tmp_path / "again/seal").iterdir()} == before
    assert verdict(tmp_path / "again") is verdict(moved) is Verdict.INTACT
    assert list_recordings() == [moved]
    remove(moved)
    assert not moved.exists()


def test_the_size_of_a_seal_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = create(tmp_path / "r")
    writer.fills()
    writer.complete({})

    size = sum(path.stat().st_size for path in (tmp_path / "r/seal").iterdir())

    assert writer._sealer is not None
    assert writer._sealer.size == size
    assert disk_usage(tmp_path / "r").other == size + (tmp_path / "r" / NAME).stat().st_size
    assert main(["du", str(tmp_path / "r")]) == 0
    assert main(["ls"]) == 0


def test_a_tampered_recording_is_not_packed(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.fills()
    writer.complete({})
    (tmp_path / "r/seal/00000001.leaves").unlink()

    with pytest.raises(RecordingError, match=r"seal/00000001\.leaves: missing"):
        pack(tmp_path / "r", tmp_path / "r.revirt")


# -- rings ------------------------------------------------------------------------------------------------------

RING = RingLimits(keep_ns=25_000)
"""Two rounds and a half of `SealedWriter.fills`."""


def test_what_a_ring_let_go_of_is_vouched_for_by_a_receipt(tmp_path: Path, clock: Clock) -> None:
    writer = create(tmp_path / "r", limits=RING)
    for _ in range(20):
        writer.fills(1)
        clock.seconds += 0.5
    writer.complete({})

    recording, seal = Recording.open(tmp_path / "r"), seal_of(tmp_path / "r")
    start = recording.manifest.start
    assert seal.head.evicted is not None
    assert (seal.head.evicted.event, seal.head.evicted.segment) == (start.event, start.segment)
    assert start.checkpoint > 10
    assert findings(tmp_path / "r") == []
    assert verdict(tmp_path / "r") is Verdict.INTACT
    oldest = seal.heads[0].epoch
    assert oldest > 5
    heads = [name for name in names_in(tmp_path / "r") if name.endswith(".head")]
    assert heads == ["00000000.head", *(f"{each.epoch:08}.head" for each in seal.heads)]
    kept = [name for name in names_in(tmp_path / "r") if name.endswith(".leaves")]
    assert kept == [leaves.file_name(each.index) for each in recording.segments]


def test_the_receipt_is_there_before_anything_goes(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, gone = os.unlink, []

    def look(path: Path, **options: object) -> None:
        name = Path(path)
        if name.is_relative_to(tmp_path / "r") and name.suffix != ".tmp":
            evicted = seal_of(tmp_path / "r").head.evicted
            assert evicted is not None
            first = {".seg": evicted.segment, ".leaves": evicted.segment, ".head": evicted.epoch}
            assert int(name.stem) < first.get(name.suffix, evicted.checkpoint)
            gone.append(name.suffix)
        unlink(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", look)
    writer = create(tmp_path / "r", limits=RING)
    for _ in range(8):
        writer.fills(1)
        clock.seconds += 1
    writer.complete({})

    assert set(gone) == {".seg", ".leaves", ".head", ".ckpt", ".pages"}


def record_ring(directory: Path, size: int, branches: int, key: PrivateKey | None = USER) -> Recording:
    options = RecordOptions(
        clock="virtual",
        until=Position(branches),
        checkpoint_every=1_000,
        limits=RingLimits(size=size),
        sign=key_file(directory, key) if key is not None else None,
    )
    with NullConsole() as console:
        record(busy_in(directory), console, options, directory / "ring")
    return Recording.open(directory / "ring")


def test_a_sealed_ring_stays_within_its_size_and_replays(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, sizes = os.replace, [0]

    def replace_and_look(source: Path, target: Path) -> None:
        replaced(source, target)
        clock.seconds += 0.01
        if Path(target).is_relative_to(tmp_path / "ring"):
            used = disk_usage(tmp_path / "ring")
            sizes.append(used.total - (tmp_path / "ring" / NAME).stat().st_size if used.log else 0)

    monkeypatch.setattr(os, "replace", replace_and_look)

    recording = record_ring(tmp_path, 100_000, 120_000)

    assert max(sizes) <= 105_000
    assert recording.manifest.start.branches > 50_000
    assert verdict(recording.path) is Verdict.INTACT
    assert replay(recording).exact


@pytest.mark.parametrize("key", [USER, None], ids=["sealed", "not sealed"])
def test_a_ring_that_turns_meanwhile_is_verified(key: PrivateKey | None, tmp_path: Path) -> None:
    over, found, verdicts = threading.Event(), [], list[Verdict]()

    def look() -> None:
        while not over.is_set():
            if (tmp_path / "ring" / NAME).exists():
                verification = Recording.open(tmp_path / "ring").verify(key and key.public)
                found.extend(verification)
                verdicts.append(verification.verdict)

    reader = threading.Thread(target=look)
    reader.start()
    recording = record_ring(tmp_path, 100_000, 150_000, key)
    over.set()
    reader.join()

    assert found == []
    assert verdicts.count(Verdict.RECORDING) > 3
    assert recording.manifest.start.branches > 50_000


# -- a recorder that dies, and disks that fail ------------------------------------------------------------------


@pytest.fixture
def moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that gets a copy of the recording at every moment in which its recorder might be killed."""
    directory = tmp_path / "moments"
    directory.mkdir()

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(path: Path, *more: object, **options: object) -> None:
            is_part = Path(path).is_relative_to(tmp_path / "r")
            if is_part:
                keep()
            real(path, *more, **options)
            if is_part:
                keep()

        monkeypatch.setattr(os, name, watched)

    def keep() -> None:
        if (tmp_path / "r" / NAME).exists():
            shutil.copytree(tmp_path / "r", directory / f"{len(os.listdir(directory)):04}")

    for name in ("replace", "unlink"):
        watch(name)
    yield directory
    monkeypatch.undo()


@pytest.mark.parametrize("limits", [None, RING], ids=["whole", "ring"])
def test_a_recorder_that_is_killed_at_any_moment_is_never_taken_for_a_forger(
    limits: RingLimits | None, tmp_path: Path, moments: Path, clock: Clock
) -> None:
    writer = create(tmp_path / "r", limits=limits)
    for _ in range(6):
        writer.fills(1)
        clock.seconds += 0.7
    writer.complete({"reason": "powered off"})

    verdicts = set()
    for path in sorted(moments.iterdir()):
        assert problems(path) == []
        verdicts.add(verdict(path))
        if not Recording.open(path).checkpoints:
            continue
        if Recording.open(path).state is RecordingState.INTERRUPTED:
            repair(path)
        assert problems(path) == []
    assert verdicts == {Verdict.INTERRUPTED, Verdict.INTACT}
    assert len(os.listdir(moments)) > 100


@pytest.mark.parametrize(
    ("call", "limits"),
    [("os.replace", None), ("os.replace", RING), ("os.unlink", RING)],
    ids=["write", "write to a ring", "delete from a ring"],
)
def test_a_disk_that_fails_at_any_call_leaves_no_tampered_recording(
    call: str, limits: RingLimits | None, tmp_path: Path, clock: Clock
) -> None:
    real = getattr(os, call.removeprefix("os."))
    for left in range(1_000):
        path = tmp_path / str(left)
        failing = Countdown(left, OSError(errno.EIO, os.strerror(errno.EIO)), real)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(call, failing)
            if make_ring(path, limits, clock):
                break
        if path.exists() and (path / NAME).exists():
            assert problems(path) == []
            assert verdict(path) is Verdict.INTERRUPTED
    assert left > 5


def make_ring(path: Path, limits: RingLimits | None, clock: Clock) -> bool:
    """Make a sealed recording of a few rounds in *path*; return whether nothing went wrong."""
    try:
        with create(path, limits=limits) as writer:
            for _ in range(6):
                writer.fills(1)
                clock.seconds += 0.7
            writer.complete({})
    except HostError:
        return False
    return True
