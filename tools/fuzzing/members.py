"""Files of recordings as targets: segments, manifests, checkpoints, pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

from fuzzing import forgery, texts
from fuzzing.changes import Change
from fuzzing.runs import audit_in_patience, boot, replay_in_patience
from fuzzing.targets import Commands, Scene, Target
from fuzzing.watch import Watch
from revirt.checkpoint.format import CHECKPOINT_FRAME, PAGES_FRAME, core_hash_pages, number_of
from revirt.checkpoint.pages import PageFile
from revirt.checkpoint.reader import CheckpointReader
from revirt.errors import RevirtError
from revirt.log import segment
from revirt.log.frame import list_directory
from revirt.recording import Manifest, Recording, layout
from revirt.recording.manifest import NAME

_READERS = {
    "info": ("info",),
    "info as JSON": ("info", "--json"),
    "events": ("events",),
    "events as JSON": ("events", "--jsonl"),
    "events as CSV": ("events", "--csv"),
    "console": ("console",),
    "verify": ("verify",),
    "verify as JSON": ("verify", "--json"),
    "stats": ("stats",),
    "stats as JSON": ("stats", "--json"),
    "stats of checkpoints": ("stats", "--checkpoints"),
    "du": ("du",),
    "net": ("net", "--log-only", "--jsonl"),
    "disk": ("disk", "--log-only"),
}
WRITERS = ("repair", "pack", "mv", "rm")
"""Acts that change files."""


class MemberTarget(Target):
    """A kind of file that recordings consist of."""

    part: str
    acts: Sequence[str] = (*_READERS, "ls", "replay", "audit", *WRITERS)

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self.places = sorted(path for name in scene.names for path in self.members(scene.directory / name))
        self.calls = {name: self._calls(commands, scene.directory / name) for name in scene.names}

    def members(self, recording: Path) -> list[Path]:
        """Return the files of this kind in *recording*."""
        return list_directory(recording / self.part)

    def samples(self) -> Sequence[bytes]:
        return [path.read_bytes() for path in self.places]

    def run(self, place: int, data: bytes, act: str | None) -> list[RevirtError]:
        path = self.places[place]
        path.write_bytes(data)
        return self.use(path, act)

    def use(self, path: Path, act: str | None) -> list[RevirtError]:
        """Read *path*, where something was put, do *act*, and put everything back."""
        refused: list[RevirtError] = []
        recording = self.directory / path.relative_to(self.directory).parts[0]
        try:
            with self.reading(refused):
                self.look(path)
            if act == "repair":
                interrupt(recording)
            if act is not None:
                with self.reading(refused, may_write=act in WRITERS):
                    self.act(recording, path, act)
        finally:
            if act in WRITERS:
                self.scene.restore(recording.name)
            else:
                self.scene.restore_file(path)
        return refused

    def look(self, path: Path) -> None:
        """Read the file *path* by the module that knows what it is."""
        raise NotImplementedError

    def act(self, recording: Path, _path: Path, act: str) -> None:
        """Do *act* with the *recording*, in which *_path* is hostile."""
        self.calls[recording.name][act]()

    def _calls(self, commands: Commands, path: Path) -> dict[str, Callable[[], None]]:
        target, elsewhere = str(path), str(path.with_name("elsewhere"))
        words = {act: (line[0], target, *line[1:]) for act, line in _READERS.items()}
        words["ls"] = ("ls",)
        words["repair"] = ("repair", target)
        words["pack"] = ("pack", target, "-o", f"{elsewhere}.revirt", "--force")
        words["mv"] = ("mv", target, elsewhere)
        words["rm"] = ("rm", "-f", target)
        return {
            **{act: commands.prepare(*line) for act, line in words.items()},
            "replay": commands.silently(lambda: replay_in_patience(path)),
            "audit": commands.silently(lambda: audit_in_patience(path)),
        }


class Segments(MemberTarget):
    """Segments of logs; the hashes in all of the log are sometimes made right behind them."""

    kind = "segment"
    part = layout.LOG
    acts = (*MemberTarget.acts, "audit of a forged log", "replay of a forged log", "verify of a forged log")

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        return forgery.forge_segment(data, rng, change)

    def reseal(self, data: bytes) -> bytes:
        return forgery.reseal(segment.FRAME, data)

    def look(self, path: Path) -> None:
        segment.read_header(path)
        segment.measure(path)
        segment.read(path)

    def use(self, path: Path, act: str | None) -> list[RevirtError]:
        name, is_forged, _ = (act or "").partition(" of a forged log")
        if not is_forged:
            return super().use(path, act)
        recording = path.parents[1]
        end = forgery.forge_log(sorted(path.parent.iterdir()))
        contents = Manifest.read(recording / NAME)
        if contents.end is not None:
            contents = replace(contents, end={**contents.end, "events": end})
        (recording / NAME).write_text(contents.to_json())
        try:
            return super().use(path, name)
        finally:
            self.scene.restore(recording.name)


class Manifests(MemberTarget):
    """Manifests."""

    kind = "manifest"
    acting = 0.8

    def members(self, recording: Path) -> list[Path]:
        return [recording / NAME]

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        return texts.forge_manifest(data, rng, change)

    def reseal(self, data: bytes) -> bytes:
        return texts.reseal_manifest(data)

    def look(self, path: Path) -> None:
        Manifest.read(path)


class Checkpoints(MemberTarget):
    """Checkpoints; a machine takes up what they hold, too."""

    kind = "checkpoint"
    part = layout.CHECKPOINTS
    acts = (*MemberTarget.acts, "boot", "boot", "boot")

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        recordings = [Recording.open(scene.directory / name) for name in scene.names]
        self._sound = {
            each.path.name: {info.number: each.load_checkpoint(info.number) for info in each.checkpoints}
            for each in recordings
        }

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        return forgery.forge_checkpoint(data, rng, change)

    def reseal(self, data: bytes) -> bytes:
        return forgery.reseal(CHECKPOINT_FRAME, data)

    def look(self, path: Path) -> None:
        self.reader_of(path).load(number_of(path) or 0)

    def reader_of(self, path: Path) -> CheckpointReader:
        """Return a reader of the checkpoints beside *path*."""
        recording = path.parents[1]
        first = Manifest.read(recording / NAME).start.checkpoint
        return CheckpointReader(recording / layout.CHECKPOINTS, recording / layout.PAGES, first=first)

    def act(self, recording: Path, path: Path, act: str) -> None:
        if act == "boot":
            sound = self._sound[recording.name]
            number = number_of(path)
            number = number if number in sound else min(sound)
            boot(recording, number, sound[number] if path.suffix == ".ckpt" else None)
        else:
            super().act(recording, path, act)


class Pages(Checkpoints):
    """Files of pages."""

    kind = "pages"
    part = layout.PAGES

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        return forgery.forge_pages(data, rng, change)

    def reseal(self, data: bytes) -> bytes:
        return forgery.reseal(PAGES_FRAME, data)

    def look(self, path: Path) -> None:
        found = PageFile.open(path)
        found.verify(core_hash_pages)
        self.reader_of(path).verify_pages(number_of(path) or 0)


def interrupt(recording: Path) -> None:
    """Let the *recording* say that it is still being made, if its manifest can be read."""
    with suppress(RevirtError, ValueError, RecursionError):
        contents = Manifest.read(recording / NAME)
        (recording / NAME).write_text(replace(contents, state="recording", end=None).to_json())
