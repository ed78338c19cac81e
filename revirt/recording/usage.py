"""How much space a recording takes: the sizes of its files, whatever is in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import RecordingError
from revirt.image.sparse import allocated_size
from revirt.recording import layout

_PARTS = {
    layout.LOG: "log",
    layout.CHECKPOINTS: "checkpoints",
    layout.PAGES: "pages",
    layout.INDEX: "index",
    layout.DISKS: "disks",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes in the files of a recording, by part; ``other`` is what is in none of the directories named.

    ``disks`` are what images of disks take that have no other name: the others take nothing of their own.
    """

    log: int = 0
    checkpoints: int = 0
    pages: int = 0
    index: int = 0
    disks: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.log + self.checkpoints + self.pages + self.index + self.disks + self.other

    def __add__(self, added: Usage) -> Usage:
        return Usage(
            self.log + added.log,
            self.checkpoints + added.checkpoints,
            self.pages + added.pages,
            self.index + added.index,
            self.disks + added.disks,
            self.other + added.other,
        )


def disk_usage(path: Path) -> Usage:
    """Return how much space the directory *path* takes, a recording in whatever state.

    Links count as themselves, and are not followed.  Raises RecordingError for what cannot be looked at.
    """
    sizes = dict.fromkeys((*_PARTS.values(), "other"), 0)
    for entry, size in _files(path):
        sizes[_PARTS.get(entry.relative_to(path).parts[0], "other")] += size
    return Usage(**sizes)


def _files(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield everything below *directory* that is no directory, with its size in bytes."""
    # Not os.walk: until Python 3.12 it calls itself, and directories can be nested deeper than that goes.
    waiting = [directory]
    while waiting:
        at = waiting.pop()
        try:
            for name in os.listdir(at):
                try:
                    found = os.lstat(at / name)
                except FileNotFoundError:
                    continue  # a recorder has renamed or deleted it since
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(at / name)
                else:
                    yield at / name, _size(found, is_image=at == directory / layout.DISKS)
        except OSError as error:
            if at != directory and isinstance(error, FileNotFoundError):
                continue
            raise RecordingError(f"cannot read {at}: {error.strerror}") from error


def _size(found: os.stat_result, *, is_image: bool) -> int:
    if not (is_image and stat.S_ISREG(found.st_mode)):
        return found.st_size
    return allocated_size(found) if found.st_nlink == 1 else 0
