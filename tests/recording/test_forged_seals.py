"""What who stole a recorder's keys cannot do, and what a recorder that died must not be blamed for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tampering.making import EPOCHS, in_child, watched
from tampering.scribe import Scribe

from revirt.errors import RecordingError
from revirt.log import segment
from revirt.log.events import Event, Kind
from revirt.log.rows import rows_of
from revirt.recording import Manifest, Recording, RecordingState, RingLimits, Seal, Verdict, layout, repair
from revirt.recording import seal as seal_module
from revirt.recording.manifest import NAME
from revirt.seal.heads import END_TYPE, HEAD_TYPE, End, Evicted, Head
from revirt.seal.keys import PrivateKey
from revirt.seal.schedule import Schedule

USER = PrivateKey.from_raw(bytes(range(32)))
SEED = bytes(32)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    path = tmp_path / "user.key"
    path.write_bytes(USER.to_pem())
    path.chmod(0o600)
    return path


class Onlooker:
    """Lets every second look of the recorder end an epoch, and keeps all heads that it writes."""

    def __init__(self) -> None:
        self.heads: dict[int, list[bytes]] = {}
        self._looks = 0

    def is_due(self) -> bool:
        self._looks += 1
        return self._looks % 2 == 0

    def see(self, name: str, data: bytes) -> None:
        if name.endswith(".head"):
            self.heads.setdefault(int(name.removesuffix(".head")), []).append(data)


def write(path: Path, sign: Path, limits: RingLimits | None = None, *, is_complete: bool = True) -> Onlooker:
    """Record six checkpoints, three epochs, and the end; return who saw the heads."""
    onlooker = Onlooker()
    with watched(SEED, onlooker.is_due, onlooker.see):
        scribe = Scribe(path, Random(1), sign, limits)
        for _ in range(6):
            scribe.checkpoint()
            scribe.note(5)
        scribe.writer.flush()
        end = scribe.end()
        if is_complete:
            scribe.writer.complete(end)
        else:
            scribe.writer.abort(end)
    return onlooker


def verify(path: Path) -> tuple[Verdict, dict[str, str]]:
    verification = Recording.open(path).verify(USER.public)
    found = {str(each.path.relative_to(path)): each.problem for each in verification}
    return verification.verdict, found


def sealed(path: Path) -> Seal:
    return Seal.open(path, Recording.open(path).manifest, USER.public)


def thief(path: Path, epoch: int) -> Schedule:
    """Return what the recorder knew in *epoch*."""
    schedule = Schedule.begin(USER, Recording.open(path).manifest.uuid, epochs=EPOCHS, seed=SEED)
    while schedule.epoch < epoch:
        schedule.evolve()
    return schedule


def rewrite_manifest(path: Path, **changes: Any) -> None:
    contents = replace(Manifest.read(path / NAME), **changes)
    (path / NAME).write_text(contents.to_json())


def drop_heads_behind(path: Path, epoch: int) -> None:
    for each in (path / layout.SEAL).glob("*.head"):
        if int(each.stem) > epoch:
            each.unlink()


# -- thieves ---------------------------------------------------------------------------------------------------


def test_the_last_heads_of_epochs_say_that_they_are(tmp_path: Path, sign: Path) -> None:
    write(tmp_path / "r", sign)

    heads = sealed(tmp_path / "r").heads

    assert len(heads) > 2
    assert all(each.head.final for each in heads)
    assert verify(tmp_path / "r") == (Verdict.INTACT, {})


def test_an_older_head_of_an_epoch_cannot_be_put_back(tmp_path: Path, sign: Path) -> None:
    # With it, who steals the next epoch's key could change what this epoch recorded after it.
    onlooker = write(tmp_path / "r", sign)
    head = tmp_path / "r" / layout.SEAL / layout.head_name(1)

    head.write_bytes(onlooker.heads[1][0])

    assert verify(tmp_path / "r") == (
        Verdict.TAMPERED,
        {f"seal/{head.name}": "is not the last head of its epoch"},
    )


def test_an_end_signed_in_a_later_epoch_ends_nothing(tmp_path: Path, sign: Path) -> None:
    path = tmp_path / "r"
    write(path, sign)
    before = next(each for each in sealed(path).heads if each.epoch == 1).head
    end = Recording.open(path).manifest.end
    assert end is not None
    said = End(before.recording, before.leaves, before.root, RecordingState.COMPLETE, end)

    drop_heads_behind(path, 1)
    (path / layout.SEAL / layout.SEAL_END).write_bytes(thief(path, 3).seal(END_TYPE, said.to_payload()))

    verdict, found = verify(path)
    assert verdict is Verdict.TAMPERED
    assert found[f"seal/{layout.SEAL_END}"] == "is not about the last head"


def forge_receipt(path: Path, change: Callable[[Head], Head]) -> Head:
    """Let the last head be another, signed with the key of its epoch."""
    last = sealed(path).heads[-1]
    head = change(last.head)
    data = thief(path, last.epoch).seal(HEAD_TYPE, head.to_payload())
    (path / layout.SEAL / layout.head_name(last.epoch)).write_bytes(data)
    return head


def test_no_receipt_does_without_the_heads_of_what_is_kept(tmp_path: Path, sign: Path) -> None:
    # Only they say that what is older than a theft is as it was.
    path = tmp_path / "r"
    write(path, sign, RingLimits(size=1 << 30))
    last = sealed(path).heads[-1]

    forge_receipt(path, lambda head: replace(head, evicted=Evicted(0, last.epoch, 0, 0, 0, 0, 0)))

    verdict, found = verify(path)
    assert verdict is Verdict.TAMPERED
    assert found[f"seal/{layout.head_name(last.epoch - 1)}"].startswith("missing: that of epoch")


def test_a_recording_that_keeps_everything_has_no_receipt(tmp_path: Path, sign: Path) -> None:
    path = tmp_path / "r"
    write(path, sign)

    forge_receipt(path, lambda head: replace(head, evicted=Evicted(0, 0, 0, 0, 0, 0, 0)))

    assert verify(path) == (
        Verdict.TAMPERED,
        {NAME: "is of a recording that keeps everything; the seal has a receipt"},
    )


def test_a_receipt_is_for_nothing_that_has_to_be_kept(tmp_path: Path, sign: Path) -> None:
    path = tmp_path / "r"
    write(path, sign, RingLimits(keep_ns=1_000))
    kept = sealed(path).evicted
    later = Recording.open(path).checkpoints[-1].guest_ns

    forge_receipt(path, lambda head: replace(head, evicted=replace(kept, guest_ns=later)))

    verdict, found = verify(path)
    assert verdict is Verdict.TAMPERED
    assert found[f"seal/{layout.head_name(sealed(path).heads[-1].epoch)}"].startswith(
        "its receipt is for some"
    )


# -- everybody -------------------------------------------------------------------------------------------------


def cut(path: Path) -> int:
    """Let the recording look as if its recorder had died in epoch 1; return how many events are sealed."""
    head = next(each for each in sealed(path).heads if each.epoch == 1).head
    drop_heads_behind(path, 1)
    (path / layout.SEAL / layout.SEAL_END).unlink()
    rewrite_manifest(path, state=RecordingState.RECORDING, end=None)
    for each in Recording.open(path).segments:
        if each.ordinal >= head.events:
            each.path.unlink()
    return head.events


def test_no_more_than_one_segment_can_be_said_to_be_not_sealed_yet(tmp_path: Path, sign: Path) -> None:
    path = tmp_path / "r"
    write(path, sign)
    first = cut(path)
    index = Recording.open(path).segments[-1].index + 1
    event = Event(Kind.INTERRUPT, 1 << 40, False, 0, 0, 8)

    names = []
    for place in range(2):
        data = segment.encode(index + place, first + place, rows_of([event]))
        names.append(f"log/{segment.file_name(index + place)}")
        (path / names[-1]).write_bytes(data)
        if place == 0:
            assert verify(path) == (Verdict.INTERRUPTED, {})

    verdict, found = verify(path)
    assert verdict is Verdict.TAMPERED
    assert found[names[0]] == "has 1 events that were not sealed, and is not the last"


def test_a_recording_that_has_not_ended_does_not_say_how_it_did(tmp_path: Path, sign: Path) -> None:
    path = tmp_path / "r"
    write(path, sign)

    rewrite_manifest(path, state=RecordingState.RECORDING)

    assert verify(path) == (Verdict.TAMPERED, {NAME: "says how it ended, but not that it did"})


def test_evicted_events_cannot_be_made_up_for_a_recorder_that_died(tmp_path: Path, sign: Path) -> None:
    path = tmp_path / "r"
    write(path, sign, RingLimits(keep_ns=1_000))
    assert sealed(path).evicted.segment > 0
    (path / layout.SEAL / layout.SEAL_END).unlink()

    start = {"segment": 0, "event": 0, "checkpoint": 0, "branches": 0, "guest_ns": 0}
    rewrite_manifest(path, state=RecordingState.RECORDING, end=None, kept=start)

    verdict, found = verify(path)
    assert verdict is Verdict.TAMPERED
    assert found["seal/00000000.leaves"] == "missing"


# -- recorders that died ---------------------------------------------------------------------------------------


def test_wherever_a_recorder_is_killed_nobody_is_blamed(tmp_path: Path, sign: Path) -> None:
    between = died_at_the_end = 0
    for number in range(0, 1000, 3):
        path = tmp_path / f"r-{number}"
        limits = RingLimits(size=12_000)
        if in_child(lambda path=path, limits=limits: write(path, sign, limits), kill_at=number, below=path):
            break
        if not (path / NAME).exists():
            continue
        assert verify(path) == (Verdict.INTERRUPTED, {}), number
        contents = Recording.open(path).manifest
        between += contents.start.segment < sealed(path).evicted.segment
        is_whole = sealed(path).end is not None
        died_at_the_end += is_whole
        # What ended before its first checkpoint cannot be repaired.
        with suppress(RecordingError):
            repair(path)
        # What was sealed as complete is complete again.
        assert verify(path) == (Verdict.INTACT if is_whole else Verdict.INTERRUPTED, {}), number
        shutil.rmtree(path)

    assert number > 100
    assert between
    assert died_at_the_end


def test_a_repair_of_what_was_ended_early_is_no_tampering(tmp_path: Path, sign: Path) -> None:
    path = tmp_path / "r"
    write(path, sign, is_complete=False)

    repair(path)

    assert Recording.open(path).state is RecordingState.COMPLETE
    assert verify(path) == (Verdict.INTERRUPTED, {})


def test_who_verifies_while_a_recording_ends_finds_nothing(
    tmp_path: Path, sign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r"
    heads = seal_module._heads
    with watched(SEED, lambda: False):
        scribe = Scribe(path, Random(1), sign)
        scribe.checkpoint()
        scribe.writer.flush()

        def end_behind(*arguments: Any) -> Any:
            found = heads(*arguments)
            monkeypatch.undo()
            scribe.note(5)
            scribe.writer.complete(scribe.end())
            return found

        monkeypatch.setattr(seal_module, "_heads", end_behind)
        verdict, found = verify(path)

    assert (verdict, found) == (Verdict.RECORDING, {})
