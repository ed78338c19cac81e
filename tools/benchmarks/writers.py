"""Who wrote a word last?  Asked of a timeline, and of a replay that notes every write."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from revirt.checkpoint.format import PAGE_SIZE
from revirt.core import WATCH_MAYBE
from revirt.recording import Recording
from revirt.replay import ReplaySession
from revirt.timeline import StopReason, Timeline, Write

WORDS = 50
_SIZE = 8
_MOMENTS = 16
_AT_ONCE = 25
"""Words that are watched in one replay: with more than Unicorn has fast hooks for it would take far longer."""
_STRIDE = 200_000
"""Branches between two looks at what was noted, which is kept for a while only."""


def last_writes(path: Path) -> dict[str, Any]:
    """Ask, at the end of the recording at *path*, which has an index, who wrote each of some words last.

    Return how long each answer took, how long a replay of everything takes, and how many answers were wrong.
    """
    recording = Recording.open(path)
    words = _written_words(recording, random.Random(WORDS))
    began, cpu_began = time.perf_counter(), time.process_time()
    ReplaySession(recording).run()
    replay, cpu_replay = time.perf_counter() - began, time.process_time() - cpu_began
    timeline = Timeline(recording)
    found, seconds, cpu_seconds = {}, [], []
    for word in words:
        timeline.seek_end()
        wall, cpu = time.perf_counter(), time.process_time()
        stopped = timeline.run_back([Write(word, _SIZE, physical=True)])
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
        found[word] = stopped.position.branches if stopped.reason is StopReason.WATCHPOINT else None
    expected = _noted_writes(recording, words)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "replay": replay,
        "cpu_replay": cpu_replay,
        "wrong": sum(found[word] != expected[word] for word in words),
    }


def _written_words(recording: Recording, chance: random.Random) -> list[int]:
    """Return the physical addresses of words that changed from one random moment to another."""
    session = ReplaySession(recording)
    machine, end = session.machine, recording.end_branches
    machine.changed_pages()
    before = bytes(machine.core.ram)
    words: set[int] = set()
    for moment in [*sorted(chance.randrange(1, end) for _ in range(_MOMENTS)), end]:
        session.run(moment)
        pages = array("I", machine.changed_pages())
        for page in chance.sample(pages.tolist(), min(len(pages), WORDS)):
            if changed := _changed_words(machine.core.ram, before, page):
                words.add(chance.choice(changed))
        before = bytes(machine.core.ram)
    return sorted(chance.sample(sorted(words), WORDS))


def _changed_words(after: memoryview, before: bytes, page: int) -> list[int]:
    places = range(page * PAGE_SIZE, (page + 1) * PAGE_SIZE, _SIZE)
    return [at for at in places if after[at : at + _SIZE] != before[at : at + _SIZE]]


def _noted_writes(recording: Recording, words: Sequence[int]) -> dict[int, int | None]:
    """Return the line on which each of *words* was written last, by hooks that note every write of all of them."""
    last: dict[int, int | None] = dict.fromkeys(words)
    for start in range(0, len(words), _AT_ONCE):
        for branches, address, size in _writes(recording, words[start : start + _AT_ONCE]):
            for word in words[start : start + _AT_ONCE]:
                if address < word + _SIZE and word < address + size:
                    last[word] = branches
    return last


def _writes(recording: Recording, words: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the writes to any of *words*, in order: branches, address and size."""
    session = ReplaySession(recording)
    core = session.machine.core
    core.set_watches((), [(word, _SIZE) for word in words], ())
    is_running = True
    while is_running:
        stop = session.run(core.branches + _STRIDE)
        is_running = stop.halted is None and stop.ended is None
        noted = core.take_hits()
        for kind, branches, _, _, address, size, _ in noted:
            if not kind & WATCH_MAYBE:
                yield branches, address, size
