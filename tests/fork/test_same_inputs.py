"""A fork that is given what its parent got lives the rest of its parent's life."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from fork.conftest import ForkOf
from library import RecordingOf

from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.machine.machine import Digest
from revirt.position import Edge, EventNumber, Position, Share
from revirt.recording import Recording
from revirt.replay import ReplaySession, replay

SAID_OF_THE_GUEST = (Kind.CLOCK, Kind.RATE, Kind.RECEIVED, Kind.INTERRUPT)


def digest_at(recording: Recording, branches: int) -> Digest:
    session = ReplaySession(recording)
    session.run(branches)
    assert session.machine.core.branches == branches
    return session.machine.digest()


def last_digest(recording: Recording) -> bytes:
    """Return the digests that the recorder wrote at the end."""
    return [event for event in recording.events() if event.kind is Kind.DIGEST][-1].data


@pytest.mark.parametrize("clock", ["host", "virtual"])
@pytest.mark.parametrize("name", ["vuln", "echo", "idle"])
def test_an_unchanged_fork_is_the_same_at_every_branch(
    name: str, clock: ClockMode, recording_of: RecordingOf, fork_of: ForkOf
) -> None:
    parent = recording_of(name, clock)
    chance = random.Random(name)

    made = fork_of(parent, Share(chance.randint(1, 90)))

    begin, end = made.checkpoints[0].branches, parent.end_branches
    assert made.end_branches == end
    for branches in (begin, *(chance.randint(begin, end) for _ in range(5)), end):
        assert digest_at(made, branches) == digest_at(parent, branches)
    assert replay(made).exact
    assert not list(made.verify())


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_an_unchanged_fork_has_the_events_of_its_parent(
    clock: ClockMode, recording_of: RecordingOf, fork_of: ForkOf
) -> None:
    parent = recording_of("idle", clock)

    made = fork_of(parent, Edge.START)

    assert [event for event in made.events() if event.kind in SAID_OF_THE_GUEST] == [
        event for event in parent.events() if event.kind in SAID_OF_THE_GUEST
    ]
    assert last_digest(made) == last_digest(parent)


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_a_fork_of_programs_that_race_with_their_timer_comes_to_the_same(
    clock: ClockMode, recording_of: RecordingOf, fork_of: ForkOf
) -> None:
    parent = recording_of("race", clock)

    made = fork_of(parent, Share(80))

    assert made.end_branches == parent.end_branches
    assert last_digest(made) == last_digest(parent)


def test_forks_from_everywhere_are_the_same_in_the_end(recording_of: RecordingOf, fork_of: ForkOf) -> None:
    parent = recording_of("vuln", "host")
    end = digest_at(parent, parent.end_branches)

    for branches in range(0, parent.end_branches - 5, 97):
        made = fork_of(parent, Position(branches))
        assert (made.checkpoints[0].branches, digest_at(made, parent.end_branches)) == (branches, end)


def test_a_run_that_was_ended_for_the_guest_ends_at_the_same_place(
    recording_of: RecordingOf, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    script = 'expect "vuln> "\nsend "echo here\\n"\nexpect "here\\r\\n"\nexpect "here\\r\\n"\nquit\n'
    parent = recording_of("vuln", script=script)

    made = fork_of(parent, EventNumber(4))

    assert (made.manifest.end or {})["reason"] == "its parent ended here"
    assert made.end_branches == parent.end_branches
    assert said(parent).endswith(said(made))
    assert digest_at(made, made.end_branches) == digest_at(parent, parent.end_branches)


def test_a_fork_of_a_fork_is_the_same_too(recording_of: RecordingOf, fork_of: ForkOf) -> None:
    parent = recording_of("vuln", "host")

    child = fork_of(parent, Share(30))
    grandchild = fork_of(child, Share(50))

    assert digest_at(grandchild, parent.end_branches) == digest_at(parent, parent.end_branches)
    forks = grandchild.manifest.guest["forks"]
    assert [each["uuid"] for each in forks] == [parent.manifest.uuid, child.manifest.uuid]
    assert [each["at"] for each in forks] == ["30%", "50%"]


def test_the_parents_inputs_come_by_the_guests_time_with_another_clock(
    recording_of: RecordingOf, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    parent = recording_of("vuln", "host")

    made = fork_of(parent, Edge.START, clock="virtual")
    again = fork_of(parent, Edge.START, clock="virtual")

    assert made.manifest.clock == "virtual"
    assert b"flag{replayed bit for bit}\r\n" in said(made)
    assert list(made.events()) == list(again.events())
