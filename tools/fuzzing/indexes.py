"""Files of an index as targets: counts and lists of pages, the checkpoints beside them and their pages.

What is behind a right check is believed, and may be false: so nothing is said here of where a seek ends, but that it
ends, with an answer or a `RevirtError`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from fuzzing import forgery
from fuzzing.changes import Change
from fuzzing.members import MemberTarget
from fuzzing.runs import PATIENCE_S
from fuzzing.targets import Commands, Scene
from fuzzing.watch import Watch
from revirt.checkpoint.format import CHECKPOINT_FRAME, PAGES_FRAME
from revirt.errors import RevirtError
from revirt.index import Index
from revirt.index.format import FRAME, INTERVALS, files_check
from revirt.log.frame import list_directory
from revirt.recording import Recording, layout
from revirt.timeline import Timeline, Write

_FRAMES = {".ckpt": CHECKPOINT_FRAME, ".pages": PAGES_FRAME, "": FRAME}
_BY_MAGIC = {frame.magic: frame for frame in _FRAMES.values()}
_MOVES: dict[str, Callable[[Timeline], object]] = {
    "seek": lambda timeline: timeline.seek_fraction(0.7),
    "icount": lambda timeline: timeline.icount(),
    "seek by icount": lambda timeline: timeline.seek_icount(timeline.index.instructions * 7 // 10),
    "search back": lambda timeline: timeline.run_back([Write(0x5000, 64, physical=True)]),
}
_WRITERS = ("make it", "make it again")


class Indexes(MemberTarget):
    """Files of indices, what asks them, and timelines that start from what they hold."""

    kind = "index"
    part = layout.INDEX
    acts = (*_MOVES, *_MOVES, "events with icounts", "du", *_WRITERS)
    acting = 0.5

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._commands = {
            name: {
                "events with icounts": commands.prepare("events", str(path), "--icount", "--csv"),
                "du": commands.prepare("du", str(path)),
                "make it": commands.prepare("index", str(path), "--jobs", "1"),
                "make it again": commands.prepare("index", str(path), "--jobs", "1", "--force"),
            }
            for name in scene.names
            for path in [scene.directory / name]
        }

    def members(self, recording: Path) -> list[Path]:
        return [path for each in list_directory(recording / self.part) for path in list_directory(each)]

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        frame = _BY_MAGIC.get(data[:8])
        if frame is CHECKPOINT_FRAME:
            return forgery.forge_checkpoint(data, rng, change)
        if frame is PAGES_FRAME:
            return forgery.forge_pages(data, rng, change)
        return forgery.forge_intervals(data, rng, change)

    def reseal(self, data: bytes) -> bytes:
        return forgery.reseal(_BY_MAGIC.get(data[:8], FRAME), data)

    def use(self, path: Path, act: str | None) -> list[RevirtError]:
        recording = self.directory / path.relative_to(self.directory).parts[0]
        refused: list[RevirtError] = []
        try:
            if path.name != INTERVALS:
                # That the other files are not those that it was made with is noticed at once; then nothing else is.
                with suppress(RevirtError, forgery.NotForgedError):
                    _adopt(path.parent)
            with self.reading(refused):
                _ask(Recording.open(recording))
            if act is not None:
                with self.reading(refused, may_write=act in _WRITERS):
                    self.act(recording, path, act)
        finally:
            self.scene.restore(recording.name)
        return refused

    def act(self, recording: Path, _path: Path, act: str) -> None:
        if act in _MOVES:
            _move(recording, act)
        else:
            self._commands[recording.name][act]()


def _adopt(directory: Path) -> None:
    """Let the counts in *directory* say that the files beside them are those that they were made with."""
    path = directory / INTERVALS
    parts = forgery.Parts.of(FRAME, path.read_bytes())
    parts.values = [parts.values[0], files_check(directory), *parts.values[2:]]
    path.write_bytes(parts.join())


def _ask(recording: Recording) -> None:
    """Ask the index of *recording* all that it can be asked."""
    index = Index(recording)
    for stretch in index.stretches:
        middle = (stretch.begin + stretch.end) // 2
        for branches in (stretch.begin, middle, stretch.end, recording.end_branches):
            checkpoint = index.checkpoint_before(branches)
            if checkpoint is not None:
                loaded = index.load(checkpoint)
                for _ in index.pages(type(loaded.page_map)("Q", sorted(set(loaded.page_map) - {0}))):
                    pass
            index.count_up_to(index.count_before(branches).instructions)
        index.verify(stretch.number)
    index.intervals_writing(range(8))
    for _ in index.events() or ():
        pass


def _move(path: Path, act: str) -> None:
    """Do *act* with a timeline of the recording *path*, not for long."""
    timeline = Timeline(Recording.open(path), jobs=1)
    timeline.seek_fraction(0.5)
    is_over = threading.Event()

    def interrupt() -> None:
        while not is_over.wait(PATIENCE_S):
            timeline.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        _MOVES[act](timeline)
    finally:
        is_over.set()
        thread.join()
