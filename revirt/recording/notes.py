"""Bookmarks and notes about a recording, in a file beside it.

A recording is evidence and is not changed by being looked at, so ``attack`` has its notes in ``attack.notes.json``:

    {
      "format": 1,
      "recording": "5f0c...",                                     the uuid of the recording that it is about
      "bookmarks": [
        {"name": "takeover", "position": "2084:0", "note": "grant runs, and nobody calls it"}
      ]
    }

The file is replaced as a whole and may come from anybody; names and notes are single lines.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revirt.errors import CorruptError, FormatVersionError, HostError, RecordingError, UsageError
from revirt.log import strict_json
from revirt.position import Position
from revirt.recording.reader import Recording
from revirt.render import printable

FORMAT = 1
MOST = 10_000
SIZE_LIMIT = 16 << 20
NOTE_LIMIT = 2000
_NAME = re.compile(r"[\w.+-]{1,64}")


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A position with a name, and what somebody wanted to remember of it."""

    name: str
    position: Position
    note: str = ""


def notes_path(recording: Path) -> Path:
    """Return the file with the notes about the recording in the directory *recording*."""
    whole = recording.resolve()
    return whole.with_name(f"{whole.name}.notes.json")


def move_notes(source: Path, target: Path) -> None:
    """Take the notes about a recording along that was moved from *source* to *target*.

    Raises HostError if that fails, and they stay where they were; nothing that is at their new place is overwritten.
    """
    before, after = notes_path(source), notes_path(target)
    if not os.path.lexists(before):
        return
    try:
        # Unlike a rename, a link does not replace anything; between file systems it takes a copy.
        try:
            os.link(before, after, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
                raise
            with before.open("rb") as old, after.open("xb") as new:
                shutil.copyfileobj(old, new)
        before.unlink()
    except OSError as error:
        raise HostError(f"cannot move {before} to {after}: {error.strerror or error}") from error


def remove_notes(recording: Path) -> None:
    """Delete the notes about the recording that was at *recording*; raises HostError if that fails."""
    path = notes_path(recording)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot delete {path}: {error.strerror or error}") from error


class Notes:
    """The bookmarks of *recording*, by name; every change is on disk when the method returns.

    Raises CorruptError if the file is not what this module writes, FormatVersionError if a newer revirt wrote it, and
    RecordingError if it is about another recording.
    """

    def __init__(self, recording: Recording) -> None:
        self.path = notes_path(recording.path)
        self._uuid = recording.manifest.uuid
        self._bookmarks: dict[str, Bookmark] = {}
        self._load()

    @property
    def all(self) -> list[Bookmark]:
        """The bookmarks, in the order of their positions."""
        return sorted(self._bookmarks.values(), key=lambda each: (each.position, each.name))

    def get(self, name: str) -> Bookmark:
        """Return the bookmark *name*; raises UsageError if there is none."""
        try:
            return self._bookmarks[name]
        except KeyError:
            known = ", ".join(self._bookmarks) if len(self._bookmarks) < 20 else "see 'bookmarks'"
            raise UsageError(
                f"there is no bookmark {name!r}",
                hint=f"there are: {known}" if known else "'bookmark NAME' sets one",
            ) from None

    def set(self, bookmark: Bookmark) -> None:
        """Keep *bookmark*, instead of one of the same name.

        Raises UsageError for what is no name, too long a note, or too many; HostError if the file cannot be written.
        """
        if _NAME.fullmatch(bookmark.name) is None:
            raise UsageError(
                f"a bookmark cannot be called {bookmark.name!r}",
                hint="up to 64 letters, digits, '.', '_', '+' or '-'",
            )
        if len(bookmark.note) > NOTE_LIMIT or not bookmark.note.isprintable():
            raise UsageError(f"a note is a line of up to {NOTE_LIMIT} characters")
        self._load()
        if len(self._bookmarks) >= MOST and bookmark.name not in self._bookmarks:
            raise UsageError(f"there are {MOST} bookmarks already")
        self._save({**self._bookmarks, bookmark.name: bookmark})

    def remove(self, name: str) -> None:
        """Forget the bookmark *name*; raises UsageError if there is none, HostError if that cannot be written."""
        self._load()
        self.get(name)
        self._save({key: each for key, each in self._bookmarks.items() if key != name})

    # -- the file ----------------------------------------------------------------------------------------------

    def _save(self, bookmarks: dict[str, Bookmark]) -> None:
        ordered = sorted(bookmarks.values(), key=lambda each: (each.position, each.name))
        plain = {
            "format": FORMAT,
            "recording": self._uuid,
            "bookmarks": [
                {"name": each.name, "position": str(each.position), "note": each.note} for each in ordered
            ],
        }
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with temporary.open("x") as file:
                file.write(json.dumps(plain, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise HostError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._bookmarks = bookmarks

    def _load(self) -> None:
        """Take up what is in the file: somebody else may have changed it meanwhile."""
        self._bookmarks = {each.name: each for each in self._read()}

    def _read(self) -> list[Bookmark]:
        try:
            # Whoever put something else there must not make it wait, or lead it elsewhere.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                data = file.read(SIZE_LIMIT + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RecordingError(f"cannot read {self.path}: {error.strerror or error}") from error
        if len(data) > SIZE_LIMIT:
            raise self._damaged(f"more than {SIZE_LIMIT >> 20} MiB")
        try:
            plain = strict_json.read(data)
        except ValueError as error:
            raise self._damaged(f"not JSON: {error}") from error
        return self._checked(plain)

    def _checked(self, plain: Any) -> list[Bookmark]:
        match plain:
            case {"format": int(version)} if version > FORMAT:
                raise FormatVersionError(self.path, version, FORMAT, what="notes")
            case {"format": 1, "recording": str(uuid), "bookmarks": list(items)}:
                pass
            case _:
                raise self._damaged("not notes of revirt")
        if uuid != self._uuid:
            raise RecordingError(
                f"{self.path} has the notes of another recording, {printable(uuid[:64])}",
                hint="move it away, or back to the recording it belongs to",
            )
        found = [self._bookmark(number, item) for number, item in enumerate(items)]
        if len({each.name for each in found}) < len(found) or len(found) > MOST:
            raise self._damaged("a name stands there twice" if len(found) <= MOST else "too many bookmarks")
        return found

    def _bookmark(self, number: int, item: Any) -> Bookmark:
        match item:
            case {"name": str(name), "position": str(position), "note": str(note)} if (
                _NAME.fullmatch(name) and len(note) <= NOTE_LIMIT and note.isprintable()
            ):
                with contextlib.suppress(ValueError):
                    return Bookmark(name, Position.parse(position), note)
        raise self._damaged(f"bookmark {number} is none")

    def _damaged(self, problem: str) -> CorruptError:
        return CorruptError(
            self.path, problem, hint="mend it, or move it away: the recording does not need it"
        )
