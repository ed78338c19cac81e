"""Another life: inputs that do not come, others that do, and memory that is not what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from fork.conftest import ForkOf
from library import RecordingOf, RecordWith, built

from revirt.errors import RecordingError, UsageError
from revirt.fork import Changes, Fork, Patch, received_between
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions
from revirt.position import Edge, EventNumber, Position, Share
from revirt.recording import Manifest, Recording, RecordingState
from revirt.recording.manifest import NAME
from revirt.replay import replay
from revirt.timeline import Timeline

GREET, ADMIN = 0x1000FC, 0x101120
"""Addresses in vuln: the function that copies a name too long, and what the attack sets."""
RET = b"\xc3"


@pytest.fixture(params=["host", "virtual"])
def attack(request: pytest.FixtureRequest, recording_of: RecordingOf) -> Recording:
    clock: ClockMode = request.param
    return recording_of("vuln", clock)


@pytest.fixture
def line(attack: Recording) -> int:
    """The event with which the attack came in."""
    received = received_between(attack, 0, attack.event_end - 1)
    return next(number for number in received if b"pwnd" in next(attack.events(after=number)).data)


def test_without_the_attacks_line_the_service_goes_on(
    attack: Recording, line: int, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    made = fork_of(attack, None, Changes(drops=frozenset({line})))

    # What the attacker typed next was no command of the service, which waits for one.
    assert b"pwnd" not in said(made)
    assert said(made).endswith(
        b"flag\r\nno such command; try help\r\nvuln> halt\r\nno such command; try help\r\nvuln> "
    )
    assert (made.manifest.end or {})["reason"] == "its parent ended here"
    assert Timeline(made).read(ADMIN, 4) == bytes(4)
    assert replay(made).exact


def test_the_fork_begins_right_before_what_is_dropped(attack: Recording, line: int, fork_of: ForkOf) -> None:
    event = next(attack.events(after=line))

    made = fork_of(attack, None, Changes(drops=frozenset({line})))

    assert made.checkpoints[0].branches == event.branches - (not event.halted)


def test_another_line_instead_is_answered(
    attack: Recording, line: int, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    made = fork_of(attack, Share(5), Changes(replacements={line: b"name Bob\n"}))

    assert b"\r\nhello, Bob\r\n" in said(made)
    assert b"access granted" not in said(made)
    assert replay(made).exact


def test_with_the_hole_closed_the_attack_fails(
    attack: Recording, line: int, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    made = fork_of(attack, EventNumber(line - 1), Changes((Patch(GREET, RET),)))

    assert b"access granted" not in said(made)
    assert said(made).endswith(b"vuln> ")
    assert (made.manifest.end or {})["reason"] == "its parent ended here"
    assert replay(made).exact


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_what_comes_as_a_recording_begins_can_be_dropped(
    clock: ClockMode, record_with: RecordWith, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    with NullConsole() as console:
        waiting = record_with(built("echo"), console, clock)
    script = Script.parse(
        'send "one\\n"\nexpect "1: ONE\\r\\n"\nsend "two\\n"\nexpect "2: TWO\\r\\n"\nquit\n'
    )
    with ScriptedConsole(script) as console:
        parent = fork_of(waiting, Edge.END, console=console)
    first = received_between(parent, 0, parent.event_end - 1)[0]

    made = fork_of(parent, None, Changes(drops=frozenset({first})))
    same = fork_of(parent, Edge.START)

    begin, came = parent.checkpoints[0], next(parent.events(after=first))
    assert (begin.branches, begin.halted) == (came.branches, came.halted) == (came.branches, True)
    assert said(made) == b"two\r\n1: TWO\r\n"
    assert said(same) == said(parent)
    assert same.end_branches == parent.end_branches
    assert replay(made).exact
    assert replay(same).exact


def test_a_patch_is_there_from_the_start_and_nothing_else_is_changed(
    attack: Recording, fork_of: ForkOf
) -> None:
    patch = Patch(0x200FFE, b"\x01\x02\x03\x04", physical=True)

    made = fork_of(attack, Position(100), Changes((patch,)))

    timeline, parent = Timeline(made), Timeline(attack)
    parent.seek(Position(100))
    before = parent.read_physical(0, len(parent.machine.core.ram))
    expected = before[: patch.address] + patch.data + before[patch.address + 4 :]
    assert timeline.read_physical(0, len(before)) == expected
    assert timeline.registers() == parent.registers()


def test_the_manifest_names_the_parent_and_what_is_different(
    attack: Recording, line: int, fork_of: ForkOf
) -> None:
    other = received_between(attack, 0, line)[-2]
    changes = Changes((Patch(GREET, RET),), frozenset({line}), {other: b"x\n"})

    made = fork_of(attack, Position(200, 3), changes)

    (fork,) = made.manifest.guest["forks"]
    assert fork == {
        "uuid": attack.manifest.uuid,
        "at": "200:3",
        "branches": 200,
        "guest_ns": made.checkpoints[0].guest_ns,
        "inputs": True,
        "patches": [{"address": GREET, "bytes": "c3", "physical": False}],
        "dropped": [line],
        "replaced": {str(other): "780a"},
    }
    before = {name: value for name, value in made.manifest.guest.items() if name != "forks"}
    assert before == attack.manifest.guest


def test_who_types_while_inputs_are_given_again_is_heard_and_they_still_come(
    attack: Recording, tmp_path: Path, said: Callable[[Recording], bytes]
) -> None:
    fork = Fork.of(attack, Edge.START, gives_inputs=True)
    script = Script.parse('expect "hello, Eve"\nexpect "vuln> "\nsend "sum 1 2\\n"\nexpect "granted"\nquit\n')

    with ScriptedConsole(script) as console:
        fork.record(console, RecordOptions(), tmp_path / "made")

    made = Recording.open(tmp_path / "made")
    received = [event.data for event in made.events() if event.kind is Kind.RECEIVED]
    assert b"sum 1 2\n" in received
    assert b"access granted" in said(made)
    assert replay(made).exact


# -- what cannot be done --------------------------------------------------------------------------------------------


def test_only_what_was_received_can_be_changed(attack: Recording) -> None:
    with pytest.raises(
        UsageError, match=r"event 1 is checkpoint: only what came from outside can be dropped"
    ) as raised:
        Fork.of(attack, None, changes=Changes(drops=frozenset({1})), gives_inputs=True)
    assert "--kind received --kind frame_in" in raised.value.hint
    with pytest.raises(UsageError, match=r"none of 0-3 came from outside"):
        received_between(attack, 0, 3)
    with pytest.raises(UsageError, match=r"has no event 4000"):
        received_between(attack, 4, 4000)


def test_of_several_events_the_one_that_was_not_received_is_named(attack: Recording, line: int) -> None:
    with pytest.raises(UsageError, match=rf"event {line + 1} is \w+: only what came from outside"):
        Changes(drops=frozenset({4, line}), replacements={line + 1: b"x"}).check(attack)


def test_however_many_events_are_changed_the_log_is_read_once(
    attack: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = frozenset(received_between(attack, 0, attack.event_end - 1))
    reads = Mock(wraps=attack.events)
    monkeypatch.setattr(attack, "events", reads)

    Changes(drops=drops).check(attack)

    assert len(drops) == 5
    reads.assert_called_once()


def test_what_has_come_by_then_cannot_be_changed(attack: Recording, line: int) -> None:
    with pytest.raises(UsageError, match=rf"event {line} has come by 1204:0") as caught:
        Fork.of(attack, Share(50), changes=Changes(drops=frozenset({line})), gives_inputs=True)

    assert "fork earlier" in caught.value.hint


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch(0x3FFFFE, b"1234"), r"0x400000 is not in the guest's memory at 100:0"),
        (Patch(1 << 40, b"1", physical=True), r"0x10000000000 is not in the guest's memory"),
        (Patch(-4, b"1", physical=True), r"-0x4 is not in the guest's memory"),
        (Patch(-4, b"1"), r"-0x4 is not mapped"),
        (Patch(1 << 70, b"1"), r"0x400000000000000000 is not mapped"),
        (Patch(0x1_0000_1000, b"1"), r"0x100001000 is not mapped"),
        (Patch(0xFFFF_FFFF, b"12"), r"0xffffffff is not in the guest's memory"),
    ],
)
def test_where_there_is_no_memory_nothing_is_patched(patch: Patch, message: str, attack: Recording) -> None:
    with pytest.raises(UsageError, match=message):
        Fork.of(attack, Position(100), changes=Changes((patch,)))


def test_of_what_ended_before_its_first_checkpoint_there_is_nothing_to_change(
    attack: Recording, tmp_path: Path
) -> None:
    shutil.copytree(attack.path, tmp_path / "early")
    for part in ("log", "checkpoints", "pages"):
        for file in (tmp_path / "early" / part).iterdir():
            file.unlink()
    contents = replace(Manifest.read(tmp_path / "early" / NAME), state=RecordingState.INTERRUPTED, end=None)
    (tmp_path / "early" / NAME).write_text(contents.to_json())

    with pytest.raises(RecordingError, match="early ended before its first checkpoint"):
        received_between(Recording.open(tmp_path / "early"), 3, 3)


def test_what_is_not_mapped_is_not_patched(recording_of: RecordingOf) -> None:
    parent = recording_of("paging")

    # The last is no address: its upper bits are not those that the CPU would have there.
    for address in (0x7FFF00000000, 0x1_0000_0000_0000):
        with pytest.raises(UsageError, match=rf"{address:#x} is not mapped at ") as caught:
            Fork.of(parent, Share(90), changes=Changes((Patch(address, b"1"),)))

        assert "phys:" in caught.value.hint


def test_behind_its_end_a_guest_does_not_go_on(attack: Recording) -> None:
    with pytest.raises(UsageError, match=r"the guest ends at 2408:0: the guest ended its run"):
        Fork.of(attack, Edge.END)


def test_a_fork_does_not_end_before_it_begins(attack: Recording, tmp_path: Path) -> None:
    fork = Fork.of(attack, Position(100))

    with NullConsole() as console, pytest.raises(UsageError, match=r"100:0 is not behind 100:0"):
        fork.record(console, RecordOptions(until=Position(100)), tmp_path / "made")

    assert not (tmp_path / "made").exists()


def test_changes_of_inputs_want_inputs(attack: Recording, line: int) -> None:
    with pytest.raises(UsageError, match="if the parent's inputs are not given"):
        Fork.of(attack, None, changes=Changes(drops=frozenset({line})))
    with pytest.raises(UsageError, match="a fork wants a position"):
        Fork.of(attack)
    with pytest.raises(UsageError, match="cannot be dropped and be replaced"):
        Fork.of(attack, None, changes=Changes((), frozenset({line}), {line: b"x"}), gives_inputs=True)
