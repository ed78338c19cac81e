"""Files that somebody has forged, checks and all: whatever they hold, they are read, or refused with a RevirtError.

`tools/fuzz.py` does the same by the hundred thousand, and looks at memory, time, and files outside, too.
"""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from fuzzing import forgery, texts
from fuzzing.changes import change, changer
from fuzzing.forgery import Forge, NotForgedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from library import built

from revirt.cli import main as revirt
from revirt.cli.rows import event_rows, recording_facts
from revirt.errors import RevirtError, SealError
from revirt.log.events import Event, Kind
from revirt.log.rows import rows_of
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import (
    Manifest,
    Recording,
    RecordingState,
    RingLimits,
    checkpoint_stats,
    log_stats,
    pack,
    repair,
    unpack,
)
from revirt.seal import leaves
from revirt.seal.blocks import Block, block_of, event_root, verify_block
from revirt.seal.fields import read_object
from revirt.seal.leaves import Leaf, LeafKind
from revirt.seal.merkle import HistoryTree, leaf_hash

CHANCES = st.randoms(use_true_random=False)
FORGES: dict[str, Forge] = {
    ".seg": forgery.forge_segment,
    ".ckpt": forgery.forge_checkpoint,
    ".pages": forgery.forge_pages,
    ".json": texts.forge_manifest,
}
some = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ring, which has checkpoints, several segments, and pages that have gone."""
    options = RecordOptions(
        clock="virtual",
        until=Position(60_000),
        checkpoint_every=10_000,
        digest_every=5_000,
        limits=RingLimits(size=6_000),
    )
    path = tmp_path_factory.mktemp("sound") / "ring"
    with NullConsole() as console:
        record(built("timer"), console, options, path)
    assert Recording.open(path).checkpoints[0].number > 0
    return path


@pytest.fixture
def hostile(sound: Path, tmp_path: Path) -> Path:
    """A copy of that, with the same files in it after every example."""
    return shutil.copytree(sound, tmp_path / "hostile")


def damage(hostile: Path, sound: Path, chance: Random, *, suffix: str | None = None) -> None:
    """Make *hostile* what *sound* is, and forge one or two of its files."""
    shutil.rmtree(hostile)
    shutil.copytree(sound, hostile)
    files = sorted(path for path in hostile.rglob("*.*") if suffix in (None, path.suffix))
    for path in (chance.choice(files) for _ in range(chance.choice((1, 1, 2)))):
        if chance.random() < 0.2:
            path.write_bytes(change(chance, path.read_bytes()))
            continue
        with suppress(NotForgedError):
            path.write_bytes(FORGES[path.suffix](path.read_bytes(), chance, changer(chance)))


@some
@given(chance=CHANCES)
def test_whatever_a_recording_holds_is_shown_or_refused(hostile: Path, sound: Path, chance: Random) -> None:
    damage(hostile, sound, chance)

    for show in (recording_facts, log_stats, lambda found: list(checkpoint_stats(found)), _list_events):
        with suppress(RevirtError):
            show(Recording.open(hostile))


def _list_events(recording: Recording) -> None:
    first = recording.manifest.start.event
    for row in event_rows(recording.events(), first=first):
        assert row.payload.isprintable()


@some
@given(chance=CHANCES)
def test_whatever_a_recording_holds_is_verified(hostile: Path, sound: Path, chance: Random) -> None:
    damage(hostile, sound, chance)

    with suppress(RevirtError):
        for finding in Recording.open(hostile).verify():
            assert finding.path.is_relative_to(hostile)


@pytest.fixture
def interrupted(sound: Path, tmp_path: Path) -> Path:
    path = shutil.copytree(sound, tmp_path / "interrupted")
    contents = Manifest.read(path / "manifest.json")
    (path / "manifest.json").write_text(replace(contents, state="recording", end=None).to_json())
    return path


@some
@given(chance=CHANCES)
def test_whatever_a_recording_holds_is_repaired_or_left_as_it_was(
    hostile: Path, interrupted: Path, chance: Random
) -> None:
    damage(hostile, interrupted, chance)
    before = {path: path.read_bytes() for path in hostile.rglob("*.*")}

    try:
        repair(hostile)
    except RevirtError:
        assert {path: path.read_bytes() for path in hostile.rglob("*.*")} == before
    else:
        assert Recording.open(hostile).state is RecordingState.COMPLETE


@settings(some, max_examples=40)
@given(chance=CHANCES)
def test_whatever_a_machine_state_holds_is_replayed_or_refused(
    hostile: Path, sound: Path, chance: Random
) -> None:
    damage(hostile, sound, chance, suffix=".ckpt")

    with redirect_stdout(io.StringIO()):
        assert revirt(["replay", str(hostile), "--json"]) in range(5)


@settings(some, max_examples=30)
@given(chance=CHANCES)
def test_whatever_is_packed_comes_out_as_it_was(hostile: Path, sound: Path, chance: Random) -> None:
    damage(hostile, sound, chance)
    target, packed = hostile.with_name("again"), hostile.with_name("hostile.revirt")
    shutil.rmtree(target, ignore_errors=True)
    packed.unlink(missing_ok=True)

    try:
        pack(hostile, packed, force=True)
        unpack(packed, target, force=True)
    except RevirtError:
        assert not target.exists()
        return

    assert {path.relative_to(target): path.read_bytes() for path in target.rglob("*.*")} == {
        path.relative_to(hostile): path.read_bytes() for path in hostile.rglob("*.*")
    }


@given(chance=CHANCES)
def test_a_forged_block_is_refused(chance: Random) -> None:
    rows = rows_of([Event(Kind.TRANSMITTED, each, False, 0, data=b"x" * (each % 3)) for each in range(40)])
    sound = block_of(rows, 20)
    data = json.dumps(sound.to_json()).encode()

    try:
        found = Block.from_json(
            read_object(texts.forge_json(data, chance, changer(chance)), "block", 1 << 20)
        )
    except (SealError, NotForgedError):
        return

    assert verify_block(found, rows.count, event_root(rows)) == (found == sound)


@some
@given(first=st.integers(0, 20), more=st.integers(1, 20), chance=CHANCES)
def test_changed_leaves_are_refused(first: int, more: int, chance: Random, tmp_path: Path) -> None:
    made = [Leaf(LeafKind.EVENTS, index, 1, leaf_hash(b"%d" % index)) for index in range(first + more)]
    tree = HistoryTree()
    for leaf in made[:first]:
        tree.append(leaf.hash)
    sound = leaves.encode(0, first, tree.subtrees(first), [leaf.pack() for leaf in made[first:]])
    path = tmp_path / leaves.file_name(0)
    path.write_bytes(change(chance, sound))

    try:
        found = leaves.read(path, 0)
    except RevirtError:
        return

    assert path.read_bytes() == sound
    assert found.leaves == tuple(made[first:])
