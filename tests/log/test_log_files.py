from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from revirt.errors import CorruptError, HostError, RecordingError
from revirt.log import columns, segment, writer
from revirt.log.events import Event, Kind
from revirt.log.frame import list_directory
from revirt.log.reader import LogReader
from revirt.log.rows import MAX_DATA, Rows, rows_of
from revirt.log.writer import LogWriter


def tick(branches: int) -> Event:
    return Event(Kind.INTERRUPT, branches, False, 0x1000, 1, 32)


def wait_for(event: threading.Event) -> None:
    event.wait(30)


def append_many(log: LogWriter, count: int) -> None:
    for branches in range(count):
        log.append(rows_of([tick(branches)]))


def wait_until_written(log: LogWriter, count: int) -> None:
    deadline = time.monotonic() + 60
    while log.written < count and time.monotonic() < deadline:
        time.sleep(0.001)


def write_log(directory: Path, events: list[Event], cuts: frozenset[int] = frozenset()) -> None:
    """Write *events*, beginning a segment at each index in *cuts*."""
    log = LogWriter(directory)
    for index, event in enumerate(events):
        if index in cuts:
            log.submit(lambda: None, 0)
        log.append(rows_of([event]))
    log.close()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "write_whole", fail)


def test_events_come_back_in_order_across_segments(tmp_path: Path) -> None:
    events = [tick(index) for index in range(columns.MAX_EVENTS + 100)]

    write_log(tmp_path, events)

    log = LogReader(tmp_path)
    assert list(log.events()) == events
    assert [each.count for each in log.segments][-1] < columns.MAX_EVENTS
    assert log.count == len(events)
    assert log.size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_large_data_cuts_a_segment(tmp_path: Path) -> None:
    events = [Event(Kind.RECEIVED, index, False, 0, data=bytes(600_000)) for index in range(5)]

    write_log(tmp_path, events)

    assert [each.count for each in LogReader(tmp_path).segments] == [2, 2, 1]


def test_an_event_with_too_much_data_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes of data"):
        rows_of([Event(Kind.RECEIVED, 0, False, 0, data=bytes(MAX_DATA + 1))])


def test_waiting_events_are_written_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEGMENT_SECONDS", 0.01)
    written = threading.Event()
    write_whole = writer.write_whole

    def write_and_tell(path: Path, *parts: bytes) -> int:
        size = write_whole(path, *parts)
        written.set()
        return size

    monkeypatch.setattr(writer, "write_whole", write_and_tell)
    log = LogWriter(tmp_path)

    log.append(rows_of([tick(1)]))

    assert written.wait(30)
    assert list(LogReader(tmp_path).events()) == [tick(1)]
    log.close()


def test_a_small_segment_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEGMENT_SECONDS", 0.01)
    log = LogWriter(tmp_path)

    log.append(rows_of([tick(1)]))
    wait_until_written(log, 1)
    before = LogReader(tmp_path)
    assert before.count == 1
    log.append(rows_of([tick(2)]))
    wait_until_written(log, 2)
    log.close()

    assert [each.count for each in LogReader(tmp_path).segments] == [2]
    assert list(LogReader(tmp_path).events()) == [tick(1), tick(2)]
    assert list(before.events()) == [tick(1)]
    assert log.size == LogReader(tmp_path).size


def test_a_segment_grows_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEGMENT_SECONDS", 0.01)
    monkeypatch.setattr(writer, "GROWTH_LIMIT", 100)
    log = LogWriter(tmp_path)

    for branches in range(7):
        log.append(rows_of([tick(branches)]))
        wait_until_written(log, branches + 1)
    log.close()

    assert [each.count for each in LogReader(tmp_path).segments] == [3, 3, 1]
    assert list(LogReader(tmp_path).events()) == [tick(branches) for branches in range(7)]
    assert log.size == LogReader(tmp_path).size


def test_a_job_runs_between_the_events_around_it(tmp_path: Path) -> None:
    seen: list[int] = []
    log = LogWriter(tmp_path)

    log.append(rows_of([tick(1)]))
    log.submit(lambda: seen.append(LogReader(tmp_path).count), 0)
    log.append(rows_of([tick(2)]))
    log.close()

    assert seen == [1]
    assert [each.count for each in LogReader(tmp_path).segments] == [1, 1]


def test_whoever_hands_over_too_much_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE_SIZE", 100)
    disk = threading.Event()
    handed_over = threading.Event()
    log = LogWriter(tmp_path)

    def hand_over() -> None:
        log.submit(lambda: None, 101)
        handed_over.set()

    log.submit(lambda: wait_for(disk), 0)
    guest = threading.Thread(target=hand_over)
    guest.start()
    waited = not handed_over.wait(0.05)
    disk.set()
    guest.join(30)
    log.close()

    assert waited
    assert handed_over.is_set()


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_raised_on_close(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)
    log.append(rows_of([tick(1)]))

    with pytest.raises(HostError, match="No space left on device"):
        log.close()
    log.close()


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_raised_from_an_append_and_nothing_is_written_after_it(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)
    ran: list[int] = []

    with pytest.raises(HostError, match="No space left on device"):
        append_many(log, 100 * columns.MAX_EVENTS)
    with pytest.raises(HostError):
        log.submit(lambda: ran.append(1), 0)
    with pytest.raises(HostError):
        log.close()

    assert not ran
    assert not list(tmp_path.iterdir())


def test_what_was_written_before_the_disk_filled_up_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogWriter(tmp_path)
    log.append(rows_of([tick(1)]))
    log.submit(lambda: None, 0)
    replaced = os.replace

    def fail_second(source: Path, target: Path) -> None:
        if "00000001" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(source, target)

    monkeypatch.setattr(os, "replace", fail_second)
    log.append(rows_of([tick(2)]))
    with pytest.raises(HostError):
        log.close()

    assert list(LogReader(tmp_path).events()) == [tick(1)]
    assert [path.name for path in tmp_path.iterdir()] == ["00000000.seg"]


def test_events_out_of_order_are_raised_on_close(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)
    log.append(rows_of([tick(2)]))
    log.append(rows_of([tick(1)]))

    with pytest.raises(ValueError, match="at 1 branches after one at 2"):
        log.close()


def test_a_closed_log_takes_nothing_more(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)
    log.close()

    with pytest.raises(ValueError, match="closed"):
        log.append(rows_of([tick(1)]))


def test_skipping_reads_no_segment_before(tmp_path: Path) -> None:
    write_log(tmp_path, [tick(index) for index in range(30)], frozenset({10, 20}))
    first = tmp_path / segment.file_name(0)
    damaged = bytearray(first.read_bytes())
    damaged[-1] ^= 1
    first.write_bytes(damaged)

    found = [event.branches for event in LogReader(tmp_path).events(after=13)]

    assert found == list(range(13, 30))
    assert not list(LogReader(tmp_path).events(after=30))
    with pytest.raises(CorruptError, match=r"00000000\.seg"):
        list(LogReader(tmp_path).events(after=9))


def test_events_before_the_damage_are_given(tmp_path: Path) -> None:
    write_log(tmp_path, [tick(index) for index in range(30)], frozenset({10, 20}))
    second = tmp_path / segment.file_name(1)
    second.write_bytes(second.read_bytes()[:-1])
    events = LogReader(tmp_path).events()

    assert [next(events).branches for _ in range(10)] == list(range(10))
    with pytest.raises(CorruptError, match=r"00000001\.seg"):
        next(events)


def test_a_missing_segment_is_noticed(tmp_path: Path) -> None:
    write_log(tmp_path, [tick(index) for index in range(30)], frozenset({10, 20}))
    (tmp_path / segment.file_name(1)).unlink()

    with pytest.raises(CorruptError, match="segment 1 is missing"):
        list(LogReader(tmp_path).events())


@pytest.mark.parametrize(
    ("ordinal", "branches", "problem"), [(9, 40, "begins with event 9, not 1"), (1, 3, "before")]
)
def test_a_segment_of_another_log_is_noticed(
    tmp_path: Path, ordinal: int, branches: int, problem: str
) -> None:
    (tmp_path / segment.file_name(0)).write_bytes(segment.encode(0, 0, rows_of([tick(30)])))
    (tmp_path / segment.file_name(1)).write_bytes(segment.encode(1, ordinal, rows_of([tick(branches)])))

    with pytest.raises(CorruptError, match=problem):
        list(LogReader(tmp_path).events())


def test_a_segment_that_was_being_written_is_passed_over(tmp_path: Path) -> None:
    write_log(tmp_path, [tick(1)])
    (tmp_path / (segment.file_name(1) + ".tmp")).write_bytes(b"half")

    assert list(LogReader(tmp_path).events()) == [tick(1)]


def test_a_log_that_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="not a directory"):
        list(LogReader(tmp_path / "log").events())


def test_more_branches_than_a_log_can_hold_are_raised_on_close(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)
    log.append(rows_of([tick(1 << 63)]))

    with pytest.raises(ValueError, match="at 9223372036854775808 branches"):
        log.close()


def do_nothing() -> None:
    pass


class Notes:
    """A source with one event for every entry of *waiting*."""

    def __init__(self) -> None:
        self.waiting: list[Event] = []

    def take(self) -> Rows:
        taken, self.waiting = self.waiting, []
        return rows_of(taken)


def test_what_waits_in_the_source_comes_before_what_is_appended(tmp_path: Path) -> None:
    log, notes, seen = LogWriter(tmp_path), Notes(), list[int]()
    log.draw_from(notes.take, do_nothing)

    notes.waiting = [tick(1), tick(2)]
    log.append(rows_of([tick(3)]))
    notes.waiting = [tick(4)]
    log.submit(lambda: seen.append(LogReader(tmp_path).count), 0)
    notes.waiting = [tick(5)]
    log.draw()
    notes.waiting = [tick(6)]
    log.close()

    assert list(LogReader(tmp_path).events()) == [tick(branches) for branches in range(1, 7)]
    assert seen == [4]
    assert log.events == log.written == 6


def test_what_waits_in_the_source_is_written_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_SECONDS", 0.01)
    log, notes = LogWriter(tmp_path), Notes()
    log.draw_from(notes.take, do_nothing)

    notes.waiting = [tick(1)]
    wait_until_written(log, 1)

    assert list(LogReader(tmp_path).events()) == [tick(1)]
    log.close()


def test_events_out_of_order_are_noticed_across_segments(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)
    log.append(rows_of([tick(2)]))
    log.submit(lambda: None, 0)
    log.append(rows_of([tick(1)]))

    with pytest.raises(ValueError, match="at 1 branches after one at 2"):
        log.close()
    assert list(LogReader(tmp_path).events()) == [tick(2)]


def test_events_as_large_as_may_be_come_back(tmp_path: Path) -> None:
    events = [Event(Kind.RECEIVED, 0, False, 0, data=bytes(size)) for size in (1 << 19, MAX_DATA, 1)]

    write_log(tmp_path, events)

    assert list(LogReader(tmp_path).events()) == events


def test_a_directory_is_listed_by_name(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        (tmp_path / name).touch()

    assert [path.name for path in list_directory(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_directory_is_corrupt(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CorruptError, match="not a directory"):
        list_directory(tmp_path / name)


def test_a_directory_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", refuse)

    with pytest.raises(RecordingError, match=r"cannot read .*Permission denied"):
        list_directory(tmp_path)


@pytest.mark.usefixtures("full_disk")
def test_whoever_hands_over_nothing_is_told_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_SECONDS", 0.01)
    log, notes, told = LogWriter(tmp_path), Notes(), threading.Event()
    log.draw_from(notes.take, told.set)

    notes.waiting = [tick(1)]

    assert told.wait(30)
    with pytest.raises(HostError, match="No space left on device"):
        log.close()


def test_a_source_that_fails_ends_the_log_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_SECONDS", 0.01)
    log, told = LogWriter(tmp_path), threading.Event()

    def fail() -> Rows:
        raise MemoryError("no room for notes")

    log.draw_from(fail, told.set)

    assert told.wait(30)
    log.draw_from(Notes().take, do_nothing)
    with pytest.raises(MemoryError, match="no room"):
        log.close()


def test_what_is_flushed_is_written_at_once(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)

    log.append(rows_of([tick(1)]))
    log.flush()
    wait_until_written(log, 1)

    assert list(LogReader(tmp_path).events()) == [tick(1)]
    log.close()
