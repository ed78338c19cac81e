"""The guest `plugged` drives everything that can be plugged in; what it does is recorded, replayed and looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from library import RecordingOf
from plugged_guest import FRAMES, GUEST, Hands, plugs

from revirt.fork import Changes, Fork
from revirt.image import Guest
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.display import Display
from revirt.monitor.keyboard import make
from revirt.monitor.plugs import DiskPlug, NicPlug, Plugs
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.monitor.sources import KeySource
from revirt.packets import CaptureReader, CaptureWriter
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession, replay
from revirt.replay.divergence import compare_memory
from revirt.screen import Screen
from revirt.timeline import Timeline
from revirt.timeline.conditions import StopReason, Write

SAID = [
    *("disk ce5f2b1f", "write 00000000", "flush 00000000", "beyond 00000001", "again 5291c11f"),
    *("frame cd8a7e1b", "frame c5b2ab0f"),
]
"""What does not depend on chance: hashes of what was read, and how requests ended."""


class Eye:
    """Looks all the time, and sees nothing."""

    is_watched = True

    def start(self, wake: Callable[[], None]) -> None:
        pass

    def publish(self, screen: Screen) -> None:
        pass

    def close(self) -> None:
        pass


def record_it(directory: Path, clock: ClockMode, *, frames: Path = FRAMES, **options: Any) -> Recording:
    hands = Hands()
    assert GUEST.script is not None
    with ScriptedConsole(Script.load(GUEST.script), hands=hands) as console:
        summary = record(
            GUEST, console, RecordOptions(clock=clock, plugs=plugs(hands.keys, frames), **options), directory
        )
    assert summary.exit_code == 0x10
    return Recording.open(directory)


@pytest.fixture(scope="module", params=["host", "virtual"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record_it(tmp_path_factory.mktemp("plugged") / request.param, request.param, checkpoint_every=500)


def said(recording: Recording) -> list[str]:
    text = b"".join(event.data for event in recording.events() if event.is_serial_output)
    return text.decode().split("\r\n")


def kinds(recording: Recording) -> dict[Kind, int]:
    found = [event.kind for event in recording.events()]
    return {kind: found.count(kind) for kind in set(found)}


def test_every_device_does_what_the_guest_asks_of_it(recording: Recording) -> None:
    lines = said(recording)
    found = kinds(recording)

    assert [line for line in lines if line in SAID] == SAID
    assert lines[-2].startswith("key ")
    assert found[Kind.FRAME_IN] == found[Kind.FRAME_OUT] == 2
    assert (found[Kind.STORED], found[Kind.ENTROPY], found[Kind.KEYS]) == (1, 1, 1)
    # By the host's clock five requests wait for the host, by the virtual one none does.
    assert found.get(Kind.DISK, 0) == (5 if recording.manifest.clock == "host" else 0)


def test_frames_go_out_as_they_came_in_with_their_addresses_exchanged(recording: Recording) -> None:
    frames = {
        kind: [event.data for event in recording.events() if event.kind is kind]
        for kind in (Kind.FRAME_IN, Kind.FRAME_OUT)
    }

    turned = [data[6:12] + data[:6] + data[12:] for data in frames[Kind.FRAME_IN]]

    assert frames[Kind.FRAME_OUT] == turned


def test_it_replays_exactly_in_another_process(
    recording: Recording, replay_elsewhere: Callable[..., dict[str, Any]]
) -> None:
    report = replay_elsewhere(recording)

    assert (report["exact"], report["status"]) == (True, 0)


def test_it_replays_exactly_from_every_checkpoint(recording: Recording) -> None:
    for info in recording.checkpoints:
        assert replay(recording, checkpoint=info.number).divergence is None
    assert len(recording.checkpoints) > 10


def test_two_recordings_by_the_virtual_clock_are_the_same(tmp_path: Path) -> None:
    one, other = (record_it(tmp_path / name, "virtual") for name in ("one", "other"))

    assert list(one.events()) == list(other.events())


def test_who_looks_does_not_move_a_virtual_clock(tmp_path: Path) -> None:
    # Seen with a guest that waits for a key: its clock went on by what was left until the next look.
    keys = KeySource()
    typist = threading.Timer(0.3, keys.press, [make("a")])
    with NullConsole() as console:
        typist.start()
        options = RecordOptions("virtual", plugs=replace(plugs(keys, FRAMES), display=Display([Eye()])))
        record(GUEST, console, options, tmp_path / "seen")
    typist.join()

    seen = Recording.open(tmp_path / "seen")

    assert kinds(seen)[Kind.CLOCK] < 10
    assert replay(seen).divergence is None


def test_every_branch_can_be_gone_to_in_any_order(recording: Recording) -> None:
    straight = ReplaySession(recording)
    places = range(100, recording.end_branches, 389)
    digests = {}
    for place in places:
        straight.run(place)
        digests[place] = straight.machine.digest()
    timeline = Timeline(recording)

    for place in sorted(places, key=lambda place: place * 7919 % 1009):
        timeline.seek(Position(place))
        assert timeline.machine.digest() == digests[place], place


def test_machines_whose_disks_alone_differ_are_told_apart(recording: Recording) -> None:
    one, other = ReplaySession(recording), ReplaySession(recording)
    for session in (one, other):
        session.run()

    other.machine.disks[0].write(5, b"?" * 512)

    (difference,) = compare_memory(one.machine, other.machine)
    assert "store at" in difference.name
    assert difference.replayed == (b"?" * 16).hex()
    assert difference.look is not None
    assert difference.look(one.machine) != difference.look(other.machine)


def test_what_a_device_writes_to_memory_is_found_between_two_lines(recording: Recording) -> None:
    frame = next(event for event in recording.events() if event.kind is Kind.FRAME_IN)
    timeline = Timeline(recording)
    timeline.seek(Position(frame.branches))
    address = bytes(timeline.machine.core.ram).index(frame.data[14:54])
    watched = [Write(address, 4, physical=True)]

    timeline.seek_end()
    before = timeline.run_back(watched)

    assert (before.reason, before.position.branches) == (StopReason.WATCHPOINT, frame.branches - 1)
    assert timeline.read_physical(address, 4) == bytes(4)
    assert timeline.run(watched).position == Position(frame.branches)
    assert timeline.read_physical(address, 4) == frame.data[14:18]


def test_what_the_disk_holds_is_what_was_written_by_then(recording: Recording) -> None:
    pattern = bytes((i * i >> 3) & 0xFF for i in range(512))
    (written,) = [event for event in recording.events() if event.kind is Kind.STORED]
    session = ReplaySession(recording)

    session.run(written.branches - 1)
    before = session.machine.disks[0].read(5, 1)
    session.run(written.branches + 1)

    assert before != pattern
    assert session.machine.disks[0].read(5, 1) == pattern
    assert session.machine.disks[0].read(6, 1) == GUEST.disks[0].read_bytes()[6 * 512 : 7 * 512]


def test_a_fork_without_a_frame_never_gets_it(recording: Recording, tmp_path: Path) -> None:
    number = next(at for at, event in enumerate(recording.events()) if event.kind is Kind.FRAME_IN)
    fork = Fork.of(recording, changes=Changes(drops=frozenset({number})), gives_inputs=True)

    with NullConsole() as console:
        fork.record(console, RecordOptions(), tmp_path / "fork", ends=True)
    made = Recording.open(tmp_path / "fork")

    assert kinds(made)[Kind.FRAME_IN] == kinds(made)[Kind.FRAME_OUT] == 1
    assert replay(made).divergence is None


def test_a_frame_from_a_far_future_leaves_the_clock_room_to_go_on(tmp_path: Path) -> None:
    # Seen with a capture file that says so: what came after that frame was later than a log may say.
    late = tmp_path / "late.pcapng"
    with late.open("wb") as file, closing(CaptureReader(FRAMES)) as frames:
        writer = CaptureWriter(file)
        for time_ns, frame in zip((0, (1 << 64) - 1), frames, strict=True):
            writer.write(0, time_ns, frame.data, is_inbound=True, comment="")

    recording = record_it(tmp_path / "late", "virtual", frames=late)

    assert kinds(recording)[Kind.FRAME_IN] == 2
    assert replay(recording).divergence is None


def test_a_fork_gets_the_random_bytes_that_replace_others(recording: Recording, tmp_path: Path) -> None:
    # They are an answer to the guest: its own host must not give another one instead.
    chosen = bytes(range(24))
    number = next(at for at, event in enumerate(recording.events()) if event.kind is Kind.ENTROPY)
    fork = Fork.of(recording, changes=Changes(replacements={number: chosen}), gives_inputs=True)

    with NullConsole() as console:
        fork.record(console, RecordOptions(), tmp_path / "fork", ends=True)
    made = Recording.open(tmp_path / "fork")

    assert [event.data for event in made.events() if event.kind is Kind.ENTROPY] == [chosen]
    assert replay(made).divergence is None


def test_a_fork_with_the_same_inputs_is_the_same(recording: Recording, tmp_path: Path) -> None:
    fork = Fork.of(recording, Position(3_000), gives_inputs=True)

    with NullConsole() as console:
        fork.record(console, RecordOptions(), tmp_path / "fork", ends=True)
    made = Recording.open(tmp_path / "fork")

    rest = [event for event in recording.events() if event.branches > 3_000]
    assert [event for event in made.events() if event.kind is Kind.STORED] == [
        event for event in rest if event.kind is Kind.STORED
    ]
    assert said(made)[-4:] == said(recording)[-4:]


def test_a_guest_gets_what_its_description_names_without_being_asked(recording_of: RecordingOf) -> None:
    recording = recording_of("plugged", "virtual", script='expect "again"', until=Position(6_000))

    assert said(recording)[:5] == SAID[:5]


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_a_guest_that_sleeps_for_ever_ends_though_it_has_a_disk_and_a_card(
    tmp_path: Path, clock: ClockMode
) -> None:
    image = tmp_path / "sleeper.bin"
    image.write_bytes(bytes.fromhex("fbf4ebfc"))  # sti; hlt, again
    guest = Guest(name="sleeper", summary="", memory=1 << 20, file=image, format="flat", address=0x7C00)
    plugged = Plugs(
        nics=(NicPlug("52:54:00:12:34:56"),), disks=(DiskPlug(GUEST.disks[0]),), rng=True, keys=KeySource()
    )

    with NullConsole() as console:
        summary = record(guest, console, RecordOptions(clock=clock, plugs=plugged), None)

    assert "nothing" in summary.reason
