"""Cuts replay as what they were cut out of: at every position in them the machine is the same."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from busy import busy_in, oldest_of, ring_being_recorded
from library import RecordingOf, built

from revirt.cli import main
from revirt.errors import RecordingError, UsageError
from revirt.image import Guest
from revirt.log.events import Event, Kind
from revirt.machine.config import ClockMode
from revirt.monitor import session as session_module
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import CheckpointNumber, Edge, EventNumber, GuestTime, Point, Position
from revirt.recording import CutReport, Manifest, Recording, RecordingState, RingLimits, cut
from revirt.recording.manifest import NAME
from revirt.replay import ReplaySession, Verdict, audit, branches_at, checkpoint_before, replay

CLOCKS: tuple[ClockMode, ...] = ("host", "virtual")
GUESTS = {"timer": 4_000_000, "race": 2_000_000, "echo": 400, "vuln": 300, "paging": 9_000, "packer": 20_000}
"""Bundled guests, and after how many branches to take checkpoints."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))


@pytest.fixture
def busy(tmp_path: Path) -> Guest:
    return busy_in(tmp_path)


def make(source: Recording, target: Path, first: Point, last: Point) -> Recording:
    """Return a cut of *source*."""
    report(source, target, first, last)
    return Recording.open(target)


def report(source: Recording, target: Path, first: Point, last: Point) -> CutReport:
    start, end = checkpoint_before(source, first), branches_at(source, last)
    return cut(source, target, start, end, asked=(str(first), str(last)))


def states(
    recording: Recording, checkpoint: int, places: list[int]
) -> Iterator[tuple[int, bool, int, bytes]]:
    """Yield what the machine is at each of *places*: CPU, memory, devices and its clock."""
    session = ReplaySession(recording, checkpoint=checkpoint)
    for branches in places:
        session.run(branches)
        machine = session.machine
        yield machine.core.branches, machine.halted, machine.clock.now_ns, bytes(machine.digest())


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", GUESTS)
def test_a_cut_is_the_same_machine_at_every_position(
    name: str, clock: ClockMode, recording_of: RecordingOf, tmp_path: Path
) -> None:
    whole = recording_of(name, clock, checkpoint_every=GUESTS[name])
    chance = Random(f"{name} {clock}")
    crowded = [event.branches for event in whole.events() if event.kind in (Kind.INTERRUPT, Kind.TRANSMITTED)]
    for number in range(6):
        # Now and then to a branch where something happened, which is where it may go wrong.
        last = chance.choice(crowded or [0]) if number % 2 else chance.randrange(whole.end_branches + 1)
        made = make(whole, tmp_path / str(number), Position(chance.randrange(last + 1)), Position(last))
        first = made.checkpoints[0]
        places = sorted(
            {first.branches, last, *(chance.randrange(first.branches, last + 1) for _ in range(4))}
        )

        assert list(states(made, first.number, places)) == list(states(whole, first.number, places))
        assert not list(made.verify())
        came_to = replay(made)
        assert came_to.exact
        assert came_to.branches in (last, last + 1)


@pytest.mark.parametrize("clock", CLOCKS)
def test_every_checkpoint_of_a_cut_is_a_place_to_start_from(
    clock: ClockMode, recording_of: RecordingOf, tmp_path: Path
) -> None:
    whole = recording_of("timer", clock, checkpoint_every=GUESTS["timer"])
    made = make(whole, tmp_path / "cut", CheckpointNumber(1), CheckpointNumber(3))

    for info in made.checkpoints:
        assert replay(made, checkpoint=info.number).exact
    assert [info.number for info in made.checkpoints] == [1, 2, 3]


def test_a_cut_behind_the_last_event_runs_on_to_where_it_was_cut(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    """Nothing ever happens to the packer: a cut of it has no event but its first two."""
    made = make(recording_of("packer"), tmp_path / "cut", Edge.START, Position(40_000))

    came_to = replay(made)

    assert made.event_count == 2
    assert (came_to.exact, came_to.branches, came_to.reason) == (True, 40_000, "the cut ends here")
    assert replay(made, until=Position(30_000)).branches == 30_000
    assert replay(made, until=Position(50_000)).branches == 40_000


def test_a_cut_with_the_end_in_it_ends_as_the_recording_did(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    whole = recording_of("timer", checkpoint_every=GUESTS["timer"])
    made = make(whole, tmp_path / "cut", Edge.END, Edge.END)

    came_to = replay(made)

    assert came_to.reason == replay(whole).reason
    assert audit(made).verdict is Verdict.CONFIRMED


def test_an_audit_of_a_cut_does_not_confirm_its_end(recording_of: RecordingOf, tmp_path: Path) -> None:
    whole = recording_of("timer", checkpoint_every=GUESTS["timer"])
    made = make(whole, tmp_path / "cut", CheckpointNumber(1), Position(9_000_000))

    done = audit(made)

    assert done.verdict is Verdict.PARTIAL
    assert [(gap.first, gap.count) for gap in done.gaps] == [(made.event_end, None)]
    assert "was cut out of another" in done.gaps[0].why
    assert done.confirmed.events.total() == made.event_count


def change_end(path: Path, **changes: Any) -> Recording:
    """Write something else about the end into the manifest of *path*, with the check that belongs to it."""
    contents = Manifest.read(path / NAME)
    contents.end = {**(contents.end or {}), **changes}
    (path / NAME).write_text(contents.to_json())
    return Recording.open(path)


def test_a_cut_that_claims_to_end_later_diverges(recording_of: RecordingOf, tmp_path: Path) -> None:
    whole = recording_of("timer", checkpoint_every=GUESTS["timer"])
    make(whole, tmp_path / "cut", CheckpointNumber(1), Position(9_000_000))

    changed = change_end(tmp_path / "cut", branches=20_000_000)

    came_to = replay(changed)
    assert came_to.divergence is not None
    assert (came_to.divergence.expected, came_to.divergence.found) == ("the end", "interrupt 0x20")


def test_output_and_an_end_that_a_cut_does_not_have_diverge(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    """The guest goes on where the manifest says that nothing happens any more."""
    whole = recording_of("hello")
    sent = next(event for event in whole.events() if event.kind is Kind.TRANSMITTED)
    assert 0 < sent.branches < whole.end_branches
    make(whole, tmp_path / "output", Edge.START, Position(sent.branches - 1))
    output = replay(change_end(tmp_path / "output", branches=whole.end_branches + 9)).divergence
    make(whole, tmp_path / "end", Edge.START, Position(whole.end_branches - 1))
    end = replay(change_end(tmp_path / "end", branches=whole.end_branches + 9)).divergence

    assert output is not None
    assert output.found.startswith("output b'")
    assert end is not None
    assert (end.what, end.expected, end.found) == (
        "guest",
        "that it went on",
        "its end: the guest ended its run",
    )


def test_an_audit_notices_a_cut_that_claims_to_end_earlier(recording_of: RecordingOf, tmp_path: Path) -> None:
    whole = recording_of("timer", checkpoint_every=GUESTS["timer"])
    made = make(whole, tmp_path / "cut", CheckpointNumber(1), Position(9_000_000))
    last = made.segments[-1].last_branches

    done = audit(change_end(tmp_path / "cut", branches=last - 10_000))

    assert done.verdict is Verdict.DAMAGED
    assert f"was cut at {last - 10_000} branches" in done.findings[0].problem


def test_whoever_asks_for_what_was_cut_off_is_told_the_oldest_left(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    whole = recording_of("timer", checkpoint_every=GUESTS["timer"])
    made = make(whole, tmp_path / "cut", CheckpointNumber(2), Position(9_000_000))

    with pytest.raises(UsageError, match="checkpoint 0 of cut was cut off"):
        replay(made, checkpoint=0)
    with pytest.raises(UsageError, match="position 5:0 of cut was cut off"):
        replay(made, until=Position(5))
    for point in (Position(5), GuestTime(5), EventNumber(5)):
        with pytest.raises(UsageError, match="of cut was cut off") as raised:
            checkpoint_before(made, point)
        assert f"checkpoint 2, at {made.checkpoints[0].branches}:0" in raised.value.hint


def test_instructions_are_counted_from_where_a_cut_begins(recording_of: RecordingOf, tmp_path: Path) -> None:
    whole = recording_of("echo", checkpoint_every=GUESTS["echo"])
    make(whole, tmp_path / "cut", CheckpointNumber(1), Edge.END)

    assert main(["events", str(tmp_path / "cut"), "--icount", "--jsonl"]) == 0
    assert main(["stats", str(tmp_path / "cut"), "--icount", "--json"]) == 0


# -- what can be cut --------------------------------------------------------------------------------------------


def record_busy(busy: Guest, path: Path, branches: int, limits: RingLimits | None = None) -> Recording:
    options = RecordOptions(clock="virtual", until=Position(branches), checkpoint_every=1_000, limits=limits)
    with NullConsole() as console:
        record(busy, console, options, path)
    return Recording.open(path)


def test_a_cut_of_a_ring_is_none(busy: Guest, tmp_path: Path) -> None:
    ring = record_busy(busy, tmp_path / "ring", 60_000, RingLimits(size=60_000))
    oldest = ring.checkpoints[0]
    assert oldest.number > 0

    made = make(ring, tmp_path / "cut", Edge.START, Position(58_500))

    assert made.manifest.ring is None
    assert made.checkpoints[0] == oldest
    assert not list(made.verify())
    places = list(range(oldest.branches, 58_500, 777))
    assert list(states(made, oldest.number, places)) == list(states(ring, oldest.number, places))
    with pytest.raises(UsageError, match="5:0 of ring was evicted"):
        checkpoint_before(ring, Position(5))


def test_an_interrupted_recording_is_cut_up_to_its_last_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("died")

    monkeypatch.setattr(session_module._Recording, "finish", die)
    options = RecordOptions(clock="virtual", until=Position(25_500), checkpoint_every=2_000)
    with NullConsole() as console, pytest.raises(RuntimeError, match="died"):
        record(built("timer"), console, options, tmp_path / "died")
    died = Recording.open(tmp_path / "died")
    assert died.state is RecordingState.INTERRUPTED

    made = make(died, tmp_path / "cut", CheckpointNumber(4), Edge.END)

    assert made.state is RecordingState.COMPLETE
    assert made.event_end == died.event_end
    assert not list(made.verify())
    assert replay(made).exact
    assert audit(made).verdict is Verdict.PARTIAL


@pytest.fixture
def recording_now(tmp_path: Path) -> Iterator[Path]:
    """A circular recording that is being made all the while."""
    with ring_being_recorded(tmp_path) as path:
        yield path


def test_what_is_being_recorded_and_evicted_can_be_cut(recording_now: Path, tmp_path: Path) -> None:
    made: list[Recording] = []
    deadline = time.monotonic() + 60

    while len(made) < 3 and time.monotonic() < deadline:
        source = Recording.open(recording_now)
        assert source.state is RecordingState.RECORDING
        # Where the host has no time for the tests, it may be evicted meanwhile.
        with suppress(EvictedError):
            made.append(cut_unless_evicted(source, tmp_path / str(len(made))))

    assert len(made) == 3
    for each in made:
        assert each.state is RecordingState.COMPLETE
        assert not list(each.verify())
        assert replay(each).exact


class EvictedError(Exception):
    """What was to be cut is not there any more, and was named."""


def cut_unless_evicted(source: Recording, target: Path) -> Recording:
    try:
        return make(source, target, Edge.END, Edge.END)
    except RecordingError as error:
        if "was evicted while" in str(error):
            raise EvictedError from error
        raise


def test_what_is_evicted_while_it_is_cut_is_named(recording_now: Path, tmp_path: Path) -> None:
    source = Recording.open(recording_now)
    start, end = source.checkpoints[0], source.end_branches

    def wait(*_: object) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and oldest_of(recording_now) <= start.number + 1:
            time.sleep(0.01)

    with pytest.raises(RecordingError, match=f"checkpoint {start.number} of now was evicted while"):
        cut(source, tmp_path / "cut", start, end, asked=("start", "end"), progress=wait)

    assert not (tmp_path / "cut").exists()


# -- points -----------------------------------------------------------------------------------------------------


@pytest.fixture
def timer(recording_of: RecordingOf) -> Recording:
    """A recording of the timer guest in virtual time, in which a branch takes 10 ns."""
    return recording_of("timer", checkpoint_every=GUESTS["timer"])


def test_the_checkpoint_before_a_point_is_the_newest_that_is_not_behind_it(timer: Recording) -> None:
    second = timer.checkpoints[2]
    points: list[tuple[Point, Point]] = [
        (Position(second.branches - 1), Position(second.branches)),
        (Position(second.branches - 1, 9), Position(second.branches, 9)),
        (GuestTime(second.guest_ns - 1), GuestTime(second.guest_ns)),
        (EventNumber(second.event - 2), EventNumber(second.event - 1)),
        (CheckpointNumber(1), CheckpointNumber(2)),
    ]

    for before, at in points:
        assert checkpoint_before(timer, before).number == 1
        assert checkpoint_before(timer, at).number == 2
    assert checkpoint_before(timer, Edge.START) == timer.checkpoints[0]
    assert checkpoint_before(timer, Edge.END) == timer.checkpoints[-1]


def test_a_point_is_at_a_branch(timer: Recording) -> None:
    events = list(timer.events())

    assert branches_at(timer, Position(1_234, 5)) == 1_234
    assert branches_at(timer, EventNumber(77)) == events[77].branches
    assert branches_at(timer, CheckpointNumber(2)) == timer.checkpoints[2].branches
    assert branches_at(timer, Edge.START) == 0
    assert branches_at(timer, Edge.END) == events[-1].branches
    assert branches_at(timer, GuestTime(123_456_789)) == 12_345_678


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", ["echo", "timer", "idle"])
def test_nothing_up_to_the_branch_of_a_time_is_later(
    name: str, clock: ClockMode, recording_of: RecordingOf
) -> None:
    recording = recording_of(name, clock)
    times: list[tuple[Event, int]] = []

    def look(event: Event) -> None:
        now_ns = session.machine.clock.now_ns
        times.append((event, max(now_ns, event.number) if event.kind is Kind.CLOCK else now_ns))

    session = ReplaySession(recording, on_event=look)
    session.run()
    last_ns = session.machine.clock.now_ns
    chance = Random(name)
    for ns in sorted(chance.randrange(last_ns + 1) for _ in range(4)):
        branches = branches_at(recording, GuestTime(ns))
        until = ReplaySession(recording, until=Position(branches))
        until.run()
        after = ReplaySession(recording, until=Position(branches + 1))
        after.run()

        assert all(event.branches > branches for event, now_ns in times if now_ns > ns)
        assert until.machine.clock.now_ns <= ns
        # One branch further it is later, or something at that branch is.
        later = [now_ns for event, now_ns in times if event.branches == branches + 1]
        assert max([after.machine.clock.now_ns, *later]) > ns


@pytest.mark.parametrize(
    ("point", "hint"),
    [
        (Position(1 << 50), r"it ends at \d+:0"),
        (GuestTime(1 << 50), r"it ends at 0\.\d+s"),
        (EventNumber(1 << 50), r"its last is \d+"),
        (CheckpointNumber(1 << 50), "it has 0 to 12"),
    ],
)
def test_a_point_behind_the_end_is_refused_and_the_end_is_named(
    point: Point, hint: str, timer: Recording
) -> None:
    with pytest.raises(UsageError, match=r"ends before|has no") as raised:
        branches_at(timer, point)

    assert re.fullmatch(hint, raised.value.hint)


# -- the command ------------------------------------------------------------------------------------------------


def test_a_cut_by_the_guests_time_replays_in_another_process(
    timer: Recording, tmp_path: Path, replay_elsewhere: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "cut"

    assert main(["cut", str(timer.path), "0.1s", "250ms", "-o", str(target), "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert (said["from_checkpoint"], said["from_guest_seconds"], said["branches"]) == (2, 0.08, 25_000_000)
    found = replay_elsewhere(Recording.open(target))
    assert (found["exact"], found["status"], found["branches"]) == (True, 0, 25_000_000)
    assert found["uuid"] == said["uuid"] != said["origin"] == timer.manifest.uuid
