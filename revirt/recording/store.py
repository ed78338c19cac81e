"""Where recordings are kept, and how they are named: a directory with ``latest`` pointing to the newest."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from revirt.errors import HostError, NoRecordingError, RecordingError
from revirt.recording import layout
from revirt.recording.disks import bases_named
from revirt.recording.manifest import NAME, Manifest

LATEST = "latest"


def recordings_dir() -> Path:
    """Return the directory that recordings go to: ``$REVIRT_DIR``, else ``~/.local/share/revirt``."""
    chosen = os.environ.get("REVIRT_DIR")
    try:
        return Path(chosen).absolute() if chosen else Path.home() / ".local/share/revirt"
    except RuntimeError as error:
        raise HostError("there is no home directory for recordings", hint="set REVIRT_DIR") from error


def new_path(guest_name: str) -> Path:
    """Return a path in `recordings_dir` for a recording of *guest_name*, named for it and the local time."""
    # A guest may be named by the path of its image.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", guest_name).strip(".-")[:64] or "guest"
    base = recordings_dir() / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    path, suffix = base, 1
    while os.path.lexists(path):
        suffix += 1
        path = base.with_name(f"{base.name}-{suffix}")
    return path


def is_recording(path: Path) -> bool:
    """Return whether *path* is a directory with a manifest (or a link to one)."""
    try:
        return (path / NAME).is_file()
    except OSError:
        # Not allowed to look, or no name that a file could have.
        return False


def latest() -> Path:
    """Return the newest recording in `recordings_dir`; raises NoRecordingError if there is none."""
    link = recordings_dir() / LATEST
    if not is_recording(link):
        raise NoRecordingError(link, hint="nothing was recorded yet; begin with 'revirt record GUEST'")
    return link.resolve()


def resolve(text: str) -> Path:
    """Return the recording that *text* names: ``latest``, a path, or a name in `recordings_dir`.

    Raises NoRecordingError with names that look like it.
    """
    if text == LATEST:
        return latest()
    path = Path(text)
    if text and is_recording(path):
        return path
    directory = recordings_dir()
    if path.name == text and is_recording(directory / text):
        return directory / text
    names = get_close_matches(path.name, [each.name for each in list_recordings()], n=3, cutoff=0.4)
    if names:
        raise NoRecordingError(path, hint=f"did you mean {' or '.join(names)}?")
    raise NoRecordingError(path)


def list_recordings() -> list[Path]:
    """Return the recordings in `recordings_dir`, oldest first (damaged ones before all others)."""
    directory = recordings_dir()
    try:
        paths = [path for path in directory.iterdir() if not path.is_symlink() and is_recording(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RecordingError(f"cannot read {directory}: {error.strerror}") from error
    return sorted(paths, key=lambda path: (_created(path), path.name))


def set_latest(path: Path) -> None:
    """Let ``latest`` name *path* if that is in `recordings_dir`."""
    directory = recordings_dir()
    if path.absolute().parent != directory:
        return
    link = directory / LATEST
    if os.path.lexists(link) and not link.is_symlink():
        return
    temporary = directory / f".{LATEST}-{os.getpid()}"
    # A convenience: a recording does not fail for want of it.
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.name)
        os.replace(temporary, link)


def own_path(path: Path) -> Path:
    """Return *path* with its directory free of links.

    Raises NoRecordingError if it is not a recording itself: a link to one is not.
    """
    path = path.parent.resolve() / path.name if path.name else path.resolve()
    if path.is_symlink() or not is_recording(path) or not (path / layout.LOG).is_dir():
        raise NoRecordingError(path)
    return path


def is_latest(path: Path) -> bool:
    """Return whether ``latest`` names the recording *path*, which `own_path` returned."""
    link = recordings_dir() / LATEST
    return link.is_symlink() and link.resolve() == path


def update_latest(path: Path, *, was_latest: bool) -> None:
    """Let ``latest`` be right after a recording was moved to *path*, which is free of links.

    *was_latest* is what `is_latest` said before.
    """
    directory = recordings_dir()
    is_kept_there = path.parent == directory.resolve()
    if is_kept_there and (was_latest or _created(path) > _created(directory / LATEST)):
        set_latest(directory / path.name)
    elif was_latest:
        _forget_latest()


def remove(path: Path) -> None:
    """Delete the recording in the directory *path*.

    Raises NoRecordingError if *path* is not one itself (a link to one is not), RecordingError if it is being
    recorded, holds files that revirt did not put there, or cannot be deleted.
    """
    path = own_path(path)
    if layout.is_locked(path):
        raise RecordingError(f"{path} is still being recorded", hint="stop its recorder first")
    try:
        foreign = sorted(set(os.listdir(path)) - layout.ENTRIES)
        if foreign:
            hint = "move away what is not part of the recording"
            raise RecordingError(f"{path} also holds {foreign[0]!r}", hint=hint)
        # Else all in it would go before that is noticed.
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # Does not follow links inside, also not those put there while it is at work.
        with bases_named(path):
            shutil.rmtree(path)
    except OSError as error:
        raise RecordingError(f"cannot delete {path}: {error.strerror}") from error
    _forget_latest()


def _forget_latest() -> None:
    """Let ``latest`` name the newest recording that is left, if what it named is gone."""
    link = recordings_dir() / LATEST
    if not link.is_symlink() or is_recording(link):
        return
    left = list_recordings()
    if left:
        set_latest(left[-1])
    else:
        link.unlink(missing_ok=True)


def _created(path: Path) -> str:
    try:
        return Manifest.read(path / NAME).created
    except RecordingError:
        return ""
