"""What an audit confirms, and what it does not."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import damage
import pytest
from library import RecordingOf, RecordWith
from reader import guest_in

from revirt.cli import main
from revirt.errors import HostError, RecordingError, UsageError
from revirt.log.chain import SEALED, Chain
from revirt.log.events import Event, Kind
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.position import Position
from revirt.recording import Manifest, Recording
from revirt.replay import Verdict, audit
from revirt.replay.auditor import ROLES, Role


def kinds_in(recording: Recording) -> dict[Kind, int]:
    kinds = [event.kind for event in recording.events()]
    return {kind: kinds.count(kind) for kind in set(kinds)}


def change_manifest(path: Path, **changes: Any) -> None:
    """Write other contents into the manifest of *path*, with the check that belongs to them."""
    changed = replace(Manifest.read(path / "manifest.json"), **changes)
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_text(changed.to_json())


def cut_short(path: Path, count: int) -> None:
    """Leave only the first *count* events, as a recorder that died would."""
    damage.change_events(path, lambda events: events.__delitem__(slice(count, None)))
    change_manifest(path, state="recording", end=None)


def forge_output(events: list[Event]) -> None:
    """Change the first output, so that `verify` finds nothing."""
    place = [event.kind for event in events].index(Kind.TRANSMITTED)
    events[place] = events[place]._replace(data=b"X" + events[place].data[1:])
    seal_again(events)


def forge_last_digest(events: list[Event]) -> None:
    """Change the digest before the END, so that `verify` finds nothing."""
    assert [event.kind for event in events[-2:]] == [Kind.DIGEST, Kind.END]
    events[-2] = events[-2]._replace(data=bytes(48))
    seal_again(events)


def seal_again(events: list[Event]) -> None:
    """Make the hashes that *events* carry those of the events."""
    chain = Chain()
    for place, event in enumerate(events):
        if event.kind in SEALED:
            events[place] = chain.seal(event)
        else:
            chain.add(event)


@pytest.mark.parametrize(
    ("name", "clock"),
    [("vuln", "host"), ("vuln", "virtual"), ("idle", "virtual"), ("paging", "host"), ("race", "host")],
)
def test_all_of_a_complete_recording_is_confirmed(
    name: str, clock: ClockMode, recording_of: RecordingOf
) -> None:
    recording = recording_of(name, clock, until=Position(1_500_000), checkpoint_every=400_000)

    report = audit(recording)

    assert (report.verdict, report.gaps, report.findings) == (Verdict.CONFIRMED, [], [])
    assert report.confirmed.events == kinds_in(recording)
    assert report.pages > 0


def test_what_went_in_and_what_came_out_is_counted(recording_of: RecordingOf) -> None:
    recording = recording_of("vuln", "host")
    sent = [event.data for event in recording.events() if event.kind is Kind.TRANSMITTED]
    typed = [event.data for event in recording.events() if event.kind is Kind.RECEIVED]

    confirmed = audit(recording).confirmed

    assert confirmed.events_as(Role.OUTPUT) == len(sent)
    assert confirmed.bytes_as(Role.OUTPUT) == len(b"".join(sent))
    assert confirmed.bytes_as(Role.INPUT) == len(b"".join(typed))


def test_every_kind_of_event_has_a_role() -> None:
    assert set(ROLES) == set(Kind)


def test_an_output_that_does_not_follow_is_a_divergence(recording_of: RecordingOf, tmp_path: Path) -> None:
    copy = damage.copy(recording_of("vuln", "host").path, tmp_path / "copy")
    damage.change_events(copy, forge_output)

    report = audit(Recording.open(copy))

    assert report.verdict is Verdict.DIVERGED
    assert report.replay is not None
    assert report.replay.divergence is not None
    assert report.replay.divergence.what == "output"
    (gap,) = report.gaps
    assert gap.first == report.confirmed.events.total() == first_output(Recording.open(copy))
    assert gap.count == sum(kinds_in(Recording.open(copy)).values()) - gap.first


def first_output(recording: Recording) -> int:
    return [event.kind for event in recording.events()].index(Kind.TRANSMITTED)


def test_a_digest_that_differs_is_not_counted_as_confirmed(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = recording_of("timer", "virtual", until=Position(1_500_000), digest_every=200_000)
    copy = damage.copy(recording.path, tmp_path / "copy")
    damage.change_events(copy, forge_last_digest)

    report = audit(Recording.open(copy))

    assert report.verdict is Verdict.DIVERGED
    # The last digest and the END behind it are not.
    assert report.confirmed.events[Kind.DIGEST] == kinds_in(recording)[Kind.DIGEST] - 1
    assert [gap.count for gap in report.gaps] == [2]


def test_a_damaged_file_is_found_before_anything_is_replayed(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    copy = damage.copy(recording_of("vuln", "host").path, tmp_path / "copy")
    changed = damage.FLIPS["raw"](copy, random.Random(1))

    report = audit(Recording.open(copy))

    assert report.verdict is Verdict.DAMAGED, changed
    assert report.findings
    assert report.replay is None
    assert report.confirmed.events.total() == report.pages == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("exit_code", 0), ("branches", 1), ("guest_ns", 5), ("reason", "all is well"), ("crashed", True)],
)
def test_an_end_that_the_manifest_made_up_is_damage(
    name: str, value: object, recording_of: RecordingOf, tmp_path: Path
) -> None:
    recording = recording_of("vuln", "host")
    copy = damage.copy(recording.path, tmp_path / "copy")
    assert recording.manifest.end is not None
    change_manifest(copy, end={**recording.manifest.end, name: value})

    report = audit(Recording.open(copy))

    assert report.verdict is Verdict.DAMAGED
    assert [finding.problem.split()[1] for finding in report.findings] == [name]


def test_a_triple_fault_is_confirmed_as_one(tmp_path: Path, record_with: RecordWith) -> None:
    guest = guest_in(tmp_path)
    image = tmp_path / "reader.bin"
    image.write_bytes(bytes.fromhex("0f011e087c 0f0b f4 000000000000"))  # lidt [zeros]; ud2; hlt

    with NullConsole() as console:
        recording = record_with(guest, console, "virtual")

    assert recording.manifest.end is not None
    assert recording.manifest.end["crashed"] is True
    assert audit(recording).verdict is Verdict.CONFIRMED


def test_of_an_interrupted_recording_the_rest_is_unconfirmed(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    copy = damage.copy(recording_of("vuln", "host").path, tmp_path / "copy")
    cut_short(copy, 20)

    report = audit(Recording.open(copy))

    assert report.verdict is Verdict.PARTIAL
    assert report.confirmed.events.total() == 20
    (gap,) = report.gaps
    assert (gap.first, gap.count) == (20, None)
    assert gap.why == "the log has no END: the recording was cut short"


def test_what_stands_before_the_checkpoint_is_unconfirmed(recording_of: RecordingOf) -> None:
    recording = recording_of("timer", "virtual", until=Position(1_500_000), checkpoint_every=400_000)
    start = recording.checkpoints[2]

    report = audit(recording, checkpoint=2)

    assert report.verdict is Verdict.PARTIAL
    assert report.start == start
    (gap,) = report.gaps
    # The digest before the checkpoint's own event is compared, too.
    assert (gap.first, gap.count) == (0, start.event - 1)
    assert report.confirmed.events.total() + start.event - 1 == sum(kinds_in(recording).values())


def test_an_audit_that_is_stopped_says_how_far_it_came(recording_of: RecordingOf) -> None:
    recording = recording_of("timer", "virtual", until=Position(1_500_000), checkpoint_every=400_000)

    report = audit(recording, on_start=lambda stop: stop("Ctrl-C"))

    assert report.verdict is Verdict.PARTIAL
    (gap,) = report.gaps
    assert gap.first == 2
    assert gap.count == sum(kinds_in(recording).values()) - 2
    assert gap.why == "the audit was stopped: Ctrl-C"


def test_a_checkpoint_that_is_not_there_is_a_usage_error(recording_of: RecordingOf) -> None:
    with pytest.raises(UsageError, match="no checkpoint 9"):
        audit(recording_of("vuln", "host"), checkpoint=9)


def test_a_recording_without_a_checkpoint_cannot_be_audited(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    copy = damage.copy(recording_of("vuln", "host").path, tmp_path / "copy")
    cut_short(copy, 1)

    with pytest.raises(RecordingError, match="before its first checkpoint"):
        audit(Recording.open(copy))


def test_another_unicorn_is_no_verdict(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = recording_of("vuln", "host")
    copy = damage.copy(recording.path, tmp_path / "copy")
    change_manifest(copy, versions={**recording.manifest.versions, "unicorn": "1.0.0"})

    with pytest.raises(HostError, match=r"Unicorn 1\.0\.0"):
        audit(Recording.open(copy))


# -- the command ------------------------------------------------------------------------------------------------


def test_the_command_prints_the_verdict(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = recording_of("vuln", "host")

    status = main(["audit", str(recording.path), "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert status == 0
    assert facts["verdict"] == "confirmed"
    assert facts["uuid"] == recording.manifest.uuid
    assert facts["kinds"]["transmitted"] == facts["outputs"] > 0
    assert facts["recorded_with"] == facts["audited_with"] == recording.manifest.versions
    assert (facts["unconfirmed"], facts["findings"], facts["divergence"]) == ([], [], None)


def test_the_command_says_in_words_what_was_not_confirmed(
    recording_of: RecordingOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = damage.copy(recording_of("vuln", "host").path, tmp_path / "copy")
    cut_short(copy, 20)

    assert main(["audit", str(copy)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("partial: ")
    assert lines[-1] == "unconfirmed: the log has no END: the recording was cut short"


def test_a_divergence_and_damage_have_their_exit_statuses(
    recording_of: RecordingOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = recording_of("vuln", "host").path
    forged, flipped = damage.copy(source, tmp_path / "forged"), damage.copy(source, tmp_path / "flipped")
    damage.change_events(forged, forge_output)
    damage.FLIPS["raw"](flipped, random.Random(1))

    assert main(["verify", str(forged)]) == 0
    assert main(["audit", str(forged)]) == 3
    assert "diverged" in capsys.readouterr().out
    assert main(["audit", str(flipped)]) == 4
    assert "damaged: " in capsys.readouterr().out
