"""What is timed inside a fresh process: ``python worker.py TASK PATH``, which prints its findings as JSON.

The interpreter's start and its imports are not part of these times.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revirt.log.rows import Rows
    from revirt.recording import Manifest

CHECKPOINT_EVERY = 8_000_000
"""Branches between checkpoints while their pauses are timed: more of them than a recording normally has."""

PROVEN_EVENTS = 1_000_000
PIECE_EVENTS = 500
"""Events that are written, and sealed, at one time while proofs are measured."""

POSITIONS = 100
"""How many positions a timeline is brought to."""

_BARE_MEMORY = 64 << 20


def bare(path: Path) -> dict[str, Any]:
    """Run the ELF image at *path* in Unicorn as its Python binding gives it: no hook, no device, no paging."""
    from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
    from unicorn.x86_const import UC_CPU_X86_NEHALEM, UC_X86_REG_RAX

    from revirt.image.elf import parse

    image = parse(path, path.read_bytes())
    engine = Uc(UC_ARCH_X86, UC_MODE_64)
    engine.ctl_set_cpu_model(UC_CPU_X86_NEHALEM)
    engine.mem_map(0, _BARE_MEMORY)
    for segment in image.segments:
        engine.mem_write(segment.paddr, bytes(segment.data))
    wall, cpu = time.perf_counter(), time.process_time()
    # No address to end at, as in revirt's core: the guest's HLT ends it.
    engine.emu_start(image.entry, _BARE_MEMORY)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "exit_code": engine.reg_read(UC_X86_REG_RAX),
    }


def instructions(path: Path) -> dict[str, Any]:
    """Count the instructions of the recording at *path*."""
    from revirt.recording import Recording
    from revirt.replay import count_instructions

    # The last event is the end of the run.
    return {"instructions": max(count for _, count in count_instructions(Recording.open(path)))}


def restore(path: Path) -> dict[str, Any]:
    """Restore the last checkpoint of the recording at *path*."""
    from revirt.recording import Recording
    from revirt.replay import ReplaySession

    wall, cpu = time.perf_counter(), time.process_time()
    recording = Recording.open(path)
    last = recording.checkpoints[-1].number
    session = ReplaySession(recording, checkpoint=last)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    assert session.machine.core.branches == recording.checkpoints[-1].branches
    pages = recording.load_checkpoint(last).page_count
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "pages": pages}


def pauses(path: Path) -> dict[str, Any]:
    """Record the Debian guest with the script at *path*, with many checkpoints; return what each cost.

    The first, which stores the guest's image before it runs, is left out.
    """
    from revirt.image.guest import find
    from revirt.monitor import session
    from revirt.monitor.script import Script, ScriptedConsole

    taken: list[dict[str, float]] = []
    _watch_checkpoints(session, taken)
    options = session.RecordOptions(clock="host", checkpoint_every=CHECKPOINT_EVERY)
    session.record(
        find("debian"), ScriptedConsole(Script.load(path)), options, path.with_name("paused-recording")
    )
    return {"pauses": taken[1:]}


def _watch_checkpoints(session: Any, taken: list[dict[str, float]]) -> None:
    """Wrap the two functions in which *session* takes a checkpoint, so that what is timed is what recording does."""
    mark: Callable[..., None] = session._Recording.mark
    changed_pages: Callable[..., Iterator[tuple[bytes, bytes]]] = session._Recording._changed_pages
    pages = 0

    def counted(self: Any, machine: Any) -> Iterator[tuple[bytes, bytes]]:
        nonlocal pages
        for numbers, contents in changed_pages(self, machine):
            pages += len(numbers) // 4
            yield numbers, contents

    def timed(self: Any, machine: Any, *, with_checkpoint: bool) -> None:
        nonlocal pages
        pages = 0
        wall, cpu = time.perf_counter(), time.thread_time()
        mark(self, machine, with_checkpoint=with_checkpoint)
        seconds, cpu_seconds = time.perf_counter() - wall, time.thread_time() - cpu
        taken.append({"seconds": seconds, "cpu_seconds": cpu_seconds, "pages": pages})

    session._Recording._changed_pages = counted
    session._Recording.mark = timed


def proofs(path: Path) -> dict[str, Any]:
    """Record a million events at *path*, sealed, and prove some of them; return the worst of each.

    No guest makes so many in a while that anybody waits for; every fourth has data, which is part of its proof.
    """
    from revirt.recording import Recording, RecordingWriter, prove
    from revirt.seal import keys
    from revirt.seal.proofs import EventProof

    key = path.with_name("key")
    public = keys.create(key)
    with RecordingWriter.create(path, _manifest(), sign=key) as writer:
        for start in range(0, PROVEN_EVENTS, PIECE_EVENTS):
            rows = _rows(start, min(PIECE_EVENTS, PROVEN_EVENTS - start))
            writer.draw_from(iter([rows, *[_rows(0, 0)] * 1000]).__next__, lambda: None)
            # Each piece is written and sealed by itself: a history of many leaves.
            writer.flush()
        writer.complete({"reason": "enough"})
    worst = {"size": 0.0, "checked": 0.0, "made": 0.0}
    recording = Recording.open(path)
    for ordinal in range(PROVEN_EVENTS // 20, PROVEN_EVENTS, PROVEN_EVENTS // 10):
        begun = time.perf_counter()
        data = prove(recording, ordinal, public).to_json()
        made = time.perf_counter()
        proven = EventProof.from_json(data).verify(public)
        checked = time.perf_counter()
        assert proven.ordinal == ordinal
        found = {"size": float(len(data)), "made": made - begun, "checked": checked - made}
        worst = {name: max(value, found[name]) for name, value in worst.items()}
    return {**worst, "events": PROVEN_EVENTS}


def _manifest() -> Manifest:
    from revirt.machine.config import MachineConfig
    from revirt.recording import Manifest

    machine = MachineConfig(1 << 20, "virtual", 0, 10).to_plain()
    return Manifest(guest={"name": "none"}, machine=machine, clock="virtual", versions={}, command=[])


def _rows(start: int, count: int) -> Rows:
    from revirt.log.events import Event, Kind
    from revirt.log.rows import rows_of

    pc = 0xFFFFFFFF81000000
    return rows_of(
        [
            Event(Kind.RECEIVED, number * 100, False, pc + number, number & 0xFFFF, 0, b"%d\n" % number)
            if number % 4 == 0
            else Event(Kind.CLOCK, number * 100, False, pc + number, number & 0xFFFF, number * 1000)
            for number in range(start, start + count)
        ]
    )


def cold_seeks(path: Path) -> dict[str, Any]:
    """Go to random positions of the recording at *path*, each from a process of its own; return how long each took.

    That is from opening the recording to standing there.
    """
    from revirt.position import Position
    from revirt.recording import Recording
    from revirt.timeline import Timeline

    def seek(branches: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        timeline = Timeline(Recording.open(path))
        timeline.seek(Position(branches))
        took = time.perf_counter() - wall, time.process_time() - cpu
        assert timeline.machine.core.branches == branches
        return took

    seconds, cpu_seconds = zip(
        *(_in_child(seek, branches) for branches in _random_branches(path)), strict=True
    )
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def _in_child(measure: Callable[[int], tuple[float, float]], argument: int) -> tuple[float, float]:
    """Return what *measure* returns in a new process, which has nothing to import any more."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, nothing but this is done twice.
        try:
            os.write(write, json.dumps(measure(argument)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as news:
        said = news.read()
    os.waitpid(child, 0)
    wall, cpu = json.loads(said)
    return wall, cpu


def reverse_steps(path: Path) -> dict[str, Any]:
    """Step back by an instruction from random positions of the recording at *path*; return how long each step took."""
    from revirt.position import Position
    from revirt.recording import Recording
    from revirt.timeline import Timeline

    timeline = Timeline(Recording.open(path))
    seconds, cpu_seconds = [], []
    for branches in _random_branches(path):
        timeline.seek(Position(branches))
        wall, cpu = time.perf_counter(), time.process_time()
        timeline.step_back()
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def last_writes(path: Path) -> dict[str, Any]:
    """Do what `benchmarks.writers.last_writes` does."""
    from benchmarks import writers

    return writers.last_writes(path)


def _random_branches(path: Path) -> list[int]:
    from revirt.recording import Recording

    chance, end = random.Random(POSITIONS), Recording.open(path).end_branches
    return [chance.randrange(1, end) for _ in range(POSITIONS)]


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bare": bare,
    "instructions": instructions,
    "restore": restore,
    "pauses": pauses,
    "proofs": proofs,
    "cold_seeks": cold_seeks,
    "reverse_steps": reverse_steps,
    "last_writes": last_writes,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](Path(sys.argv[2]))))
