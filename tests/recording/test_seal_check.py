"""Sealed recordings that somebody changed: every file has the right checks, and yet it shows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sealed import (
    MEMORY,
    PAGE,
    USER,
    Clock,
    create,
    die,
    problems,
    rewrite_manifest,
    stop_clock,
    verdict,
)

from revirt.errors import CorruptError, HostError, RecordingError, SealError
from revirt.log import segment
from revirt.log.events import Event
from revirt.log.rows import rows_of
from revirt.recording import Manifest, Recording, RecordingState, RingLimits, Seal, Verdict, prove, writer
from revirt.recording.manifest import NAME
from revirt.recording.repair import REASON
from revirt.seal import dsse, leaves
from revirt.seal.heads import END_TYPE, HEAD_TYPE
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import Leaf, LeafFile
from revirt.seal.schedule import Schedule

STRANGER = PrivateKey.from_raw(bytes([8] * 32))
SEED = bytes([3] * 32)
EPOCHS = 64
HEAD = "seal/00000003.head"
"""The last head of the recordings here."""

Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """Time that stands still, and keys that can be made again."""
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    begin = Schedule.begin
    monkeypatch.setattr(Schedule, "begin", lambda key, uuid: begin(key, uuid, epochs=EPOCHS, seed=SEED))
    return stop_clock(monkeypatch)


@pytest.fixture
def complete(tmp_path: Path, clock: Clock) -> Path:
    """A recording of three rounds, with the heads of four epochs."""
    return make(tmp_path / "complete", clock)


@pytest.fixture
def died(tmp_path: Path, clock: Clock) -> Path:
    """The same, but for its end."""
    return make(tmp_path / "died", clock, complete=False)


@pytest.fixture
def ring(tmp_path: Path, clock: Clock) -> Path:
    """A circular recording that has let go of seven rounds."""
    return make(tmp_path / "ring", clock, rounds=10, limits=RingLimits(keep_ns=25_000))


def make(path: Path, clock: Clock, *, complete: bool = True, rounds: int = 3, **options: Any) -> Path:
    writer = create(path, **options)
    for _ in range(rounds):
        writer.fills(1)
        clock.seconds += 1
        writer.idle()
    if complete:
        writer.complete({"reason": "powered off"})
    else:
        die(writer)
    assert problems(path) == []
    return path


def flip(path: Path, place: int = -10) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# -- what a thief can do ----------------------------------------------------------------------------------------


def signed(path: Path, epoch: int, payload_type: str, payload: bytes) -> bytes:
    """Sign *payload* as the recorder of *path* could have, in *epoch*."""
    schedule = Schedule.begin(USER, Manifest.read(path / NAME).uuid)
    while schedule.epoch < epoch:
        schedule.evolve()
    return schedule.seal(payload_type, payload)


def sign_head(path: Path, epoch: int = 3, **changes: Any) -> None:
    head = Seal.open(path, Manifest.read(path / NAME)).head
    payload = replace(head, **changes).to_payload()
    (path / f"seal/{epoch:08}.head").write_bytes(signed(path, epoch, HEAD_TYPE, payload))


def sign_end(path: Path, **changes: Any) -> None:
    end = Seal.open(path, Manifest.read(path / NAME)).end
    assert end is not None
    payload = replace(end, **changes).to_payload()
    (path / "seal/end").write_bytes(signed(path, 3, END_TYPE, payload))


def rewrite_leaves(path: Path, number: int, change: Callable[[LeafFile], LeafFile]) -> None:
    """Change the leaves of segment *number*, and give the file the right checks."""
    name = path / "seal" / leaves.file_name(number)
    file = change(leaves.read(name, number))
    name.write_bytes(
        leaves.encode(file.segment, file.first, file.subtrees, [leaf.pack() for leaf in file.leaves])
    )


def rewrite_segment(path: Path, number: int, change: Callable[[list[Event]], list[Event]]) -> None:
    """Change the events of segment *number*, and give the file the right checks."""
    name = path / "log" / segment.file_name(number)
    found, events = segment.read(name)
    name.write_bytes(segment.encode(number, found.ordinal, rows_of(change(events))))


def other_last_event(events: list[Event]) -> list[Event]:
    return [*events[:-1], events[-1]._replace(number=9)]


def join_segments(path: Path) -> None:
    """Put the events of the last segment behind those of the one before."""
    last = path / "log/00000002.seg"
    _, moved = segment.read(last)
    last.unlink()
    rewrite_segment(path, 1, lambda events: events + other_last_event(moved))


def copy_head(path: Path) -> None:
    shutil.copyfile(path / "seal/00000002.head", path / "seal/00000003.head")


def other_leaf(file: LeafFile) -> LeafFile:
    last: Leaf = replace(file.leaves[-1], digest=bytes(32))
    return replace(file, leaves=(*file.leaves[:-1], last))


def seal_again(path: Path) -> None:
    """Have another user certify the keys."""
    schedule = Schedule.begin(STRANGER, Manifest.read(path / NAME).uuid)
    (path / "seal/00000000.batch").write_bytes(schedule.certificates[0])
    (path / "seal/key.pub").write_bytes(STRANGER.public.to_pem())


def end_elsewhere(path: Path) -> None:
    rewrite_manifest(path, lambda contents: contents.end.update(reason="crashed"))  # type: ignore[union-attr]


def set_state(state: RecordingState, **end: Any) -> Change:
    def change(path: Path) -> None:
        rewrite_manifest(
            path, lambda contents: (setattr(contents, "state", state), setattr(contents, "end", end))
        )

    return change


def set_manifest(name: str, value: Any) -> Change:
    return lambda path: rewrite_manifest(path, lambda contents: setattr(contents, name, value))


def delete(name: str) -> Change:
    return lambda path: (path / name).unlink()


def append_segment(path: Path) -> None:
    found, events = segment.read(path / "log/00000002.seg")
    data = segment.encode(3, found.ordinal + found.count, rows_of(events[-1:] * 2))
    (path / "log/00000003.seg").write_bytes(data)


UNTRUSTED = "an envelope without a valid signature of a key that is trusted"


@pytest.mark.parametrize(
    ("change", "file", "problem"),
    [
        # The key and the certificates.
        (seal_again, "seal", f"certificate 0: {UNTRUSTED}"),
        (delete("seal/00000000.batch"), "seal", "no certificate"),
        (delete("seal/key.pub"), "seal/key.pub", "no such file"),
        (
            lambda path: (path / "seal/key.pub").write_bytes(STRANGER.public.to_pem()),
            "seal/key.pub",
            "is another key than the one that sealed",
        ),
        (
            lambda path: (path / "seal/key.pub").write_bytes((path / "seal/key.pub").read_bytes() + b"\0"),
            "seal/key.pub",
            "is the key that sealed, but not as it was written",
        ),
        # The heads and the end.
        (delete("seal/00000001.head"), "seal/00000001.head", "missing"),
        (delete("seal/00000000.head"), "seal/00000000.head", "missing"),
        (lambda path: [each.unlink() for each in path.glob("seal/*.head")], "seal", "has no head"),
        (copy_head, HEAD, "is the head of epoch 2"),
        (
            lambda path: (path / HEAD).write_bytes(dsse.sign(HEAD_TYPE, b"{}", [USER])),
            HEAD,
            "an envelope that is not signed by the key of an epoch",
        ),
        (
            lambda path: sign_head(path, recording="another"),
            HEAD,
            f"of recording another, not of {'UUID'}",
        ),
        (
            lambda path: (path / "seal/end").write_bytes(dsse.sign(END_TYPE, b"{}", [USER])),
            "seal/end",
            "an envelope that is not signed by the key of an epoch",
        ),
        (lambda path: sign_end(path, root=bytes(32)), "seal/end", "is not about the last head"),
        (lambda path: sign_end(path, leaves=1), "seal/end", "is not about the last head"),
        # The leaves.
        (delete("seal/00000001.leaves"), "seal/00000001.leaves", "missing"),
        (delete("seal/00000000.leaves"), "seal/00000000.leaves", "missing"),
        (
            delete("seal/00000002.leaves"),
            "seal",
            "lacks leaves: there are 6, 00000002.head was signed over 9",
        ),
        (
            lambda path: rewrite_leaves(path, 1, lambda file: replace(file, subtrees=file.subtrees[::-1])),
            "seal/00000001.leaves",
            "does not begin where the leaves before it end",
        ),
        (
            lambda path: rewrite_leaves(path, 1, lambda file: replace(file, leaves=file.leaves[:-1])),
            "seal/00000002.leaves",
            "does not begin where the leaves before it end",
        ),
        (
            lambda path: rewrite_leaves(path, 2, other_leaf),
            "seal/00000002.head",
            "leaves from number 6 to 9 are not what it was signed over",
        ),
        (
            lambda path: rewrite_leaves(path, 2, lambda file: replace(file, segment=1)),
            "seal/00000002.leaves",
            "calls itself the leaves of segment 1",
        ),
        # The manifest.
        (set_manifest("command", ["revirt"]), NAME, "is not the manifest that was sealed"),
        (set_manifest("ring", {"size": 1, "keep_ns": None}), NAME, "is not the manifest that was sealed"),
        (end_elsewhere, NAME, "does not end as the seal says"),
        (set_state(RecordingState.INTERRUPTED, reason="killed"), NAME, "does not end as the seal says"),
        (
            set_state(RecordingState.COMPLETE, reason=REASON, events=36, checkpoints=3),
            NAME,
            "does not end as the seal says",
        ),
        # The log.
        (
            lambda path: rewrite_segment(path, 2, other_last_event),
            "log/00000002.seg",
            "its events from number 26 to 36 are not those that were sealed",
        ),
        (
            lambda path: rewrite_segment(path, 2, lambda events: events[:-1]),
            "log/00000002.seg",
            "has not the events from number 26 to 36 that were sealed",
        ),
        (join_segments, "log/00000001.seg", "its events from number 24 on were sealed in another file"),
        (append_segment, "log", "has 2 events that were not sealed"),
        (delete("log/00000002.seg"), "log", "ends before event 24; events were sealed up to 36"),
    ],
)
def test_what_was_changed_is_named(change: Change, file: str, problem: str, complete: Path) -> None:
    problem = problem.replace("UUID", Manifest.read(complete / NAME).uuid)

    change(complete)

    assert (file, problem) in problems(complete)
    assert verdict(complete) is Verdict.TAMPERED


@pytest.mark.parametrize("name", ["seal/end", HEAD, "seal/00000000.batch", "seal/00000001.leaves"])
def test_a_bit_that_is_not_what_it_was_is_noticed(name: str, complete: Path) -> None:
    size = (complete / name).stat().st_size
    original = (complete / name).read_bytes()

    for place in range(0, size, max(1, size // 40)):
        flip(complete / name, place)
        assert verdict(complete) is Verdict.TAMPERED, f"byte {place} of {name}"
        (complete / name).write_bytes(original)

    assert verdict(complete) is Verdict.INTACT


@pytest.mark.parametrize(
    ("change", "file", "problem"),
    [
        (
            set_state(RecordingState.COMPLETE, events=36, checkpoints=3),
            NAME,
            "is complete; the seal does not say so",
        ),
        (join_segments, "log/00000001.seg", "its events from number 24 on were sealed in another file"),
        (delete("log/00000002.seg"), "log", "ends before event 24; events were sealed up to 36"),
    ],
)
def test_of_an_interrupted_recording_too(change: Change, file: str, problem: str, died: Path) -> None:
    assert verdict(died) is Verdict.INTERRUPTED

    change(died)

    assert (file, problem) in problems(died)


def test_who_cuts_off_the_end_can_only_pass_for_a_recorder_that_died(complete: Path) -> None:
    for name in ("seal/end", HEAD):
        (complete / name).unlink()

    assert (NAME, "is complete; the seal does not say so") in problems(complete)

    rewrite_manifest(complete, lambda contents: setattr(contents, "state", RecordingState.INTERRUPTED))
    assert verdict(complete) is Verdict.INTERRUPTED


def test_an_older_head_does_not_hold_for_a_complete_recording(complete: Path) -> None:
    (complete / HEAD).unlink()
    (complete / "seal/00000002.head").unlink()

    assert ("seal/end", "is not about the last head") in problems(complete)


def test_of_a_ring_the_last_head_is_missing_and_not_one_that_was_evicted(ring: Path) -> None:
    # Seen: the receipt of the head before it asked for the head of an epoch that was evicted by right since.
    last = max(ring.glob("seal/*.head"))
    last.unlink()

    assert (f"seal/{last.name}", "missing") in problems(ring)


def test_a_thief_cannot_begin_with_another_manifest(ring: Path) -> None:
    # With the keys of all epochs whose heads are kept: these are signed again, but the first stays.
    heads = Seal.open(ring, Manifest.read(ring / NAME)).heads
    rewrite_manifest(ring, lambda contents: setattr(contents, "command", ["revirt", "record", "innocence"]))
    subject = Manifest.read(ring / NAME).subject
    for each in heads:
        payload = replace(each.head, subject=subject).to_payload()
        (ring / f"seal/{each.epoch:08}.head").write_bytes(signed(ring, each.epoch, HEAD_TYPE, payload))

    assert heads[0].epoch > 0
    assert (NAME, "is not the manifest that was sealed") in problems(ring)

    (ring / "seal/00000000.head").unlink()
    assert ("seal/00000000.head", "missing") in problems(ring)


def test_a_receipt_for_heads_that_are_not_there_is_refused(ring: Path) -> None:
    last = max((ring / "seal").glob("*.head"))
    evicted = Seal.open(ring, Manifest.read(ring / NAME)).head.evicted
    assert evicted is not None

    sign_head(ring, int(last.stem), evicted=replace(evicted, epoch=40))

    assert ("seal/00000040.head", "missing") in problems(ring)


@pytest.mark.parametrize("name", ["segment", "event", "checkpoint", "branches", "guest_ns"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_ring_begins_where_its_receipt_says(name: str, by: int, ring: Path) -> None:
    start = Manifest.read(ring / NAME).kept

    rewrite_manifest(ring, lambda contents: contents.kept.update({name: start[name] + by}))

    begins = start["event"] + (by if name == "event" else 0)
    problem = f"begins with event {begins}; the receipt is for what was before event {start['event']}"
    assert (NAME, problem) in problems(ring)


def test_what_a_ring_kept_cannot_be_cut_without_a_receipt(ring: Path) -> None:
    (min((ring / "log").iterdir())).unlink()
    (min((ring / "seal").glob("*.leaves"))).unlink()

    assert verdict(ring) is Verdict.TAMPERED


@pytest.fixture
def receipt_only(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ring whose recorder died with a receipt written, and the manifest not yet."""
    recorder = create(tmp_path / "ring", limits=RingLimits(keep_ns=25_000))
    recorder.fills(8)

    def fail(*_: object) -> int:
        raise OSError("killed")

    monkeypatch.setattr(writer, "write_whole", fail)
    with suppress(HostError):
        recorder.fills(1)
    die(recorder)
    monkeypatch.undo()
    return tmp_path / "ring"


def test_what_a_receipt_is_for_is_compared_while_it_is_there(receipt_only: Path) -> None:
    start = Manifest.read(receipt_only / NAME).start
    evicted = Seal.open(receipt_only, Manifest.read(receipt_only / NAME)).evicted
    assert start.segment < evicted.segment
    assert problems(receipt_only) == []

    rewrite_segment(receipt_only, start.segment, other_last_event)

    assert f"log/{start.segment:08}.seg" in dict(problems(receipt_only))


@pytest.mark.parametrize(
    ("name", "by", "problem"),
    [
        ("event", 1, "begins with event {event}; the receipt is for what was before event {evicted}"),
        ("checkpoint", 1, "begins with event {event}; the receipt is for what was before event {evicted}"),
        ("branches", 1, "does not begin where checkpoint {checkpoint} stands"),
        ("guest_ns", -1, "does not begin where checkpoint {checkpoint} stands"),
    ],
)
def test_a_start_before_the_receipt_is_compared_with_the_leaves(
    name: str, by: int, problem: str, receipt_only: Path
) -> None:
    evicted = Seal.open(receipt_only, Manifest.read(receipt_only / NAME)).evicted
    kept = Manifest.read(receipt_only / NAME).kept

    rewrite_manifest(receipt_only, lambda contents: contents.kept.update({name: kept[name] + by}))

    kept = Manifest.read(receipt_only / NAME).kept
    assert (NAME, problem.format(**kept, evicted=evicted.event)) in problems(receipt_only)


# -- checkpoints ------------------------------------------------------------------------------------------------


def twin(path: Path, rounds: int, **changes: Any) -> Path:
    """Record the same as in *complete*, without a seal and with *changes* to what checkpoints say of themselves."""
    recorder = create(path, None)
    add = recorder.add_checkpoint
    recorder.add_checkpoint = lambda info, *more: add(replace(info, **changes), *more)  # type: ignore[method-assign]
    recorder.fills(rounds)
    recorder.complete({})
    return path


def replace_files(source: Path, target: Path, *names: str) -> None:
    for name in names:
        shutil.copyfile(source / name, target / name)


def test_a_checkpoint_that_was_not_sealed_is_named(complete: Path, tmp_path: Path) -> None:
    other = twin(tmp_path / "other", 4)

    replace_files(other, complete, "checkpoints/00000003.ckpt", "pages/00000003.pages")

    assert ("checkpoints/00000003.ckpt", "was not sealed") in problems(complete)


def test_a_checkpoint_that_says_another_time_is_named(complete: Path, tmp_path: Path) -> None:
    # Of that the log says nothing.
    other = twin(tmp_path / "other", 3, guest_ns=5)

    replace_files(other, complete, "checkpoints/00000001.ckpt")

    assert problems(complete) == [
        ("checkpoints/00000001.ckpt", "its place, its state or its memory is not what was sealed")
    ]


def test_a_checkpoint_that_is_missing_is_named_once(complete: Path) -> None:
    for name in ("checkpoints/00000002.ckpt", "pages/00000002.pages"):
        (complete / name).unlink()

    assert problems(complete).count(("checkpoints/00000002.ckpt", "missing")) == 1


def test_more_memory_than_the_machine_has_is_named(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = create(tmp_path / "other", None)
    recorder.memory = bytearray(2 * MEMORY)
    recorder.checkpoint(*range(1, 21))
    recorder.complete({})
    replace_files(tmp_path / "other", complete, "checkpoints/00000000.ckpt", "pages/00000000.pages")
    # A log that cannot be read is not compared with checkpoints, but the seal is.
    flip(complete / "log/00000001.seg")
    for number in (1, 2):
        (complete / f"checkpoints/{number:08}.ckpt").unlink()
        (complete / f"pages/{number:08}.pages").unlink()

    problem = f"has 20 pages of memory, the machine {MEMORY // PAGE}"
    assert ("checkpoints/00000000.ckpt", problem) in problems(complete)


def test_leaves_that_change_meanwhile_are_noticed(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = leaves.read, []

    def change_at_last(path: Path, number: int) -> LeafFile:
        reads.append(number)
        found = read(path, number)
        return other_leaf(found) if reads.count(number) == 3 else found

    monkeypatch.setattr(leaves, "read", change_at_last)

    assert problems(complete) == [
        (f"seal/{number:08}.leaves", "changed while it was being read") for number in range(3)
    ]


# -- proofs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordinal", range(36))
def test_every_event_can_be_proven(ordinal: int, complete: Path) -> None:
    recording = Recording.open(complete)
    event = list(recording.events())[ordinal]

    proven = prove(recording, ordinal, USER.public).verify(USER.public)

    assert proven.event == event
    assert (proven.ordinal, proven.recording) == (ordinal, recording.manifest.uuid)


def test_an_event_is_proven_by_the_first_head_that_is_about_it(complete: Path) -> None:
    epochs = [
        prove(Recording.open(complete), ordinal).verify(USER.public).epoch for ordinal in (0, 11, 12, 24, 35)
    ]

    assert epochs == [0, 0, 1, 2, 2]


def test_what_is_left_of_a_ring_can_be_proven(ring: Path) -> None:
    recording = Recording.open(ring)
    first = recording.manifest.start.event

    assert prove(recording, first).verify(USER.public).ordinal == first
    with pytest.raises(RecordingError, match=f"ring has no event 3; it has those from {first} to below 120"):
        prove(recording, 3)


def test_without_a_seal_nothing_is_proven(tmp_path: Path) -> None:
    other = twin(tmp_path / "other", 1)

    with pytest.raises(SealError, match="other is not sealed") as refused:
        prove(Recording.open(other), 3)

    assert "record --sign" in refused.value.hint


def test_an_event_that_no_head_is_about_is_not_proven(died: Path) -> None:
    append_segment(died)

    with pytest.raises(SealError, match=r"event 37 of .*died is not sealed") as refused:
        prove(Recording.open(died), 37)

    assert refused.value.hint == "those before event 36 are"


def test_what_another_key_sealed_is_not_proven(complete: Path) -> None:
    with pytest.raises(CorruptError, match=UNTRUSTED):
        prove(Recording.open(complete), 3, STRANGER.public)


@pytest.mark.parametrize(
    ("change", "ordinal", "problem"),
    [
        (
            lambda path: rewrite_segment(path, 2, other_last_event),
            35,
            r"00000002\.seg: event 35 is not what was sealed",
        ),
        (
            lambda path: rewrite_segment(path, 2, lambda events: [*events[:-2], events[-1]]),
            34,
            r"00000002\.seg: has not the events from number 26 on that were sealed",
        ),
        (join_segments, 35, r"00000002\.seg: missing"),
    ],
)
def test_an_event_that_was_changed_is_not_proven(
    change: Change, ordinal: int, problem: str, died: Path
) -> None:
    change(died)

    with pytest.raises(CorruptError, match=problem):
        prove(Recording.open(died), ordinal)
