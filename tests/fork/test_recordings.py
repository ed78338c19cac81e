"""The recording of a fork is one like any other, and whole by itself."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import damage
import pytest
from busy import busy_in, oldest_of, ring_being_recorded
from fork.conftest import ForkOf
from library import DEBIAN_SCRIPT, RecordingOf, RecordWith, Watcher
from recording.sealed import USER, key_file

from revirt.checkpoint import CheckpointInfo
from revirt.errors import CorruptError, EvictedError, RecordingError, RecordingExistsError
from revirt.fork import Fork
from revirt.monitor.console import NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import CheckpointNumber, Edge, Position, Share
from revirt.recording import Recording, RingLimits, cut, pack, repair, unpack
from revirt.recording import Verdict as Verified
from revirt.replay import Verdict, audit, replay

EVERY = 1_000


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A recording of ten checkpoints, each with pages that no other has."""
    scene = tmp_path_factory.mktemp("busy")
    options = RecordOptions(clock="virtual", until=Position(9_500), checkpoint_every=EVERY)
    with NullConsole() as console:
        record(busy_in(scene), console, options, scene / "busy")
    return Recording.open(scene / "busy")


def further(branches: int, **options: Any) -> RecordOptions:
    return RecordOptions(until=Position(branches), checkpoint_every=EVERY, **options)


@pytest.fixture
def nobody() -> Iterator[NullConsole]:
    with NullConsole() as console:
        yield console


def test_it_shares_its_parents_pages_and_counts_on(
    busy: Recording, fork_of: ForkOf, nobody: NullConsole
) -> None:
    made = fork_of(busy, Position(3_700), console=nobody, options=further(6_500))

    found = [(info.number, info.branches) for info in made.checkpoints]
    assert found == [(4, 3_700), (5, 4_000), (6, 5_000), (7, 6_000)]
    shared = sorted((made.path / "pages").iterdir())[:-4]
    assert shared
    for file in shared:
        assert file.samefile(busy.path / "pages" / file.name)
    assert replay(made).exact
    assert not list(made.verify())


def test_it_needs_nothing_of_its_parent(busy: Recording, fork_of: ForkOf, tmp_path: Path) -> None:
    parent = damage.copy(busy.path, tmp_path / "parent")
    with NullConsole() as console:
        made = fork_of(Recording.open(parent), Position(3_700), console=console, options=further(6_500))

    shutil.rmtree(parent)

    for info in made.checkpoints:
        assert replay(made, checkpoint=info.number).exact
    assert not list(made.verify())
    assert audit(made).verdict is Verdict.CONFIRMED


def test_where_files_cannot_be_shared_what_is_needed_is_copied(
    busy: Recording, fork_of: ForkOf, nobody: NullConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)

    made = fork_of(busy, Position(3_700), console=nobody, options=further(6_500))

    assert all(file.stat().st_nlink == 1 for file in (made.path / "pages").iterdir())
    assert not list(made.verify())
    assert replay(made).exact


def test_it_can_be_cut_and_packed(
    busy: Recording, fork_of: ForkOf, nobody: NullConsole, tmp_path: Path
) -> None:
    made = fork_of(busy, Position(3_700), console=nobody, options=further(7_500))

    cut(made, tmp_path / "cut", made.checkpoints[1], 6_900, asked=("a", "b"))
    pack(made.path, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "unpacked")

    for path in (tmp_path / "cut", tmp_path / "unpacked"):
        assert not list(Recording.open(path).verify())
        assert replay(Recording.open(path)).exact


def test_it_can_be_repaired(
    busy: Recording, tmp_path: Path, nobody: NullConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    from revirt.monitor import session

    fork = Fork.of(busy, Position(3_700))
    monkeypatch.setattr(session._Recording, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fork.record(nobody, further(6_500), tmp_path / "made")

    repair(tmp_path / "made")

    assert not list(Recording.open(tmp_path / "made").verify())
    assert replay(Recording.open(tmp_path / "made")).exact


def test_sealed_it_is_intact_and_all_its_own(
    busy: Recording, fork_of: ForkOf, nobody: NullConsole, tmp_path: Path
) -> None:
    made = fork_of(
        busy, Position(3_700), console=nobody, options=further(6_500, sign=key_file(tmp_path, USER))
    )

    found = made.verify(USER.public)
    assert not list(found)
    assert found.verdict is Verified.INTACT
    assert [info.number for info in made.checkpoints] == [0, 1, 2, 3]
    assert all(file.stat().st_nlink == 1 for file in (made.path / "pages").iterdir())


def test_circular_it_lets_go_of_its_beginning(busy: Recording, fork_of: ForkOf, nobody: NullConsole) -> None:
    made = fork_of(
        busy, Position(3_700), console=nobody, options=further(60_000, limits=RingLimits(size=60_000))
    )

    assert made.checkpoints[0].number > 0
    assert not list(made.verify())
    assert replay(made).exact


def test_what_is_circular_or_cut_or_was_forked_can_be_forked(
    tmp_path: Path, busy: Recording, fork_of: ForkOf
) -> None:
    (tmp_path / "scene").mkdir()
    options = RecordOptions(
        clock="virtual", until=Position(60_000), checkpoint_every=EVERY, limits=RingLimits(size=60_000)
    )
    with NullConsole() as console:
        record(busy_in(tmp_path / "scene"), console, options, tmp_path / "ring")
    cut(busy, tmp_path / "cut", busy.checkpoints[3], 6_500, asked=("a", "b"))
    sources = [Recording.open(tmp_path / name) for name in ("ring", "cut")]
    with NullConsole() as console:
        sources.append(fork_of(busy, Position(3_700), console=console, options=further(7_500)))

    for source in sources:
        for at in (Edge.START, Share(50), Edge.END):
            begin = source.end_branches
            with NullConsole() as console:
                made = fork_of(source, at, console=console, options=further(begin + 2_000))
            assert made.end_branches == begin + 2_000
            assert not list(made.verify())
            assert replay(made).exact


def test_what_the_recorder_of_its_parent_lets_go_of_is_no_damage(tmp_path: Path, nobody: NullConsole) -> None:
    with ring_being_recorded(tmp_path) as path:
        fork = None
        deadline = time.monotonic() + 60
        while fork is None and time.monotonic() < deadline:
            with suppress(EvictedError):
                fork = Fork.of(Recording.open(path), Edge.START)
        assert fork is not None
        behind = Recording.open(path).checkpoints[-1].number + 1
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and oldest_of(path) <= behind:
            time.sleep(0.01)

        with pytest.raises(RecordingError, match=r"now is being recorded, and what .* was evicted"):
            fork.record(nobody, further(fork.branches + 2_000), tmp_path / "made")

    assert not (tmp_path / "made").exists()


def test_it_begins_where_the_checkpoint_is_that_was_asked_for(
    recording_of: RecordingOf, fork_of: ForkOf
) -> None:
    parent = recording_of("idle", "host", checkpoint_every=20)
    halted = [info for info in parent.checkpoints if info.halted]

    for info in (*halted, *parent.checkpoints):
        made = fork_of(parent, CheckpointNumber(info.number))
        assert _place(made.checkpoints[0]) == _place(info)
        assert replay(made).exact


def _place(info: CheckpointInfo) -> tuple[int, int]:
    return info.branches, info.pc


def test_a_session_that_was_ended_goes_on_from_its_end(
    recording_of: RecordingOf, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    parent = recording_of(
        "vuln", "host", script='expect "vuln> "\nsend "echo one\\n"\nexpect "one\\r\\n"\nquit\n'
    )
    script = Script.parse('expect "vuln> "\nsend "echo two\\n"\nexpect "\\ntwo\\r\\n"\nquit\n')

    with ScriptedConsole(script) as console:
        made = fork_of(parent, Edge.END, console=console)

    assert b"\ntwo\r\n" in said(made)
    assert made.checkpoints[0].branches == parent.end_branches
    assert made.checkpoints[0].guest_ns == (parent.manifest.end or {})["guest_ns"]
    assert replay(made).exact


def test_with_the_hosts_clock_the_guests_time_goes_on(
    recording_of: RecordingOf, fork_of: ForkOf, nobody: NullConsole
) -> None:
    parent = recording_of("timer", "host")

    made = fork_of(parent, Share(80), console=nobody)

    left_ns = (parent.manifest.end or {})["guest_ns"] - made.checkpoints[0].guest_ns
    took_ns = (made.manifest.end or {})["guest_ns"] - made.checkpoints[0].guest_ns
    # It waits for so many ticks of its timer, however long the host takes.
    assert abs(took_ns - left_ns) < 50_000_000
    assert replay(made).exact


def test_whoever_waits_for_the_replay_hears_how_far_it_is(recording_of: RecordingOf) -> None:
    parent = recording_of("vuln", "host")
    watcher, other = Watcher(), Watcher()

    Fork.of(parent, Position(1_500), gives_inputs=True, progress=watcher)
    Fork.of(parent, Position(1_500), progress=other)

    assert watcher.totals == [1_500, parent.end_branches]
    assert [branches for branches, _ in watcher.told] == sorted(branches for branches, _ in watcher.told)
    assert watcher.told[-1][0] == parent.end_branches
    assert other.totals == [1_500]


def test_an_existing_directory_is_not_touched(busy: Recording, nobody: NullConsole, tmp_path: Path) -> None:
    fork = Fork.of(busy, Position(3_700))

    with pytest.raises(RecordingExistsError):
        fork.record(nobody, further(6_500), tmp_path)
    fork.record(nobody, further(6_500), tmp_path / "made")

    assert replay(Recording.open(tmp_path / "made")).exact


def test_a_manifest_with_no_room_left_is_refused(
    busy: Recording, nobody: NullConsole, tmp_path: Path
) -> None:
    parent = Recording.open(busy.path)
    parent.manifest.guest = {**parent.manifest.guest, "forks": ["x" * (4 << 20)]}

    with pytest.raises(CorruptError, match="leaves no room for what a fork adds"):
        Fork.of(parent, Position(3_700)).record(nobody, further(6_500), tmp_path / "made")

    assert not (tmp_path / "made").exists()


@pytest.mark.debian
def test_debian_goes_on_from_the_middle_of_its_boot(
    recording_of: RecordingOf, fork_of: ForkOf, said: Callable[[Recording], bytes]
) -> None:
    parent = recording_of("debian", "host", script=DEBIAN_SCRIPT)
    script = Script.parse(
        'timeout 120\nexpect "# "\nsend "echo $((7 * 191))\\n"\nexpect "1337"\nexpect "# "\nquit\n'
    )

    with ScriptedConsole(script) as console:
        made = fork_of(parent, Share(70), console=console)

    assert b"\r\n1337\r\n" in said(made)
    assert (made.path / "pages" / "00000000.pages").samefile(parent.path / "pages" / "00000000.pages")
    assert replay(made).exact


@pytest.mark.debian
def test_an_unchanged_fork_of_debian_ends_as_its_parent(
    recording_of: RecordingOf, record_with: RecordWith, fork_of: ForkOf
) -> None:
    parent = recording_of("debian", "host", script=DEBIAN_SCRIPT)

    made = fork_of(parent, Share(80))

    ends = [list(each.events(after=each.event_end - 2)) for each in (parent, made)]
    assert ends[0][0].data == ends[1][0].data
    assert (ends[0][1].branches, ends[0][1].data) == (ends[1][1].branches, ends[1][1].data)
