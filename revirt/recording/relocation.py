"""Giving a recording another name or another place.

Rules:
- Nothing is overwritten: the new name is taken by making a directory, which succeeds only where there is nothing.
- A recording is at its new place whole or not at all, and is not touched at the old one before it is.  Between two
  file systems it is copied beside its new place, compared and verified there, and renamed; only then the old one goes.
- Images of disks go with it; one that is elsewhere stays there, and is where it was for the recording at its new place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from revirt.errors import CorruptError, GuestError, RecordingError, RecordingExistsError, UsageError
from revirt.image.base import BaseImage
from revirt.recording import layout, manifest, store
from revirt.recording.disks import bases_named
from revirt.recording.reader import Recording

_READ_SIZE = 1 << 20


def move(source: Path, target: Path) -> Path:
    """Move the recording in the directory *source* to *target*, where there is nothing yet; return where it is.

    The ``latest`` link goes on naming the newest recording of its directory.

    Raises NoRecordingError if *source* is not a recording itself (a link to one is not), RecordingExistsError if there
    is something at *target*, UsageError if that is inside *source*, and RecordingError if the recording is being
    made or cannot be moved.  Across file systems also CorruptError: only what is intact is copied.  After an error
    the recording is where it was.
    """
    source = store.own_path(source)
    target = _absolute(target)
    if target.is_relative_to(source) and target != source:
        raise UsageError(f"{target} is inside the recording")
    was_latest = store.is_latest(source)
    with _kept_from_writers(source):
        try:
            _rename(source, target)
            copied = None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise _failure(source, error) from error
            copied = _copy_across(source, target)
        try:
            if copied is not None:
                _delete_copied(source, target, copied)
        finally:
            store.update_latest(target, was_latest=was_latest)
    return target


def move_target(source: Path, text: str) -> Path:
    """Return where *text* asks for the recording *source* to be moved to.

    A name alone is another name beside where it is; an existing directory that is no recording is one to move into;
    anything else is the path itself.  Raises UsageError for what cannot be a name.
    """
    source, path = store.own_path(source), Path(text)
    if not text or "\0" in text or path.name == store.LATEST:
        raise UsageError(f"a recording cannot be called {text!r}")
    if path.name == text and text != "..":
        return source.parent / text
    if path.is_dir() and not store.is_recording(path):
        return path / source.name
    return path


def _absolute(path: Path) -> Path:
    """Return *path* with its directory free of links."""
    try:
        return path.parent.resolve(strict=True) / path.name if path.name else path.resolve(strict=True)
    except OSError as error:
        raise RecordingError(f"{path.parent}: {error.strerror}", hint="make the directory first") from error


@contextmanager
def _kept_from_writers(path: Path) -> Iterator[None]:
    """Keep those who would write to the recording *path* away; raises RecordingError if one is at work."""
    try:
        lock = os.open(path / layout.LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield  # without a lock nobody can be recording
        return
    try:
        # Shared, so that a reader, who asks in the same way, does not take this for a recorder.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if layout.is_locked(path):
            raise RecordingError(f"{path} is still being recorded", hint="stop its recorder first")
        yield
    finally:
        os.close(lock)


def _rename(source: Path, target: Path) -> None:
    """Rename the directory *source*; raises RecordingExistsError if there is something at *target*, and OSError."""
    try:
        target.mkdir()
    except FileExistsError as error:
        raise RecordingExistsError(
            target, hint="choose another name, or delete it with 'revirt rm'"
        ) from error
    try:
        # Takes the place of an empty directory, and of nothing else.
        os.rename(source, target)
    except OSError:
        with contextlib.suppress(OSError):
            target.rmdir()
        raise


@dataclass(frozen=True, slots=True)
class _Contents:
    """What is in a directory, as paths relative to it: what contains comes before what is contained.

    ``images`` are of disks, and ``links`` lead to such.
    """

    directories: list[Path]
    files: list[Path]
    images: list[Path]
    links: list[Path]

    @property
    def all_files(self) -> list[Path]:
        """Everything but directories; the manifest comes first."""
        return sorted([*self.files, *self.images, *self.links], key=lambda file: file != Path(manifest.NAME))


def _copy_across(source: Path, target: Path) -> _Contents:
    """Copy *source* to *target*, on another file system; return what was copied."""
    Recording.open(source)  # what is wrong with its manifest shows before anything is copied
    try:
        # A level deeper than recordings are looked for: what is left of a copy that was cut short is none.
        temporary = Path(tempfile.mkdtemp(prefix=".revirt-moving-", dir=target.parent))
        try:
            copy, contents = temporary / target.name, _contents(source)
            _copy(source, copy, contents)
            _check(source, copy, contents)
            _rename(copy, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise _failure(source, error) from error
    return contents


def _contents(path: Path) -> _Contents:
    """Return what is in *path*; raises RecordingError for what is neither file nor directory, and OSError."""
    directories, files, images, links = [Path()], list[Path](), list[Path](), list[Path]()
    for at in directories:
        is_of_disks = at == Path(layout.DISKS)
        for name in sorted(os.listdir(path / at)):
            mode = os.lstat(path / at / name).st_mode
            if stat.S_ISDIR(mode):
                directories.append(at / name)
            elif stat.S_ISREG(mode):
                (images if is_of_disks else files).append(at / name)
            elif stat.S_ISLNK(mode) and is_of_disks:
                links.append(at / name)
            else:
                raise RecordingError(
                    f"cannot copy {path / at / name}, which is neither a file nor a directory"
                )
    return _Contents(directories, files, images, links)


def _copy(source: Path, copy: Path, contents: _Contents) -> None:
    for each in contents.directories:
        (copy / each).mkdir()
    for each in contents.files:
        shutil.copy2(source / each, copy / each, follow_symlinks=False)
        _sync(copy / each)
    for each in contents.images:
        _copy_image(source / each, copy / each)
    for each in contents.links:
        (copy / each).symlink_to(os.readlink(source / each))
    for each in contents.directories:
        shutil.copystat(source / each, copy / each)
        _sync(copy / each)


def _check(source: Path, copy: Path, contents: _Contents) -> None:
    """Compare *copy* with *source*, and verify it; raises CorruptError."""
    for each in (*contents.files, *contents.images):
        if not _is_same(source / each, copy / each):
            raise CorruptError(source / each, "changed while it was being copied")
    for finding in islice(Recording.open(copy).verify(), 1):
        raise CorruptError(source / finding.path.relative_to(copy), finding.problem, offset=finding.offset)


def _is_same(one: Path, other: Path) -> bool:
    with open(one, "rb") as ours, open(other, "rb") as theirs:
        while data := ours.read(_READ_SIZE):
            if theirs.read(_READ_SIZE) != data:
                return False
        return not theirs.read(1)


def _copy_image(source: Path, target: Path) -> None:
    """Copy the image of a disk, of which it stays known what it is; raises CorruptError and OSError."""
    try:
        image = BaseImage.open(source)
    except GuestError as error:
        raise CorruptError(source, str(error)) from error
    try:
        image.keep(target, is_copied=True)
    finally:
        image.close()
    _sync(target)


def _sync(path: Path) -> None:
    """Have the host write *path*, a file or a directory, before what follows."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete_copied(source: Path, target: Path, contents: _Contents) -> None:
    """Delete from *source* what was copied to *target*, and nothing else; raises RecordingError."""
    try:
        with bases_named(source):
            # The manifest first: without it, what is left after an interruption is no recording.
            for each in contents.all_files:
                (source / each).unlink()
            for each in reversed(contents.directories):
                (source / each).rmdir()
    except OSError as error:
        problem = f"{target} is whole, but what it was copied from cannot be deleted: {_reason(error)}"
        raise RecordingError(problem, hint=f"delete {source} yourself") from error


def _failure(source: Path, error: OSError) -> RecordingError:
    return RecordingError(f"cannot move {source}: {_reason(error)}")


def _reason(error: OSError) -> str:
    return (
        f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror or error)
    )
