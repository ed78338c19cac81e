"""Where two lives part, told by their recordings."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import damage
import pytest
from busy import busy_in
from library import COMMAND, RecordingOf, RecordWith, Watcher, built, environment

from revirt.cli import main
from revirt.diff import Comparison, Seen, comparison, diff
from revirt.errors import UsageError
from revirt.fork import Changes, Fork, Patch, received_between
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Edge, Position, Share
from revirt.recording import Manifest, Recording, RecordingState, cut
from revirt.recording.manifest import NAME
from revirt.render import printable
from revirt.timeline import Timeline

GREET = 0x1000FC
"""Address in vuln of the function that copies a name too long."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(params=["host", "virtual"])
def attack(request: pytest.FixtureRequest, recording_of: RecordingOf) -> Recording:
    return recording_of("vuln", request.param)


@pytest.fixture
def line(attack: Recording) -> int:
    """The event with which the attack came in."""
    received = received_between(attack, 0, attack.event_end - 1)
    return next(number for number in received if b"pwnd" in next(attack.events(after=number)).data)


def forked(parent: Recording, path: Path, at: Any = None, **changes: Any) -> Recording:
    fork = Fork.of(parent, at, changes=Changes(**changes), gives_inputs=True)
    with NullConsole() as console:
        fork.record(console, RecordOptions(), path, ends=True)
    return Recording.open(path)


def seen(side: Seen | None) -> tuple[int, Kind]:
    assert side is not None
    return side.ordinal, side.event.kind


def test_a_fork_without_changes_is_the_same(attack: Recording, tmp_path: Path) -> None:
    made = forked(attack, tmp_path / "made", Share(40))

    found = diff(attack, made)

    assert found.is_same
    assert (found.begin, found.end) == (made.checkpoints[0].branches, attack.end_branches)
    assert found == diff(made, attack)


def test_without_the_attacks_line_the_lives_part_where_it_came(
    attack: Recording, line: int, tmp_path: Path
) -> None:
    event = next(attack.events(after=line))
    made = forked(attack, tmp_path / "made", drops=frozenset({line}))

    found = diff(attack, made)

    assert found.begins_alike
    assert not found.is_same
    assert found.parting is not None
    assert seen(found.parting.a) == (line, Kind.RECEIVED)
    assert (found.parting.branches, found.at) == (event.branches, event.branches)
    assert "device uart, fifo" in [each.name for each in found.devices]
    assert (found.registers, found.memory, found.pages) == ([], [], 0)
    assert found.output is not None
    assert found.output.a is not None
    assert found.output.b is not None
    assert b"pwnd" in found.output.a.event.data
    assert b"flag\r\n" in found.output.b.event.data


def test_what_is_compared_the_other_way_round_is_the_mirror_image(
    attack: Recording, line: int, tmp_path: Path
) -> None:
    made = forked(attack, tmp_path / "made", drops=frozenset({line}))

    one, other = diff(attack, made), diff(made, attack)

    assert one.parting is not None
    assert other.parting is not None
    assert (one.parting.a, one.parting.b) == (other.parting.b, other.parting.a)
    assert [(each.recorded, each.replayed) for each in one.devices] == [
        (each.replayed, each.recorded) for each in other.devices
    ]


def test_a_patch_is_seen_from_the_start(attack: Recording, tmp_path: Path) -> None:
    made = forked(attack, tmp_path / "made", Position(100), patches=(Patch(GREET, b"\xc3"),))

    found = diff(attack, made, Position(100))

    assert not found.begins_alike
    assert [each.name for each in found.memory] == [f"page {GREET >> 12:#x}, memory at {GREET:#x}"]
    assert found.memory[0].replayed.startswith("c3")
    assert (found.pages, found.registers) == (1, [])
    assert found.parting is not None


def test_two_recordings_by_the_hosts_clock_part_at_a_reading_of_it(
    recording_of: RecordingOf,
) -> None:
    one, other = recording_of("timer", "host"), recording_of("timer", "host", digest_every=10_000_000)

    found = diff(one, other)

    assert found.begins_alike is (one.manifest.machine["epoch"] == other.manifest.machine["epoch"])
    assert found.parting is not None
    kinds = {each.event.kind for each in (found.parting.a, found.parting.b) if each is not None}
    assert kinds <= {Kind.CLOCK, Kind.RATE, Kind.INTERRUPT}


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_what_came_to_a_halted_cpu_shows_at_the_branch_behind(
    clock: ClockMode, recording_of: RecordingOf, record_with: RecordWith, tmp_path: Path
) -> None:
    with NullConsole() as console:
        waiting = record_with(built("echo"), console, clock)
    fork = Fork.of(waiting, Edge.END)
    with ScriptedConsole(
        Script.parse('send "one\\n"\nexpect "1: ONE\\r\\n"\nsend "two\\n"\nquit\n')
    ) as console:
        fork.record(console, RecordOptions(), tmp_path / "parent")
    parent = Recording.open(tmp_path / "parent")
    (first, *_) = received_between(parent, 0, parent.event_end - 1)
    made = forked(parent, tmp_path / "made", drops=frozenset({first}))

    found = diff(parent, made)

    begin = parent.checkpoints[0]
    assert begin.halted
    assert found.begins_alike
    assert found.parting is not None
    assert seen(found.parting.a) == (first, Kind.RECEIVED)
    assert (found.begin, found.parting.branches, found.at) == (
        begin.branches,
        begin.branches,
        begin.branches + 1,
    )
    assert "device uart, fifo" in [each.name for each in found.devices]


def test_how_a_recorder_cuts_output_makes_no_difference(recording_of: RecordingOf) -> None:
    one, other = recording_of("vuln"), recording_of("vuln", digest_every=97)

    found = diff(one, other)

    assert one.event_count != other.event_count
    assert found.is_same
    assert found.at == one.end_branches


def test_another_script_is_another_line_received(recording_of: RecordingOf) -> None:
    scripts = [
        f'expect "vuln> "\nsend "echo {word}\\n"\nexpect "{word}\\r\\n"\nquit\n' for word in ("a", "b")
    ]
    one, other = (recording_of("vuln", script=script) for script in scripts)

    found = diff(one, other)

    assert found.parting is not None
    sides = (found.parting.a, found.parting.b)
    assert [side and side.event.data for side in sides] == [b"echo a\n", b"echo b\n"]


def test_one_that_ends_earlier_is_the_same_as_far_as_it_goes(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    parent = recording_of("echo", "virtual", checkpoint_every=500)
    cut(parent, tmp_path / "part", parent.checkpoints[1], 1_700, asked=("a", "b"))

    found = diff(parent, Recording.open(tmp_path / "part"))

    assert found.is_same
    assert (found.begin, found.end) == (parent.checkpoints[1].branches, 1_700)


def test_the_machines_can_be_compared_elsewhere(attack: Recording, line: int, tmp_path: Path) -> None:
    made = forked(attack, tmp_path / "made", drops=frozenset({line}))

    found = diff(attack, made, Position(1_000))

    assert found.at == 1_000
    assert found.pages > 0
    assert "register rip" in [each.name for each in found.registers]


def test_machines_are_brought_to_where_they_are_compared_from_the_checkpoint_before(
    recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = recording_of("echo", "virtual", checkpoint_every=500)
    sessions = Mock(wraps=comparison.ReplaySession)
    monkeypatch.setattr(comparison, "ReplaySession", sessions)

    found = diff(parent, parent, Position(1_700))

    assert (found.at, found.is_same) == (1_700, True)
    assert [call.kwargs["checkpoint"] for call in sessions.call_args_list] == [0, 0, 3, 3]


def test_whoever_waits_for_the_replays_hears_how_far_they_are(attack: Recording, tmp_path: Path) -> None:
    made = forked(attack, tmp_path / "made", Position(1_500))
    watcher = Watcher()

    diff(attack, made, Position(2_000), progress=watcher)

    assert watcher.totals == [1_500, 2_000]
    assert watcher.told[-1] == (2_000, 2_000)


def test_machines_whose_clocks_go_at_other_rates_are_not_the_same(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    parent = recording_of("vuln")
    faster = damage.copy(parent.path, tmp_path / "faster")
    line = received_between(parent, 0, parent.event_end - 1)[2]
    came = next(parent.events(after=line))
    rate = came._replace(kind=Kind.RATE, number=46, data=b"")
    damage.change_events(faster, lambda events: events.insert(line, rate))
    contents = replace(Manifest.read(faster / NAME), state=RecordingState.INTERRUPTED, end=None)
    (faster / NAME).unlink()  # the copy shares its files
    (faster / NAME).write_text(contents.to_json())
    made = forked(parent, tmp_path / "made", Position(came.branches))

    found = diff(Recording.open(faster), parent)
    from_there = diff(Recording.open(faster), made)

    assert found.parting is not None
    assert seen(found.parting.a) == (line, Kind.RATE)
    assert found.at == came.branches
    assert [(each.name, each.recorded, each.replayed) for each in found.devices] == [
        ("clock rate", "46 ns per branch", "10 ns per branch")
    ]
    assert from_there.begin == came.branches
    assert not from_there.begins_alike


# -- what cannot be compared ----------------------------------------------------------------------------------------


def test_what_has_no_position_in_common_is_refused(recording_of: RecordingOf, tmp_path: Path) -> None:
    parent = recording_of("echo", "virtual", checkpoint_every=500)
    for name, number, end in (("early", 0, 700), ("late", 3, 1_900)):
        cut(parent, tmp_path / name, parent.checkpoints[number], end, asked=("a", "b"))
    early, late = (Recording.open(tmp_path / name) for name in ("early", "late"))

    for pair in ((early, late), (late, early)):
        with pytest.raises(UsageError, match="have no position in common") as caught:
            diff(*pair)
        assert caught.value.hint.startswith("early ends at 700:0, late begins at ")


def test_a_point_that_both_do_not_have_is_refused(
    attack: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = forked(attack, tmp_path / "made", Position(500))
    monkeypatch.setattr(comparison, "ReplaySession", Mock(side_effect=AssertionError("nothing is replayed")))

    with pytest.raises(UsageError, match=r"100:0 is at 100:0, and both have 500:0 to 2408:0 only"):
        diff(attack, made, Position(100))


def test_machines_of_other_sizes_are_refused(
    recording_of: RecordingOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NullConsole() as console:
        record(
            busy_in(tmp_path), console, RecordOptions(clock="virtual", until=Position(500)), tmp_path / "busy"
        )
    monkeypatch.setattr(comparison, "ReplaySession", Mock(side_effect=AssertionError("nothing is replayed")))

    with pytest.raises(UsageError, match=r"busy has 1024 KiB of memory, vuln-virtual-.* different machines"):
        diff(Recording.open(tmp_path / "busy"), recording_of("vuln"))


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two(attack: Recording, line: int, tmp_path: Path) -> Path:
    """A directory with the attack, and a fork without its line."""
    shutil.copytree(attack.path, tmp_path / "home" / "attack")
    forked(attack, tmp_path / "home" / "without", drops=frozenset({line}))
    return tmp_path / "home"


def test_the_command_shows_both_events_and_what_differs(
    two: Path, line: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", "attack", "without"]) == 3

    said = capsys.readouterr().out
    found = diff(Recording.open(two / "attack"), Recording.open(two / "without"))
    (fifo,) = (each for each in found.devices if each.name == "device uart, fifo")
    assert said.startswith(f"the same from {found.begin} branches on, they part at {found.at}\n")
    assert f"{line}  received" in said
    sides = [line.split("  ", 1) for line in said.splitlines() if line.startswith("device uart, fifo")]
    assert [each.split(maxsplit=1) for _, each in sides] == [
        ["attack", printable(fifo.recorded)],
        ["without", printable(fifo.replayed)],
    ]


def test_an_instruction_count_is_a_point_to_compare_at(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["index", "attack"])
    position = Timeline(Recording.open(two / "attack")).seek_icount(5_000)
    capsys.readouterr()

    assert main(["diff", "attack", "without", "--at", "icount:5000", "--json"]) == 3

    assert json.loads(capsys.readouterr().out)["at_branches"] == position.branches


def test_whoever_looks_on_sees_that_recordings_are_replayed(two: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "diff", str(two / "attack"), str(two / "without")]

    terminal = {**environment(), "TERM": "xterm"}
    done = subprocess.run(command, env=terminal, stdout=subprocess.PIPE, stderr=theirs, timeout=60)

    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"attack, without" in shown
    assert done.stdout.startswith(b"the same from")


def test_json_has_all_of_it(two: Path, line: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "attack", "without", "--json"]) == 3

    facts = json.loads(capsys.readouterr().out)
    found: Comparison = diff(Recording.open(two / "attack"), Recording.open(two / "without"))
    assert (facts["a"], facts["b"]) == (str(two / "attack"), str(two / "without"))
    assert (facts["same"], facts["begins_alike"], facts["pages"]) == (False, True, 0)
    assert (facts["from_branches"], facts["to_branches"], facts["at_branches"]) == (
        found.begin,
        found.end,
        found.at,
    )
    assert (facts["parting"]["a"]["ordinal"], facts["parting"]["a"]["kind"]) == (line, "received")
    assert [row["name"] for row in facts["devices"]] == [each.name for each in found.devices]


def test_machines_that_are_the_same_are_said_to_be(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = Recording.open(two / "without").checkpoints[0].branches

    assert main(["diff", "attack", "without", "--at", str(begin)]) == 3

    assert capsys.readouterr().out.endswith(f"\nat {begin} branches the machines are the same\n")


def test_of_one_that_goes_on_longer_it_is_said_where_the_other_ends(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = Recording.open(two / "attack")
    cut(attack, two / "part", attack.checkpoints[0], 1_700, asked=("a", "b"))

    assert main(["diff", "part", "attack"]) == main(["diff", "attack", "part"]) == 0

    assert capsys.readouterr().out == 2 * "same: from 0 to 1,700 branches, where part ends\n"


def test_one_and_the_same_is_the_same(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "attack", "attack"]) == 0

    assert capsys.readouterr().out == "same: from 0 to 2,408 branches\n"
