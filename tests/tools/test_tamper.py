"""Tampering with sealed recordings: a short run of each kind in earnest, and what its own parts would notice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import pytest
import tamper
from damage import change_events
from tampering.judge import Said, complaint, verify
from tampering.legal import Legal, look, try_legal
from tampering.meaning import is_same, meaning_of
from tampering.samples import SUBJECTS, Sample, copy, make_sample
from tampering.tampering import Due, change

from revirt.recording import Finding, Recording, Verdict, layout
from revirt.seal import keys


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    directory = tmp_path_factory.mktemp("sample")
    keys.create(directory / "user.key")
    return make_sample("complete", SUBJECTS["complete"], directory / "sample-0", directory / "user.key")


# -- in earnest ------------------------------------------------------------------------------------------------


def test_tamperings_of_many_kinds_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = sorted(tamper.KINDS)[::4]
    times = str(len(kinds))
    arguments = ["attack", "--times", times, "--seed", "1", "--directory", str(tmp_path)]

    status = tamper.main([*arguments, *(word for kind in kinds for word in ("--kind", kind))])

    said = capsys.readouterr().out
    assert status == 0, said
    assert f"{times} tamperings of {times} kinds" in said
    assert " 0 missed" in said


def test_legal_recordings_are_not_called_tampered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = tamper.main(["legal", "--times", "20", "--seed", "1", "--directory", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 0, said
    assert "20 legal recordings" in said
    assert " 0 false alarms" in said


def test_samples_have_seen_epochs_evictions_and_deaths(tmp_path: Path) -> None:
    samples = {each.name: each for each in tamper.make_samples(tmp_path)}

    assert all(len(each.epochs) > 1 for each in samples.values())
    assert all(each.has_ended != ("killed" in name) for name, each in samples.items())
    for name in ("circular", "circular, killed"):
        assert Recording.open(samples[name].path).manifest.start.checkpoint > 0
        assert len(Recording.open(samples[name].path).checkpoints) > 1
    # Batches, too: certificates that follow one another.
    assert any(len(list((each.path / layout.SEAL).glob("*.batch"))) > 1 for each in samples.values())


# -- what is noticed -------------------------------------------------------------------------------------------


def test_what_a_blind_verification_misses_is_told_with_how_to_run_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tamper, "verify", lambda *_: Said(Verdict.INTACT, ()))

    arguments = ["attack", "--times", "1", "--seed", "5", "--kind", "key.pub"]
    status = tamper.main([*arguments, "--directory", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 1
    assert "1 missed" in said
    assert "called intact" in said
    assert "again: python tools/tamper.py attack --seed 5 --kind 'key.pub' --case 0" in said


def said(verdict: Verdict | None, *names: str) -> Said:
    return Said(verdict, tuple(Finding(Path("r") / name, None, "is wrong") for name in names))


@pytest.mark.parametrize(
    ("due", "what", "problem"),
    [
        (Due.REPORT, said(Verdict.TAMPERED, "log/00000001.seg"), None),
        (Due.REPORT, said(None, "log/00000001.seg"), None),
        (Due.REPORT, said(Verdict.TAMPERED, "manifest.json"), "found at manifest.json; not at log/"),
        (Due.REPORT, said(Verdict.DAMAGED, "log/00000001.seg"), "called damaged"),
        (Due.REPORT, said(Verdict.INTERRUPTED), "called interrupted"),
        (Due.NOT_INTACT, said(Verdict.INTERRUPTED), None),
        (Due.NOT_INTACT, said(Verdict.TAMPERED, "elsewhere"), None),
        (Due.NOT_INTACT, said(Verdict.INTACT), "called intact"),
        (Due.NOTHING, said(Verdict.INTACT), None),
    ],
)
def test_a_tampering_has_to_be_reported_where_it_is(due: Due, what: Said, problem: str | None) -> None:
    found = complaint(change("something", "log/00000001.seg", due=due), what, Path("r"))

    assert (found is None and problem is None) or (problem or "-") in str(found)


def test_other_bytes_that_say_the_same_are_no_tampering(sample: Sample, tmp_path: Path) -> None:
    path = copy(sample, tmp_path / "copy")
    head = path / layout.SEAL / layout.head_name(sample.epochs[0])

    head.write_text(json.dumps(json.loads(head.read_bytes()), indent=4))

    assert is_same(sample.said, meaning_of(path))
    assert verify(path, sample.key).verdict is Verdict.INTACT


def test_a_clock_reading_that_is_another_is_a_tampering(sample: Sample, tmp_path: Path) -> None:
    path = copy(sample, tmp_path / "copy")

    change_events(path, lambda events: events.__setitem__(3, events[3]._replace(pc=events[3].pc ^ 1)))

    assert not is_same(sample.said, meaning_of(path))


def test_a_false_alarm_would_be_noticed(tmp_path: Path) -> None:
    for number in range(20):
        directory = tmp_path / f"legal-{number}"
        directory.mkdir()
        if try_legal(Random(number), directory).outcome == "complete":
            break
    path = next(each for each in sorted(directory.iterdir()) if (each / layout.SEAL).is_dir())
    legal = Legal("a cut one")

    look(path, keys.PrivateKey.from_raw(bytes(range(32))).public, legal)
    shutil.rmtree(path / layout.SEAL)
    look(path, keys.PrivateKey.from_raw(bytes(range(32))).public, legal)

    assert len(legal.problems) == 1
    assert "complete is called tampered" in legal.problems[0]
