"""The fuzzer of files: it makes what it says, and notices whatever a case must not do."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from fuzzing import FuzzError, batches, files, forgery, packets, streams, targets, texts
from fuzzing.acts import Act, Wait
from fuzzing.bench import Bench
from fuzzing.bench import run as bench_run
from fuzzing.boards import CASE_SIZE, Boards, minimised, told_of
from fuzzing.chances import Chances
from fuzzing.changes import changer
from fuzzing.drivers import run_driver
from fuzzing.files import KINDS
from fuzzing.mischief import Mischief
from fuzzing.recordings import make_samples
from hypothesis import given
from hypothesis import strategies as st

from revirt.checkpoint.format import CHECKPOINT_FRAME, PAGES_FRAME
from revirt.errors import CorruptError, FormatVersionError, KeyFileError
from revirt.gdb import Stub
from revirt.gdb.packets import Decoder, Packet
from revirt.index.format import FRAME as INTERVALS_FRAME
from revirt.log import segment
from revirt.log.frame import Frame
from revirt.machine.memory import GuestMemory, OutsideMemoryError
from revirt.machine.virtio.queue import Chain, Queue, QueueState
from revirt.machine.virtio.transport import VirtioFunction
from revirt.recording import Manifest, Recording
from revirt.seal import keys
from revirt.timeline import Timeline

CHANCES = st.randoms(use_true_random=False)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("samples")
    make_samples(directory)
    return directory


def test_a_few_of_every_kind_come_out_clean(samples: Path, tmp_path: Path) -> None:
    outcome = batches.run_files(1, KINDS, range(20), seconds=600, samples=samples, root=tmp_path)

    assert outcome.failures == []
    assert {kind: tally.cases for kind, tally in outcome.tallies.items()} == dict.fromkeys(KINDS, 20)
    assert all(tally.refusals for kind, tally in outcome.tallies.items() if kind != "board")


def test_a_case_is_made_by_its_number_alone(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVIRT_DIR", "")
    monkeypatch.setattr(files, "Memory", lambda: _Unlimited())
    found = files.make_targets(KINDS, samples, tmp_path)
    for _ in range(2):
        runner = files.Runner(7, found)
        made.append([runner.make(kind, number) for kind in KINDS for number in range(30)])

    assert made[0] == made[1]
    assert len({data for _, data, _ in made[0]}) > 250


class _Unlimited:
    """Stands in for `Memory`, which would limit the tests, too."""

    def limit(self, _more: int) -> None:
        pass


# -- what a case must not do -----------------------------------------------------------------------------------------


def reach_outside() -> None:
    Path("/etc/hostname").read_bytes()


def reach_outside_and_tell_nobody() -> None:
    try:
        Path("/etc/hostname").read_bytes()
    except BaseException:
        return


def write_beside() -> None:
    Path("beside").write_text("x")


def take_memory() -> None:
    _ = b"x" * (200 << 20)


def sleep() -> None:
    time.sleep(60)


def die() -> None:
    os._exit(9)


def stumble() -> None:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (reach_outside, "open reaches /etc/hostname"),
        (reach_outside_and_tell_nobody, "open reaches /etc/hostname"),
        (write_beside, "where only reading was asked for"),
        (take_memory, "MiB of memory"),
        (sleep, "hangs"),
        (die, "the process ended with 9"),
        (stumble, "KeyError: 'x'"),
    ],
)
def test_a_case_that_does_what_it_must_not_is_told_of(
    fault: Callable[[], None], problem: str, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_and_fail(path: Path) -> Any:
        try:
            return load(path)
        except KeyFileError:
            fault()
            raise

    load = keys.load
    monkeypatch.setattr(keys, "load", load_and_fail)
    if fault is sleep:
        monkeypatch.setattr(targets, "SECONDS", 1.0)
    monkeypatch.setattr(files, "MEMORY_LIMIT", 150 << 20)

    outcome = batches.run_files(3, ["key"], range(4), seconds=60, samples=samples, root=tmp_path)

    assert outcome.failures
    assert all(problem in failure.problem for failure in outcome.failures)


def test_a_process_that_dies_before_the_first_case_ends_it(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "load", lambda path: stumble())

    with pytest.raises(FuzzError, match="ended with 1 before the first case"):
        batches.run_files(3, ["key"], range(4), seconds=60, samples=samples, root=tmp_path)


# -- what is changed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forge", "frame", "name"),
    [
        (forgery.forge_segment, segment.FRAME, "log/00000001.seg"),
        (forgery.forge_checkpoint, CHECKPOINT_FRAME, "checkpoints/00000001.ckpt"),
        (forgery.forge_pages, PAGES_FRAME, "pages/00000001.pages"),
        (forgery.forge_intervals, INTERVALS_FRAME, "index/00000001/intervals"),
    ],
)
@given(chance=CHANCES)
def test_no_check_stops_a_forgery(
    forge: forgery.Forge, frame: Frame, name: str, samples: Path, chance: Random
) -> None:
    data = (samples / "paging" / name).read_bytes()
    try:
        forged = forge(data, chance, changer(chance))
        header = frame.decode_header(Path("x"), forged)
        frame.decode_payload(Path("x"), header, forged[len(forged) - header.stored_size :], offset=0)
    except (forgery.NotForgedError, FormatVersionError):
        return
    except CorruptError as error:
        problem = error.problem
    else:
        problem = ""
    assert "check" not in problem


@given(chance=CHANCES)
def test_no_check_stops_a_forged_manifest(samples: Path, chance: Random) -> None:
    data = (samples / "ring" / "manifest.json").read_bytes()
    try:
        Manifest.from_json(texts.forge_manifest(data, chance, changer(chance)), Path("x"))
    except (forgery.NotForgedError, FormatVersionError):
        return
    except CorruptError as error:
        problem = error.problem
    else:
        problem = ""
    assert "check" not in problem


def test_sound_files_are_left_as_they_are_by_making_their_checks_right(samples: Path) -> None:
    for name, frame in (("log/00000001.seg", segment.FRAME), ("pages/00000000.pages", PAGES_FRAME)):
        data = (samples / "paging" / name).read_bytes()
        assert forgery.reseal(frame, data) == data
    manifest = (samples / "paging" / "manifest.json").read_bytes()
    assert texts.reseal_manifest(manifest) == manifest


# -- packets -----------------------------------------------------------------------------------------------------------


@given(chance=CHANCES)
def test_a_stream_is_cut_into_pieces_and_resealed_once(chance: Random) -> None:
    stream = streams.forge(streams.session(), chance, changer(chance))

    again = streams.reseal(stream)

    assert streams.reseal(again) == again
    assert b"".join(streams.split(stream)) == stream


def test_a_session_as_gdb_has_it_is_refused_nothing() -> None:
    found = [each for each in Decoder().feed(streams.session()) if isinstance(each, Packet)]

    assert len(found) > 15
    assert streams.reseal(streams.session()) == streams.session()


def write_into_the_guest(self: Stub, _rest: bytes) -> list[bytes]:
    self._target.machine.core.ram[0x500:0x508] = b"tampered"
    return [b"OK"]


def give_no_answer(_self: Stub, _rest: bytes) -> list[bytes]:
    return []


def answer_too_much(_self: Stub, _rest: bytes) -> list[bytes]:
    return [b"x" * 20_000]


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (write_into_the_guest, "b'X500,8:tampered' has changed the guest"),
        (give_no_answer, "b'X500,8:tampered' is not answered"),
        (answer_too_much, "is answered with 20000 bytes"),
    ],
)
def test_a_stub_that_does_what_it_must_not_is_told_of(
    fault: Callable[[Stub, bytes], list[bytes]], problem: str, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stub, "_write_binary", fault)
    timeline = Timeline(Recording.open(samples / "hello"))

    with pytest.raises(FuzzError, match=problem):
        packets.handle(timeline, streams.session() + streams.packet(b"X500,8:tampered"), [])


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> list[list[Act]]:
    """What a few hostile guests do."""
    bench = Bench(at_once=True)
    return [Mischief(Chances(Random(seed).randbytes(CASE_SIZE)), bench).acts() for seed in range(30)]


@pytest.fixture
def judge_all(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[list[Act]]
) -> Callable[[], None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVIRT_DIR", "")
    target = files.make_targets(["board"], samples, tmp_path)["board"]
    assert isinstance(target, Boards)

    def judge() -> None:
        for acts in made:
            target.judge(acts, b"", at_once=True)

    return judge


def test_hostile_guests_bring_devices_to_act(made: list[list[Act]]) -> None:
    seen = set()
    for acts in made:
        bench = Bench(at_once=True)
        bench_run(bench, acts)
        seen |= {told[0] for told in bench.told if isinstance(told, tuple)}

    assert {"sent", "printed", "stored", "interrupt"} <= seen


def notify_and_tell_nobody(self: VirtioFunction, index: int) -> None:
    if index < len(self.queues):
        self.registers.kicked |= 1 << index


def act_at_once(self: VirtioFunction, index: int) -> None:
    if index < len(self.queues):
        self.registers.kicked |= 1 << index
        self.service()


def restore_and_keep_some(self: Queue, state: QueueState) -> None:
    self.state = replace(state, next_used=max(state.next_used, self.state.next_used))


def write_and_tell_nobody(self: GuestMemory, address: int, data: bytes) -> None:
    if not 0 <= address <= address + len(data) <= self.size:
        raise OutsideMemoryError(address, len(data))
    self._ram[address : address + len(data)] = data


def walk_again_and_again(self: Queue, head: int) -> Chain:
    for _ in range(3_000_000):
        self._read_u16(0)
    return Chain(self._memory, head)


def walk_into_a_wall(self: Queue, head: int) -> Chain:
    raise IndexError(head)


def hold_too_much(self: Queue, _head: int, _written: int) -> None:
    self.state.next_used += 0x10000


@pytest.mark.parametrize(
    ("where", "name", "fault", "problem"),
    [
        (VirtioFunction, "notify", notify_and_tell_nobody, "another board, which stops more often"),
        (VirtioFunction, "notify", act_at_once, "memory is read where no device may act on it"),
        (Queue, "restore", restore_and_keep_some, "the same board, restored"),
        (Queue, "push", hold_too_much, "is outside 0..65535"),
        (Queue, "walk", walk_again_and_again, "accesses to memory"),
        (Queue, "walk", walk_into_a_wall, "IndexError"),
        (GuestMemory, "write", write_and_tell_nobody, "RAM was written, and the core not told"),
    ],
)
def test_a_device_that_does_what_it_must_not_is_told_of(
    where: type,
    name: str,
    fault: Any,
    problem: str,
    judge_all: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(where, name, fault)

    with pytest.raises((FuzzError, ValueError, IndexError)) as caught:
        judge_all()

    assert problem in repr(caught.value)


def test_what_a_failure_does_not_need_is_left_out() -> None:
    acts: list[Act] = [Wait(number) for number in range(100)]

    few = minimised(acts, lambda left: {Wait(7), Wait(60)} <= set(left))

    assert few == [Wait(7), Wait(60)]
    assert "Wait(ns=7),\n" in told_of(few, at_once=True)


def test_chance_is_told_by_bytes() -> None:
    chance = Chances(b"\x05\xff\x00\x80")

    assert chance.getrandbits(3) == 5
    assert chance.getrandbits(8) == 0xFF
    assert chance.random() == 0.5
    assert chance.is_spent
    assert chance.choice("abc") == "a"


def test_a_bad_driver_is_replayed_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path))
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        run_driver(Random(number), tmp_path, tmp_path / str(number))


# -- guided ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guided(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with a stand-in for atheris, which is optional."""
    atheris = ModuleType("atheris")
    atheris.instrument_imports = lambda include: nullcontext()  # type: ignore[attr-defined]
    atheris.Mutate = lambda data, _size: data[::-1] + b"x"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "atheris", atheris)
    monkeypatch.delitem(sys.modules, "fuzzing.guided", raising=False)
    yield import_module("fuzzing.guided")
    monkeypatch.delitem(sys.modules, "fuzzing.guided", raising=False)


class _Target:
    """A target that remembers what it was given."""

    acts = ("one", "two")

    def __init__(self) -> None:
        self.ran: list[tuple[int, bytes, str | None]] = []

    def samples(self) -> list[bytes]:
        return [b"first", b"second"]

    def run(self, place: int, data: bytes, act: str | None) -> None:
        self.ran.append((place, data, act))

    def forge(self, data: bytes, _chance: Random, change: Callable[[bytes], bytes]) -> bytes:
        return b"forged " + change(data)

    def reseal(self, data: bytes) -> bytes:
        return b"sealed " + data


def test_an_input_says_where_it_belongs_and_what_to_do_with_it(guided: ModuleType) -> None:
    target = _Target()
    fuzzer = guided.Guided(target)

    for data in (b"", b"\0", b"\0\1first", b"\3\377other"):
        fuzzer.run(data)

    assert target.ran == [(0, b"first", "two"), (1, b"other", None)]


def test_the_corpus_begins_with_sound_files(guided: ModuleType) -> None:
    target = _Target()
    fuzzer = guided.Guided(target)

    for data in fuzzer.seeds():
        fuzzer.run(data)

    assert {(0, b"first", "one"), (0, b"first", "two"), (1, b"second", None)} <= set(target.ran)


def test_an_input_is_mostly_changed_behind_its_checks(guided: ModuleType) -> None:
    fuzzer = guided.Guided(_Target())

    made = [fuzzer.mutate(b"\0\1first", 40, seed) for seed in range(300)]

    assert all(data[:1] == b"\0" and len(data) <= 40 for data in made)
    assert sum(data[2:9] == b"forged " for data in made) > 150
    assert sum(data[2:9] == b"sealed " for data in made) > 30
    assert b"\0\1tsrifx" in made
    assert fuzzer.mutate(b"", 40, 1)


def test_every_way_of_changing_bytes_takes_any_bytes() -> None:
    from fuzzing import changes

    for way, size, seed in itertools.product(changes._WAYS, (0, 1, 3, 100), range(20)):
        assert isinstance(way(Random(seed), bytes(size)), bytes)
