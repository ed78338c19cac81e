"""Strange things in recordings as targets: links, FIFOs, directories, sockets, and files of strange names and sizes."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from fuzzing.changes import Change
from fuzzing.members import WRITERS, MemberTarget, interrupt
from revirt.errors import RevirtError
from revirt.log.frame import list_directory
from revirt.recording import layout
from revirt.recording.manifest import NAME


class Strange(MemberTarget):
    """Things that are not files where files belong, names that nobody expects, and files of strange sizes.

    What is put there is told by a number, as text.
    """

    kind = "strange"
    acting = 1.0

    def members(self, recording: Path) -> list[Path]:
        parts = [recording / part for part in layout.DIRECTORIES if (recording / part).is_dir()]
        files = [each for part in parts for each in list_directory(part)]
        made = [recording / "lock", recording / f"{NAME}.tmp", *(part / "00000001.seg.tmp" for part in parts)]
        return [recording / NAME, *parts, *files, *made]

    def samples(self) -> Sequence[bytes]:
        return [b"0"] * len(self.places)

    def forge(self, _data: bytes, rng: Random, _change: Change) -> bytes:
        return b"%d" % rng.randrange(1 << 30)

    def run(self, place: int, data: bytes, act: str | None) -> list[RevirtError]:
        digits = bytes(each for each in data if chr(each).isdigit())[:9]
        path = self.places[place]
        recording = self.directory / path.relative_to(self.directory).parts[0]
        try:
            self._put(path, Random(int(digits or b"0")))
            if act == "repair" and path.name != NAME:
                interrupt(recording)
            refused: list[RevirtError] = []
            if act is not None:
                with self.reading(refused, may_write=act in WRITERS):
                    self.act(recording, path, act)
            return refused
        finally:
            self.scene.restore(recording.name)

    def _put(self, path: Path, rng: Random) -> None:
        """Put something at *path*, or beside it."""
        if rng.random() < 0.1:
            path = path.with_name(rng.choice(_NAMES))
        if path.is_dir():
            path.rename(path.with_name(f"{path.name}-away"))
        else:
            with suppress(FileNotFoundError):
                path.unlink()
        match rng.choice(
            ("link", "link", "link", "fifo", "directory", "socket", "sparse", "nothing", "deep")
        ):
            case "link":
                path.symlink_to(rng.choice(self._targets(path)))
            case "fifo":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
            case "socket":
                with socket.socket(socket.AF_UNIX) as made, suppress(OSError):  # names may be too long
                    made.bind(os.path.relpath(path))
            case "sparse":
                path.touch()
                os.truncate(path, rng.choice((1, 72, 4096, 1 << 20, 1 << 33, 1 << 42)))
            case "deep":
                path.mkdir()
                os.makedirs(path / "/".join("d" * 40))

    def _targets(self, path: Path) -> list[str]:
        """Return what a link at *path* may lead to: mostly something outside."""
        outside = self.scene.outside
        return [
            *(str(each) for each in (outside / path.relative_to(self.directory), outside / "bait", outside)),
            *(str(outside / "nothing"), "/dev/zero", "/dev/full", "/proc/self/mem"),
            *(path.name, "..", ".", f"{path.name}-away", "../lock"),
        ]


_NAMES = (
    *("00000000.seg", "00000001.seg", "00000009.seg", "9999999999.seg", "000000001.seg", "00000000.ckpt"),
    *("00000000.pages", "99999999.pages", "log", "\x1b[2J.seg", "new\nline", "n" * 200, "\udcff", "x.tmp"),
    *("latest", "manifest.json.damaged", "00000000.seg.damaged", "00000001.seg.tmp", "lock"),
)
"""Names to use for a change."""
