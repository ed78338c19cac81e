"""One bit of a recording is changed: whatever it was, the replay says so."""

from __future__ import annotations

import random
from pathlib import Path

import damage
import prove
import pytest
from library import RecordingOf

from revirt.machine.config import ClockMode
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import replay

SMALL: tuple[tuple[str, ClockMode, dict[str, object]], ...] = (
    ("race", "host", {"until": Position(1_500_000), "checkpoint_every": 400_000, "digest_every": 150_000}),
    ("timer", "virtual", {"until": Position(1_500_000), "checkpoint_every": 400_000}),
    ("idle", "virtual", {"checkpoint_every": 100}),
    ("vuln", "host", {"checkpoint_every": 700}),
    ("paging", "host", {"checkpoint_every": 30_000}),
)
"""Guests and how they are recorded, so that there are several checkpoints but a replay takes no time."""


def detect(recording: Recording, kind: str, copy: Path, seed: int, *, locate: bool) -> None:
    """Flip a bit in a copy of *recording*; fail, naming the bit, unless its replay reports it."""
    chance = random.Random(f"{kind} {seed}")
    damage.copy(recording.path, copy)
    changed = damage.FLIPS[kind](copy, chance)

    verdict = damage.judge(copy, locate=locate)

    assert verdict.is_detected, f"{changed}: {verdict.word} ({verdict.detail})"


@pytest.mark.parametrize("kind", damage.FLIPS)
@pytest.mark.parametrize(
    ("name", "clock", "options"), SMALL, ids=[f"{name}-{clock}" for name, clock, _ in SMALL]
)
def test_a_flipped_bit_is_reported(
    name: str,
    clock: ClockMode,
    options: dict[str, object],
    kind: str,
    recording_of: RecordingOf,
    tmp_path: Path,
) -> None:
    recording = recording_of(name, clock, **options)

    for seed in range(4):
        detect(recording, kind, tmp_path / str(seed), seed, locate=True)


@pytest.mark.debian
@pytest.mark.xdist_group("debian")
@pytest.mark.parametrize("kind", damage.FLIPS)
def test_a_flipped_bit_in_debian_is_reported(kind: str, recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = recording_of("debian", "host", checkpoint_every=24_000_000)

    for seed in range(4 if kind == "event" else 2):
        detect(recording, kind, tmp_path / str(seed), seed, locate=False)


@pytest.mark.parametrize("bit", range(64))
def test_a_changed_clock_reading_is_reported_however_large(
    bit: int, recording_of: RecordingOf, tmp_path: Path
) -> None:
    recording = recording_of("idle", "host")
    copy = damage.copy(recording.path, tmp_path / "copy")
    damage.change_events(copy, damage.flip_number_of("clock", bit))

    verdict = damage.judge(copy, patience_s=20)

    assert verdict.is_detected, f"{verdict.word} ({verdict.detail})"


def test_an_unchanged_copy_is_exact(recording_of: RecordingOf, tmp_path: Path) -> None:
    copy = damage.copy(recording_of("vuln", "host").path, tmp_path / "copy")

    assert replay(Recording.open(copy)).exact


def test_a_checkpoint_that_is_only_passed_is_checked_too(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = recording_of("paging", "host", checkpoint_every=30_000)
    copy = damage.copy(recording.path, tmp_path / "copy")
    damage.flip_page(copy, random.Random(3), checkpoint=recording.checkpoints[-1].number)

    verdict = damage.judge(copy)

    assert verdict.word == "refused"
    assert "its memory is not the one that the log names" in verdict.detail


def test_the_proof_fails_if_a_change_goes_unnoticed(
    recording_of: RecordingOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = recording_of("vuln", "host").path
    monkeypatch.setitem(damage.FLIPS, "nothing", lambda _directory, _chance: "nothing was changed")

    noticed = prove.prove_flip(source, "page", "1", tmp_path / "page")
    unnoticed = prove.prove_flip(source, "nothing", "1", tmp_path / "nothing")

    assert (noticed.trials, noticed.failures) == (1, [])
    assert len(unnoticed.failures) == 1
    assert not (tmp_path / "page").exists()
    assert (tmp_path / "nothing").exists(), "what failed is kept"
