"""What the disks of a recorded machine held at first: images pinned by digest, kept beside the recording.

    disks/<n>    the image of disk n: a clone, a hard link or a copy of it, or a symbolic link to where it is

An image is no part of the recording: nothing in it is verified, sealed, or packed unless that is asked for, and it may
be gone or be brought from elsewhere.  What is part of it is the image's digest, in the manifest; nobody replays over
another.

Rules:
- A recording has its image whatever happens to the file that it was made from, where the file system lets it: only
  changes in place reach a hard link, and a symbolic link is all that leads to another file system.
- What lies in a recording already is copied rather than linked to: a recording needs no other one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import GuestError, HostError, RecordingError, UsageError
from revirt.image.base import BaseImage, Progress, digests_kept
from revirt.machine.devices import Disk
from revirt.recording import layout
from revirt.recording.manifest import NAME


@dataclass(frozen=True, slots=True)
class FoundBase:
    """Where the image of disk *number* is, and the *problem* with it, if one was found."""

    number: int
    disk: Disk
    path: Path
    problem: str | None = None


def keep_bases(path: Path, images: Sequence[BaseImage]) -> None:
    """Keep the *images* of its disks beside the recording *path*; raises OSError."""
    if images:
        (path / layout.DISKS).mkdir(exist_ok=True)
    for number, image in enumerate(images):
        image.keep(base_path(path, number), is_copied=_is_kept(image.path))


def share_bases(source: Path, target: Path, count: int) -> None:
    """Give the recording *target* the images of the *count* disks that the recording *source* has; raises OSError."""
    for number in range(count):
        place, ours = base_path(source, number), base_path(target, number)
        ours.parent.mkdir(exist_ok=True)
        try:
            image = BaseImage.open(place)
        except GuestError:
            # Gone, but it may come back.
            if place.is_symlink():
                ours.symlink_to(os.readlink(place))
            continue
        try:
            image.keep(ours, is_copied=_is_kept(place))
        finally:
            image.close()


def base_path(path: Path, number: int) -> Path:
    """Return the name in the recording *path* of the image of disk *number*."""
    return path / layout.DISKS / str(number)


def bases_named(path: Path) -> AbstractContextManager[None]:
    """While the block runs, the images of the recording *path* may get or lose names; their digests stay known."""
    places = []
    with suppress(OSError):
        places = [each for each in (path / layout.DISKS).iterdir() if not each.is_symlink()]
    return digests_kept(places)


def open_bases(path: Path, disks: Sequence[Disk], progress: Progress | None = None) -> list[BaseImage]:
    """Return the images of *disks*, those of the recording *path*, each found to be the one that it was made with.

    Raises RecordingError, naming the disk, if one is missing or another, HostError if one cannot be read.
    """
    return [_open(path, number, base_path(path, number), disk, progress) for number, disk in enumerate(disks)]


def find_bases(path: Path, disks: Sequence[Disk]) -> Iterator[FoundBase]:
    """Yield where the images of *disks*, those of the recording *path*, are; of their contents only the size counts."""
    for number, disk in enumerate(disks):
        place = base_path(path, number)
        where = Path(os.readlink(place)) if place.is_symlink() else place
        problem = None
        try:
            image = BaseImage.open(place)
        except GuestError:
            problem = "missing"
        else:
            problem = None if image.size == disk.size else f"another: it has {image.size} bytes"
            image.close()
        yield FoundBase(number, disk, where, problem)


def check_bases(path: Path, disks: Sequence[Disk], progress: Progress | None = None) -> Iterator[FoundBase]:
    """Yield the same, all of every image having been read and compared with its digest."""
    for found in find_bases(path, disks):
        problem = found.problem
        if problem is None:
            try:
                _open(path, found.number, found.path, found.disk, progress, fresh=True).close()
            except (RecordingError, HostError) as error:
                problem = str(error)
        yield FoundBase(found.number, found.disk, found.path, problem)


def attach_base(
    path: Path, disks: Sequence[Disk], number: int, image: Path, progress: Progress | None = None
) -> Path:
    """Let the file *image* be that of disk *number* of the recording *path*; return where it is kept.

    Raises RecordingError if it is another image, or cannot be kept, UsageError if there is no such disk.
    """
    check_number(path, disks, number)
    base = _open(path, number, image, disks[number], progress)
    place = base_path(path, number)
    temporary = place.with_name(f"{number}.tmp")
    try:
        place.parent.mkdir(exist_ok=True)
        temporary.unlink(missing_ok=True)
        with bases_named(path):
            base.keep(temporary)
            # Two names of one file cannot take each other's place: that does nothing.
            place.unlink(missing_ok=True)
            temporary.replace(place)
    except OSError as error:
        raise RecordingError(f"{place} cannot be made: {error.strerror}") from error
    finally:
        base.close()
    return find_one(path, disks, number).path


def find_one(path: Path, disks: Sequence[Disk], number: int) -> FoundBase:
    """Return where the image of disk *number* is, as `find_bases` does."""
    return next(each for each in find_bases(path, disks) if each.number == number)


def check_number(path: Path, disks: Sequence[Disk], number: int) -> None:
    """Raise UsageError if the recording *path* has no disk *number*."""
    if not 0 <= number < len(disks):
        has = "no disk" if not disks else "only disk 0" if len(disks) == 1 else f"disks 0 to {len(disks) - 1}"
        raise UsageError(f"{path.name} has {has}; there is no disk {number}")


def _open(
    path: Path, number: int, place: Path, disk: Disk, progress: Progress | None, *, fresh: bool = False
) -> BaseImage:
    where = os.readlink(place) if place.is_symlink() else str(place)
    try:
        image = BaseImage.open(place)
    except GuestError as error:
        raise RecordingError(
            f"the image of disk {number} of {path.name} is not to be had: {error}", hint=_hint(path, number)
        ) from error
    if image.size != disk.size or image.digest(progress, fresh=fresh) != disk.sha256:
        image.close()
        raise RecordingError(
            f"{where} is not the image that disk {number} of {path.name} was recorded with: its SHA-256 differs",
            hint=_hint(path, number),
        )
    return image


def _is_kept(path: Path) -> bool:
    """Return whether the file *path* is an image that lies in a recording."""
    directory = path.absolute().parent
    return directory.name == layout.DISKS and (directory.parent / NAME).is_file() and not path.is_symlink()


def _hint(path: Path, number: int) -> str:
    return f"say where it is: revirt disk {path.name} --number {number} --base FILE"
