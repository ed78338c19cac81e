"""What the disks of a recorded machine held at first: images beside the recording, pinned by digest.

    disks/<n>    a symbolic link to the image of disk n

An image is no part of the recording: it is not packed, sealed or copied, and may be anywhere.  What is part of it is
the image's digest, in the manifest; nobody replays over another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from revirt.errors import GuestError, RecordingError, UsageError
from revirt.image.base import BaseImage, Progress
from revirt.machine.devices import Disk
from revirt.recording import layout


def link_bases(path: Path, images: Sequence[Path]) -> None:
    """Note in the recording *path* where the *images* of its disks are; raises OSError."""
    if images:
        (path / layout.DISKS).mkdir(exist_ok=True)
    for number, image in enumerate(images):
        (path / layout.DISKS / str(number)).symlink_to(image.absolute())


def base_paths(path: Path, count: int) -> list[Path]:
    """Return where the images of the *count* disks of the recording *path* are, as far as that is noted."""
    return [path / layout.DISKS / str(number) for number in range(count)]


def open_bases(path: Path, disks: Sequence[Disk], progress: Progress | None = None) -> list[BaseImage]:
    """Return the images of *disks*, those of the recording *path*, each found to be the one that it was made with.

    Raises RecordingError, naming the disk, if one is missing or another.
    """
    return [
        _open(path, number, link, disk, progress)
        for number, (link, disk) in enumerate(zip(base_paths(path, len(disks)), disks, strict=True))
    ]


def attach_base(
    path: Path, disks: Sequence[Disk], number: int, image: Path, progress: Progress | None = None
) -> None:
    """Note that the image of disk *number* of the recording *path* is at *image*.

    Raises RecordingError if it is another image, or that cannot be noted, UsageError if there is no such disk.
    """
    if not 0 <= number < len(disks):
        raise UsageError(f"{path.name} has {len(disks)} disks, counted from 0; there is no disk {number}")
    _open(path, number, image, disks[number], progress)
    link = path / layout.DISKS / str(number)
    temporary = link.with_name(f"{number}.tmp")
    try:
        link.parent.mkdir(exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(image.absolute())
        temporary.replace(link)
    except OSError as error:
        raise RecordingError(f"{link} cannot be made: {error.strerror}") from error


def _open(path: Path, number: int, place: Path, disk: Disk, progress: Progress | None) -> BaseImage:
    where = os.readlink(place) if place.is_symlink() else str(place)
    try:
        image = BaseImage.open(place)
    except GuestError as error:
        raise RecordingError(
            f"the image of disk {number} of {path.name} is not at {where}: {error}", hint=_hint(path, number)
        ) from error
    if image.size != disk.size or image.digest(progress) != disk.sha256:
        image.close()
        raise RecordingError(
            f"{where} is not the image that disk {number} of {path.name} was recorded with: its SHA-256 differs",
            hint=_hint(path, number),
        )
    return image


def _hint(path: Path, number: int) -> str:
    return f"say where it is: revirt disk {path.name} --number {number} --base FILE"
