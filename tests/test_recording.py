from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from revirt.checkpoint import CheckpointWriter
from revirt.core import hash_pages
from revirt.errors import (
    CorruptError,
    FormatVersionError,
    HostError,
    NoRecordingError,
    RecordingError,
    RecordingExistsError,
)
from revirt.log import segment
from revirt.log.chain import SEALED, Chain
from revirt.log.events import Event, Kind
from revirt.log.frame import check_of, write_whole
from revirt.log.rows import rows_of
from revirt.log.strict_json import NESTING_LIMIT
from revirt.machine.config import MachineConfig
from revirt.recording import (
    CheckpointInfo,
    Manifest,
    Recording,
    RecordingState,
    RecordingWriter,
    list_recordings,
    new_path,
    recordings_dir,
    remove,
    resolve,
)

PAGE = 4096
MEMORY = 1 << 20
SEGMENT = "00000000.seg"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


def manifest() -> Manifest:
    return Manifest(
        guest={"name": "echo", "digests": {"image": "00ff"}},
        machine=MachineConfig(memory=MEMORY, clock="virtual", epoch=0, ns_per_branch=10).to_plain(),
        clock="virtual",
        versions={"revirt": "0.1.0"},
        command=["revirt", "record", "echo"],
    )


class Writer(RecordingWriter):
    """A writer that seals its events and follows the guest's memory, as a recorder does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.chain = Chain()
        self.memory = bytearray(MEMORY)
        self.appended: list[Event] = []

    def append(self, event: Event) -> None:
        if event.kind in SEALED:
            event = self.chain.seal(event)
        else:
            self.chain.add(event)
        super().append(event)
        self.appended.append(event)

    def append_digest(self, branches: int) -> None:
        digests = bytes(16) + check_of(hash_pages(self.memory)) + bytes(16)
        self.append(Event(Kind.DIGEST, branches, False, 0x7C00, data=digests))


def create(path: Path) -> Writer:
    return Writer.create(path, manifest())


def checkpoint(writer: Writer, branches: int, *values: int) -> None:
    """Add a checkpoint with its events, after pages 0, 1 ... were filled with *values*."""
    number, state = writer.checkpoints, b"state %d" % writer.checkpoints
    contents = b"".join(bytes([value]) * PAGE for value in values)
    writer.memory[: len(contents)] = contents
    info = CheckpointInfo(number, branches, False, 0x7C00, branches * 10, writer.events + 1)
    numbers = b"".join(page.to_bytes(4, "little") for page in range(len(values)))
    writer.add_checkpoint(info, state, [(numbers, contents)])
    writer.append_digest(branches)
    writer.append(Event(Kind.CHECKPOINT, branches, False, 0x7C00, number=number, data=check_of(state)))


def tick(branches: int) -> Event:
    return Event(Kind.INTERRUPT, branches, False, 0x7C00, 0xBEEF, 8)


def fill(writer: Writer) -> list[Event]:
    """Record two checkpoints and some events, 15 in all; return the events."""
    checkpoint(writer, 0, 1, 2)
    for branches in range(10, 20):
        writer.append(tick(branches))
    checkpoint(writer, 100, 1, 3)
    writer.append(tick(110))
    return writer.appended


def wait_for_segment(writer: RecordingWriter) -> None:
    """Wait until the log's first segment is on disk, which takes as long as events may wait."""
    deadline = time.monotonic() + 60
    while not writer.log_bytes and time.monotonic() < deadline:
        time.sleep(0.001)


def record_and_fail(path: Path) -> None:
    with create(path) as writer:
        writer.append(tick(1))
        raise KeyError("guest")


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    path = tmp_path / "complete"
    writer = create(path)
    fill(writer)
    writer.complete({"reason": "powered off"})
    return path


def problems(path: Path) -> list[str]:
    return [finding.problem for finding in Recording.open(path).verify()]


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# -- writing and reading ----------------------------------------------------------------------------------------


def test_a_complete_recording_comes_back_as_it_was(tmp_path: Path) -> None:
    made = manifest()
    writer = Writer.create(tmp_path / "r", made)
    events = fill(writer)
    writer.complete({"reason": "powered off"})

    recording = Recording.open(tmp_path / "r")

    assert recording.state is RecordingState.COMPLETE
    assert recording.manifest.guest == made.guest
    assert recording.manifest.uuid == made.uuid
    assert recording.manifest.end == {"reason": "powered off", "events": 15, "checkpoints": 2}
    assert list(recording.events()) == events
    assert list(recording.events(after=14)) == events[14:]
    assert recording.event_count == writer.events == 15
    assert recording.checkpoints == [
        CheckpointInfo(0, 0, False, 0x7C00, 0, 1),
        CheckpointInfo(1, 100, False, 0x7C00, 1000, 13),
    ]
    assert recording.load_checkpoint(1).state == b"state 1"
    assert list(recording.load_checkpoint(1).batches()) == [
        (struct.pack("<II", 0, 1), b"\x01" * PAGE + b"\x03" * PAGE)
    ]
    assert list(recording.verify()) == []


def test_counters_are_those_on_disk(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    fill(writer)
    writer.complete({})
    recording = Recording.open(tmp_path / "r")

    assert writer.log_bytes == recording.log_bytes == size_of(tmp_path / "r/log")
    assert writer.checkpoints == len(recording.checkpoints)
    assert writer.checkpoint_bytes == recording.checkpoint_bytes
    assert recording.checkpoint_bytes == size_of(tmp_path / "r/checkpoints") + size_of(tmp_path / "r/pages")


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_an_aborted_recording_is_interrupted_and_keeps_its_events(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    events = fill(writer)
    writer.abort({"reason": "SIGTERM"})

    recording = Recording.open(tmp_path / "r")

    assert recording.state is RecordingState.INTERRUPTED
    assert list(recording.events()) == events
    assert list(recording.verify()) == []


def test_an_exception_in_the_block_aborts_the_recording(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        record_and_fail(tmp_path / "r")

    recording = Recording.open(tmp_path / "r")

    assert recording.state is RecordingState.INTERRUPTED
    assert recording.manifest.end == {"reason": "KeyError: 'guest'", "events": 1, "checkpoints": 0}


def test_a_block_left_without_completing_is_interrupted(tmp_path: Path) -> None:
    with create(tmp_path / "r"):
        pass

    assert Recording.open(tmp_path / "r").state is RecordingState.INTERRUPTED


def test_a_recording_is_closed_once(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        writer.complete({})
        with pytest.raises(ValueError, match="closed"):
            writer.abort({})

    assert Recording.open(tmp_path / "r").state is RecordingState.COMPLETE


def test_a_checkpoint_is_on_disk_before_its_event(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        with pytest.raises(ValueError, match="checkpoint 0 was not added"):
            writer.append(Event(Kind.CHECKPOINT, 0, False, 0, number=0))
        with pytest.raises(ValueError, match="checkpoint 0 with event 1 is next"):
            writer.add_checkpoint(CheckpointInfo(1, 0, False, 0, 0, 0), b"", [])


def test_a_checkpoint_whose_event_was_not_written_is_not_offered(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        checkpoint(writer, 0, 1)
        writer.add_checkpoint(CheckpointInfo(1, 5, False, 0, 0, 3), b"", [])

    recording = Recording.open(tmp_path / "r")

    assert [info.number for info in recording.checkpoints] == [0]
    assert list(recording.verify()) == []


def test_pages_that_cannot_be_taken_end_the_recording_cleanly(tmp_path: Path) -> None:
    def batches() -> Iterator[tuple[bytes, bytes]]:
        yield bytes(4), bytes(PAGE)
        raise RuntimeError("core")

    with create(tmp_path / "r") as writer:
        checkpoint(writer, 0, 1)
        with pytest.raises(RuntimeError):
            writer.add_checkpoint(CheckpointInfo(1, 5, False, 0, 0, 3), b"", batches())

    assert problems(tmp_path / "r") == []
    assert sorted(path.name for path in (tmp_path / "r/pages").iterdir()) == ["00000000.pages"]


# -- creating ---------------------------------------------------------------------------------------------------


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()

    with pytest.raises(RecordingExistsError):
        create(tmp_path / "r")

    assert list((tmp_path / "r").iterdir()) == []


def test_a_file_in_place_of_a_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(HostError, match="Not a directory"):
        create(tmp_path / "file" / "sub" / "r")


def test_a_place_that_cannot_be_written_is_named() -> None:
    with pytest.raises(HostError, match="cannot record into /proc/r") as caught:
        create(Path("/proc/r"))

    assert "-o" in caught.value.hint


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("revirt.recording.writer.write_whole", disk_full)

    with pytest.raises(HostError, match="No space left"):
        create(tmp_path / "r")

    assert not (tmp_path / "r").exists()


def disk_full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["revirt.log.writer.write_whole", "revirt.checkpoint.writer.write_whole"])
def test_a_full_disk_leaves_a_recording_up_to_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    writer = create(tmp_path / "r")
    writer.append(tick(1))
    wait_for_segment(writer)
    monkeypatch.setattr(place, disk_full)

    with pytest.raises(HostError, match="No space left"), writer:
        checkpoint(writer, 5, 1)

    recording = Recording.open(tmp_path / "r")
    assert recording.state is RecordingState.INTERRUPTED
    assert list(recording.events()) == writer.appended[:1]
    assert list(recording.verify()) == []


def test_an_interrupt_while_the_rest_is_written_leaves_an_interrupted_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen: Ctrl-C during the last flush, and a manifest that called the recording complete."""
    writer = create(tmp_path / "r")
    closing, interrupted = threading.Event(), threading.Event()
    order: list[str] = []

    def write_slowly(path: Path, *parts: bytes) -> int:
        closing.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        interrupted.wait(30)
        # The main thread is on its way out by now: it must wait for this.
        time.sleep(0.05)
        order.append("written")
        return write_whole(path, *parts)

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr("revirt.checkpoint.writer.write_whole", write_slowly)
    monkeypatch.setattr(CheckpointWriter, "abandon", lambda _: order.append("abandoned"))
    handler = signal.signal(signal.SIGINT, interrupt)
    try:
        checkpoint(writer, 0, 1)
        closing.set()
        with pytest.raises(KeyboardInterrupt), writer:
            writer.complete({"reason": "powered off"})
    finally:
        signal.signal(signal.SIGINT, handler)

    recording = Recording.open(tmp_path / "r")
    assert order == ["written", "abandoned"]
    assert recording.manifest.state == RecordingState.INTERRUPTED
    assert recording.manifest.end is not None
    assert recording.manifest.end["checkpoints"] == 1
    assert problems(tmp_path / "r") == []


def test_a_full_disk_does_not_hide_what_went_wrong_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revirt.log.writer.write_whole", disk_full)

    with pytest.raises(KeyError):
        record_and_fail(tmp_path / "r")


def test_a_manifest_that_is_not_json_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    broken = manifest()
    broken.guest["name"] = b"bytes"

    with pytest.raises(ValueError, match="JSON"):
        RecordingWriter.create(tmp_path / "r", broken)

    assert not (tmp_path / "r").exists()


# -- from another process ---------------------------------------------------------------------------------------


def test_a_reader_sees_a_recording_while_it_is_made(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    writer.append(tick(1))
    wait_for_segment(writer)

    during = Recording.open(tmp_path / "r")
    seen = list(during.events())
    writer.append(tick(2))
    writer.complete({})
    after = Recording.open(tmp_path / "r")

    assert (during.state, seen) == (RecordingState.RECORDING, [tick(1)])
    assert list(during.verify()) == []
    assert (after.state, list(after.events())) == (RecordingState.COMPLETE, [tick(1), tick(2)])


def test_a_recorder_that_was_killed_leaves_an_interrupted_recording(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_recording import Recording, create, fill
        writer = create(Path(sys.argv[1]))
        fill(writer)
        while not Recording.open(writer.path).checkpoints:
            time.sleep(0.001)
        (writer.path / "log" / "00000009.seg.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "r"), str(Path(__file__).parent)]

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, check=False, env=environment, timeout=60)

    recording = Recording.open(tmp_path / "r")
    assert ended.returncode == -signal.SIGKILL
    assert recording.state is RecordingState.INTERRUPTED
    assert [info.number for info in recording.checkpoints][:1] == [0]
    assert next(recording.events()).kind is Kind.DIGEST
    assert list(recording.verify()) == []


def test_a_recording_without_its_lock_is_interrupted(tmp_path: Path) -> None:
    writer = create(tmp_path / "r")
    (tmp_path / "r/lock").unlink()

    assert Recording.open(tmp_path / "r").state is RecordingState.INTERRUPTED
    writer.abort({})


# -- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["log/00000000.seg", "log/00000001.seg", "checkpoints/00000001.ckpt", "pages/00000000.pages"],
)
def test_verify_names_the_damaged_file(complete: Path, name: str) -> None:
    flip(complete / name)

    findings = list(Recording.open(complete).verify())

    assert complete / name in {finding.path for finding in findings}
    assert all(finding.problem for finding in findings)


@pytest.mark.parametrize(
    "name",
    ["log/00000000.seg", "log/00000001.seg", "checkpoints/00000001.ckpt", "pages/00000000.pages"],
)
def test_verify_notices_a_missing_file(complete: Path, name: str) -> None:
    (complete / name).unlink()

    assert problems(complete)


def test_verify_goes_on_after_the_first_damage(complete: Path) -> None:
    flip(complete / "log/00000000.seg")
    flip(complete / "pages/00000000.pages")
    flip(complete / "pages/00000001.pages")

    assert len(problems(complete)) == 3


@pytest.mark.parametrize(
    "name",
    ["log", "checkpoints", "pages", "log/00000000.seg", "checkpoints/00000001.ckpt", "pages/00000000.pages"],
)
def test_a_link_is_not_followed_out_of_a_recording(complete: Path, tmp_path: Path, name: str) -> None:
    """What was seen: whatever it led to was opened and read."""
    outside = (complete / name).rename(tmp_path / "outside")
    (complete / name).symlink_to(outside)

    (finding, *_) = Recording.open(complete).verify()

    assert (finding.path.name, finding.problem) == (Path(name).name, "is a link")


def test_what_links_lead_to_is_not_counted_either(complete: Path, tmp_path: Path) -> None:
    (complete / "log").rename(tmp_path / "outside")
    (complete / "log").symlink_to(tmp_path / "outside")
    totals: set[int | None] = set()

    list(Recording.open(complete).verify(progress=lambda _what, _done, total: totals.add(total)))

    assert totals == {None}


def test_a_link_in_place_of_a_manifest_is_not_followed(complete: Path, tmp_path: Path) -> None:
    outside = (complete / "manifest.json").rename(tmp_path / "outside")
    (complete / "manifest.json").symlink_to(outside)

    with pytest.raises(CorruptError, match="is a link"):
        Recording.open(complete)


def test_a_recording_may_be_reached_through_a_link(complete: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(complete)

    assert not problems(tmp_path / "link")


def test_the_end_of_a_log_that_misses_its_last_segment_is_noticed(complete: Path) -> None:
    last = max((complete / "log").iterdir())
    last.unlink()

    with pytest.raises(CorruptError, match="number 12 where 15 were recorded"):
        list(Recording.open(complete).events())


def test_a_checkpoint_that_stands_elsewhere_than_its_event_is_noticed(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        writer.add_checkpoint(CheckpointInfo(0, 5, False, 0x1000, 0, 1), b"", [])
        writer.append_digest(5)
        writer.append(Event(Kind.CHECKPOINT, 6, False, 0x1000, number=0))

    assert problems(tmp_path / "r") == ["does not stand where its event does"]


def test_a_checkpoint_whose_event_is_another_is_noticed(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        writer.add_checkpoint(CheckpointInfo(0, 5, False, 0x1000, 0, 1), b"", [])
        writer.append(tick(5))
        writer.append(tick(5))

    assert problems(tmp_path / "r") == ["event 1 of the log is not its own"]


def test_a_checkpoint_without_a_digest_before_it_is_noticed(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        writer.add_checkpoint(CheckpointInfo(0, 5, False, 0x7C00, 0, 1), b"", [])
        writer.append(tick(5))
        writer.append(Event(Kind.CHECKPOINT, 5, False, 0x7C00, number=0, data=check_of(b"")))

    assert problems(tmp_path / "r") == ["event 1 of the log is not its own"]


def test_an_event_whose_checkpoint_is_missing_is_noticed(complete: Path) -> None:
    (complete / "checkpoints/00000001.ckpt").unlink()

    assert problems(complete) == ["missing", "counts 2 checkpoints where there are 1"]


def test_events_of_checkpoints_that_are_not_there_take_no_memory(complete: Path) -> None:
    """What was seen: a few kilobytes of log, and each of tens of thousands of events in them kept to the end."""
    ordinal = 15
    for index in range(2, 22):
        numbers = range(index * 1000, (index + 1) * 1000)
        rows = rows_of([Event(Kind.CHECKPOINT, 200, False, 0, number=number) for number in numbers])
        (complete / "log" / segment.file_name(index)).write_bytes(segment.encode(index, ordinal, rows))
        ordinal += len(numbers)

    tracemalloc.start()
    try:
        found = Counter(finding.problem for finding in Recording.open(complete).verify())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found["missing"] == 20_000
    assert peak < 3 << 20


def test_a_checkpoint_with_a_state_that_the_log_does_not_name_is_noticed(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        writer.add_checkpoint(CheckpointInfo(0, 5, False, 0x7C00, 0, 1), b"one", [])
        writer.append_digest(5)
        writer.append(Event(Kind.CHECKPOINT, 5, False, 0x7C00, number=0, data=check_of(b"other")))

    assert problems(tmp_path / "r") == ["its machine state is not the one that the log names"]


def test_a_checkpoint_with_memory_that_the_log_does_not_name_is_noticed(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        checkpoint(writer, 0, 1, 2)
        writer.memory[5 * PAGE] = 1
        checkpoint(writer, 5, 1, 3)
        writer.memory[5 * PAGE] = 0
        checkpoint(writer, 6, 1, 4)

    findings = list(Recording.open(tmp_path / "r").verify())

    assert [(finding.path.name, finding.problem) for finding in findings] == [
        ("00000001.ckpt", "its memory is not the one that the log names")
    ]


@pytest.mark.parametrize("place", [1, 5, 12, 13])
def test_an_event_that_was_changed_behind_its_checks_is_noticed(complete: Path, place: int) -> None:
    events = list(Recording.open(complete).events())
    chain = Chain(events[12].number)
    for event in events[13:]:
        chain.add(event)
    end = chain.seal(Event(Kind.END, 200, False, 0))
    events[place] = events[place]._replace(check=events[place].check ^ 1)
    rewrite_log(complete, [*events, end])

    found = [(finding.path.name, finding.problem) for finding in Recording.open(complete).verify()]

    following = 12 if place <= 12 else 15
    assert (SEGMENT, f"the events up to number {following} do not have the hash that it carries") in found


def test_the_hash_is_followed_again_behind_events_that_were_changed(complete: Path) -> None:
    events = list(Recording.open(complete).events())
    events[5] = events[5]._replace(number=9)
    rewrite_log(complete, events)

    assert problems(complete) == ["the events up to number 12 do not have the hash that it carries"]


def test_the_hash_is_followed_again_behind_a_damaged_segment(complete: Path) -> None:
    flip(complete / "log/00000000.seg")

    assert problems(complete) == ["payload does not match its check"]


def rewrite_log(path: Path, events: list[Event]) -> None:
    """Put *events* into the place of the log in *path*, in one segment with the right checks."""
    for old in (path / "log").iterdir():
        old.unlink()
    (path / "log" / SEGMENT).write_bytes(segment.encode(0, 0, rows_of(events)))


def test_a_machine_that_cannot_be_is_named_and_ends_no_check(tmp_path: Path) -> None:
    made = manifest()
    made.machine["memory"] = 1 << 80
    with Writer.create(tmp_path / "r", made) as writer:
        checkpoint(writer, 0, 1)
    flip(tmp_path / "r/pages/00000000.pages")

    assert [problem.split(":")[0] for problem in problems(tmp_path / "r")] == [
        "not a machine",
        "payload does not match its check",
    ]


def test_damaged_pages_are_named_once_however_many_checkpoints_use_them(tmp_path: Path) -> None:
    with create(tmp_path / "r") as writer:
        for number in range(5):
            checkpoint(writer, number, 1, 2 + number)
    flip(tmp_path / "r/pages/00000001.pages")

    findings = list(Recording.open(tmp_path / "r").verify())

    assert [finding.path.name for finding in findings] == ["00000001.pages"]


def count_opens(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """Return how often each file is opened from now on."""
    opened: Counter[Path] = Counter()
    real_open = os.open

    def count(path: Path, *rest: int) -> int:
        opened[Path(path)] += 1
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", count)
    return opened


def test_verifying_reads_every_file_at_most_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with create(tmp_path / "r") as writer:
        for number in range(80):
            checkpoint(writer, number, 1, 2 + number)
    opened = count_opens(monkeypatch)
    assert problems(tmp_path / "r") == []

    assert max(opened.values()) <= 3


def test_auditing_checkpoints_reads_every_file_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with create(tmp_path / "r") as writer:
        for number in range(80):
            checkpoint(writer, number, 1, 2 + number)
    recording = Recording.open(tmp_path / "r")
    opened = count_opens(monkeypatch)
    for number in range(80):
        recording.audit_checkpoint(number, MEMORY // PAGE)

    assert max(opened.values()) <= 3


def test_directories_that_are_missing_are_found_by_verify(complete: Path) -> None:
    for name in ("log", "checkpoints"):
        (complete / name).rename(complete.parent / name)

    assert problems(complete) == ["not a directory", "not a directory"]


# -- manifests --------------------------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was() -> None:
    made = manifest()
    made.end = {"reason": "\x1b[31m\u2028", "nested": [1, 2.5, None, True]}

    assert Manifest.from_json(made.to_json().encode(), Path("manifest.json")) == made


def test_every_flipped_bit_of_a_manifest_is_noticed_or_harmless() -> None:
    made = manifest()
    whole = made.to_json().encode()

    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = Manifest.from_json(bytes(damaged), Path("manifest.json"))
        except (CorruptError, FormatVersionError):
            continue
        # White space between values means nothing.
        assert found == made


def test_a_newer_format_is_named_before_anything_else_is_read() -> None:
    with pytest.raises(FormatVersionError) as caught:
        Manifest.from_json(b'{"format": 2, "whatever": []}', Path("manifest.json"))

    assert caught.value.found == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"format": true}',
        b'{"format": 0}',
        b'{"format": "1"}',
        b'{"format": 1}',
        b'{"format": NaN}',
        b'{"format": 1' + b"0" * 5000 + b"}",
    ],
)
def test_what_is_not_a_manifest_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        Manifest.from_json(data, Path("manifest.json"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uuid", 5),
        ("state", "finished"),
        ("state", []),
        ("guest", []),
        ("machine", None),
        ("versions", {"revirt": 1}),
        ("versions", []),
        ("command", "revirt"),
        ("command", [1]),
        ("end", []),
        ("ring", []),
        ("ring", {}),
        ("ring", {"size": 1}),
        ("ring", {"size": "1", "keep_ns": None}),
        ("ring", {"size": None, "keep_ns": 1 << 64}),
        ("ring", {"size": -1, "keep_ns": None}),
        ("ring", {"size": True, "keep_ns": None}),
        ("extra", 1),
        ("check", ""),
        ("clock", None),
    ],
)
def test_a_field_of_the_wrong_type_is_corrupt(name: str, value: object) -> None:
    with pytest.raises(CorruptError):
        Manifest.from_json(manifest_with(**{name: value}), Path("manifest.json"))


def manifest_with(here: str = "", **fields: object) -> bytes:
    """Return a manifest with other *fields*, its check right; *here* is the JSON that stands where they say "here"."""
    plain = json.loads(manifest().to_json())
    del plain["check"]
    plain.update(fields)
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":")).replace('"here"', here)
    whole = {"check": check_of(canonical.encode()).hex(), **plain}
    return json.dumps(whole).replace('"here"', here).encode()


def test_a_manifest_with_other_fields_is_one() -> None:
    found = Manifest.from_json(manifest_with(ring={"size": 1, "keep_ns": None}), Path("manifest.json"))

    assert found.ring == {"size": 1, "keep_ns": None}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1E400"])
def test_a_number_that_is_larger_than_any_is_corrupt(number: str) -> None:
    """What was seen: a ValueError, because the check could not be computed of it."""
    with pytest.raises(CorruptError, match="too large a number"):
        Manifest.from_json(manifest_with(number, guest={"x": "here"}), Path("manifest.json"))


def test_no_manifest_is_made_that_is_too_large_to_be_read() -> None:
    with pytest.raises(ValueError, match="none has more than 4194304"):
        replace(manifest(), command=["x" * (4 << 20)]).to_json()


def test_a_manifest_that_names_something_twice_is_corrupt() -> None:
    doubled = manifest().to_json().replace('"format"', '"format": 1, "format"')

    with pytest.raises(CorruptError, match="twice"):
        Manifest.from_json(doubled.encode(), Path("manifest.json"))


def test_a_manifest_may_be_nested_as_deep_as_can_be_walked_over() -> None:
    """What was seen: a RecursionError from whoever printed or repaired one that had been read without complaint."""
    deep, deeper = ("[" * levels + "]" * levels for levels in (NESTING_LIMIT - 2, NESTING_LIMIT - 1))

    found = Manifest.from_json(manifest_with(deep, guest={"x": "here"}), Path("manifest.json"))

    assert Manifest.from_json(found.to_json().encode(), Path("manifest.json")) == found
    with pytest.raises(CorruptError, match="more than 32 levels"):
        Manifest.from_json(manifest_with(deeper, guest={"x": "here"}), Path("manifest.json"))
    with pytest.raises(ValueError, match="more than 32 levels"):
        replace(found, guest={"x": json.loads(deeper)}).to_json()


def test_a_huge_manifest_is_not_read(complete: Path) -> None:
    os.truncate(complete / "manifest.json", 1 << 40)

    with pytest.raises(CorruptError, match="more than any such file has"):
        Recording.open(complete)


def test_what_is_not_a_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoRecordingError):
        Recording.open(tmp_path)


# -- where recordings are kept ----------------------------------------------------------------------------------


def record(name: str, created: str = "") -> Path:
    path = recordings_dir() / name
    made = manifest()
    made.created = created or made.created
    RecordingWriter.create(path, made).complete({})
    return path


def test_recordings_go_to_the_directory_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert recordings_dir() == home

    monkeypatch.delenv("REVIRT_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert recordings_dir() == tmp_path / ".local/share/revirt"


def test_new_paths_are_free(home: Path) -> None:
    paths = []
    for _ in range(3):
        paths.append(new_path("../my guest/vmlinuz 6.1"))
        paths[-1].mkdir(parents=True)

    assert len(set(paths)) == 3
    assert all(path.parent == home and path.name.startswith("my-guest-vmlinuz-6.1-20") for path in paths)


def test_latest_names_the_newest(home: Path) -> None:
    record("one")
    second = record("two")

    assert resolve("latest") == second
    assert os.readlink(home / "latest") == "two"


def test_latest_is_set_while_recording_and_only_for_recordings_kept_there(tmp_path: Path) -> None:
    with create(recordings_dir() / "one"):
        assert resolve("latest").name == "one"
    with create(tmp_path / "elsewhere"):
        assert resolve("latest").name == "one"


def test_a_directory_called_latest_is_left_alone(home: Path) -> None:
    (home / "latest").mkdir(parents=True)

    record("one")

    assert (home / "latest").is_dir()
    assert not (home / "latest").is_symlink()


def test_latest_without_any_recording_says_how_to_begin() -> None:
    with pytest.raises(NoRecordingError) as caught:
        resolve("latest")

    assert "revirt record" in caught.value.hint


def test_a_recording_is_found_by_path_and_by_name(complete: Path) -> None:
    kept = record("vuln-20260101-120000")

    assert resolve("vuln-20260101-120000") == kept
    assert resolve(str(complete)) == complete


@pytest.mark.parametrize("text", ["vuln-20260101-12000", "", ".", "..", "/", "a\0b", "x" * 5000])
def test_what_names_no_recording_is_refused(text: str) -> None:
    record("vuln-20260101-120000")

    with pytest.raises(NoRecordingError):
        resolve(text)


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    record("vuln-20260101-120000")

    with pytest.raises(NoRecordingError) as caught:
        resolve("vuln-20260101-12000")

    assert "vuln-20260101-120000" in caught.value.hint


def test_recordings_are_listed_oldest_first(home: Path) -> None:
    record("b", "2026-01-02T00:00:00+00:00")
    record("a", "2026-01-03T00:00:00+00:00")
    record("c", "2026-01-01T00:00:00+00:00")
    (home / "not-a-recording").mkdir()

    assert [path.name for path in list_recordings()] == ["c", "b", "a"]


def test_a_damaged_recording_is_listed() -> None:
    record("fine")
    (record("damaged") / "manifest.json").write_text("{")

    assert [path.name for path in list_recordings()] == ["damaged", "fine"]


def test_nothing_is_listed_where_nothing_was_recorded() -> None:
    assert list_recordings() == []


# -- removing ---------------------------------------------------------------------------------------------------


def test_removing_the_latest_lets_it_name_the_one_before(home: Path) -> None:
    first, second = record("one"), record("two")

    remove(second)

    assert not second.exists()
    assert resolve("latest") == first
    remove(first)
    assert not (home / "latest").is_symlink()


def test_a_damaged_recording_can_be_removed() -> None:
    path = record("damaged")
    (path / "manifest.json").write_text("{")

    remove(path)

    assert not path.exists()


def test_what_is_not_a_recording_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/manifest.json").write_text("{}")

    with pytest.raises(NoRecordingError):
        remove(tmp_path / "project")

    assert (tmp_path / "project/manifest.json").exists()


def test_a_link_to_a_recording_is_not_removed(tmp_path: Path, complete: Path) -> None:
    (tmp_path / "link").symlink_to(complete)

    with pytest.raises(NoRecordingError):
        remove(tmp_path / "link")

    assert Recording.open(complete).state is RecordingState.COMPLETE


def test_what_links_in_a_recording_lead_to_is_not_removed(tmp_path: Path, complete: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("keep")
    (complete / "log/link").symlink_to(tmp_path / "precious")

    remove(complete)

    assert not complete.exists()
    assert (tmp_path / "precious/file").read_text() == "keep"


def test_a_recording_with_other_files_in_it_is_not_removed(complete: Path) -> None:
    (complete / "notes.txt").write_text("mine")

    with pytest.raises(RecordingError, match=r"also holds 'notes\.txt'"):
        remove(complete)

    assert problems(complete) == []


def test_a_recording_that_cannot_be_removed_stays_whole(
    complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seen: in a directory that could not be written, all in the recording was gone before that was noticed.
    monkeypatch.setattr(os, "access", lambda path, mode: path != complete.parent)

    with pytest.raises(RecordingError, match=r"cannot delete .*: Permission denied"):
        remove(complete)

    assert problems(complete) == []


def test_a_recording_in_progress_is_not_removed(tmp_path: Path) -> None:
    with create(tmp_path / "r"), pytest.raises(RecordingError, match="still being recorded"):
        remove(tmp_path / "r")


def test_a_reader_does_not_keep_the_lock(complete: Path) -> None:
    Recording.open(complete)

    with open(complete / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
