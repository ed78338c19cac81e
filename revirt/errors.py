"""What can go wrong, named for what the caller can do about it.

    RevirtError
    ├── UsageError            the command line or an argument is wrong          exit 2
    ├── GuestError            a guest, its image or its script                  exit 1
    │   ├── UnknownGuestError     no such guest; carries the nearest names
    │   ├── ImageError            the image cannot be loaded into this machine
    │   ├── BuildError            a guest could not be built
    │   └── ScriptError           a script line is wrong, or timed out
    ├── HostError             this host cannot run the CPU core, or is full     exit 1
    ├── RecordingError        a recording on disk                               exit 4
    │   ├── RecordingExistsError  it would be overwritten
    │   ├── NoRecordingError      there is none
    │   ├── EvictedError          a circular one, being recorded, has let go of it
    │   ├── CorruptError          bytes are not what was written: file, offset
    │   ├── FormatVersionError    written by a newer revirt
    │   └── SealError             a signature, a proof or a certificate does not hold
    ├── KeyFileError          a file with a key: missing, malformed, readable by others     exit 1
    ├── InterruptedSeekError  somebody did not want to wait; nothing has moved  exit 130
    └── DivergenceError       a replay did not do what was recorded             exit 3

Errors are translated into these once, where a foreign exception enters, and mapped to an exit status once,
in the command line.  ``hint`` says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from revirt.position import Position


class RevirtError(Exception):
    """Base of every error revirt raises on purpose; ``hint`` is a sentence for the user, or empty."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(RevirtError):
    """The command line or an argument is wrong."""

    exit_status = 2


class GuestError(RevirtError):
    """Something about the guest: its description, image or script."""


class UnknownGuestError(GuestError):
    """No guest of that name; ``nearest`` are names that look like it."""

    def __init__(self, name: str, nearest: Sequence[str] = ()) -> None:
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see 'revirt guest list'"
        super().__init__(f"no guest is called {name!r}", hint=hint)
        self.name = name
        self.nearest = tuple(nearest)


class ImageError(GuestError):
    """An image file cannot be loaded; ``path`` is the file, where there is one."""

    def __init__(self, message: str, *, path: Path | None = None, hint: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message, hint=hint)
        self.path = path


class BuildError(GuestError):
    """A guest could not be built."""


class ScriptError(GuestError):
    """A console script is malformed or timed out; ``line`` is the line number, from 1."""

    def __init__(self, message: str, *, path: str, line: int, hint: str = "") -> None:
        super().__init__(f"{path}:{line}: {message}", hint=hint)
        self.path = path
        self.line = line


class HostError(RevirtError):
    """The host cannot do what is asked: wrong Unicorn, no memory, disk full."""


class RecordingError(RevirtError):
    """Something about a recording on disk."""

    exit_status = 4


class RecordingExistsError(RecordingError):
    """The output directory exists already; recordings are never overwritten."""

    def __init__(
        self, path: Path, *, hint: str = "choose another directory with -o, or delete it with 'revirt rm'"
    ) -> None:
        super().__init__(f"{path} exists already; a recording is never overwritten", hint=hint)
        self.path = path


class NoRecordingError(RecordingError):
    """There is no recording at that path."""

    def __init__(
        self, path: Path, problem: str = "is not a recording", *, hint: str = "see 'revirt ls'"
    ) -> None:
        super().__init__(f"{path} {problem}", hint=hint)
        self.path = path


class EvictedError(RecordingError):
    """What was to be read of a circular recording has been let go of by its recorder since it was opened."""


class CorruptError(RecordingError):
    """Bytes in a recording are not what was written there."""

    def __init__(
        self,
        path: Path,
        problem: str,
        *,
        offset: int | None = None,
        hint: str = "'revirt verify' lists what is damaged",
    ) -> None:
        where = f"{path}" if offset is None else f"{path} at byte {offset}"
        super().__init__(f"{where}: {problem}", hint=hint)
        self.path = path
        self.problem = problem
        self.offset = offset


class FormatVersionError(RecordingError):
    """Something in a recording is of a version that this revirt does not know yet.

    ``what`` has that version: the format of the file ``path``, or something that the file holds.
    """

    def __init__(self, path: Path, found: int, known: int, *, what: str = "format") -> None:
        super().__init__(
            f"{path} has {what} version {found}; this revirt reads up to {known}",
            hint="install a newer revirt",
        )
        self.path = path
        self.found = found
        self.known = known
        self.what = what


class SealError(RecordingError):
    """Something that was to prove a recording does not: it is malformed, or does not match what it is about."""


class KeyFileError(RevirtError):
    """A file with a key cannot be used or made; ``path`` is the file, ``problem`` what is wrong."""

    def __init__(self, path: Path, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {problem}", hint=hint)
        self.path = path
        self.problem = problem


class InterruptedSeekError(RevirtError):
    """A move on a timeline to a place was ended by somebody; it stands at ``position``, where it began."""

    exit_status = 130

    def __init__(self, position: Position) -> None:
        super().__init__(f"interrupted, still at {position}")
        self.position = position


class DivergenceError(RevirtError):
    """The replay did something else than the recorded run.

    ``position`` is where it was noticed, ``what`` names the thing (an event kind, ``cpu``, ``ram``, a device),
    ``expected`` and ``found`` describe what was recorded and what came.
    """

    exit_status = 3

    def __init__(self, position: Position, what: str, *, expected: str, found: str) -> None:
        super().__init__(f"diverged at {position}: {what}: recorded {expected}, replayed {found}")
        self.position = position
        self.what = what
        self.expected = expected
        self.found = found
