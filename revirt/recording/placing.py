"""A recording that is made as a whole gets its name when it is whole, or nothing is left of it.

Rules:
- It is made in a new directory that nobody else may enter, beside the one it is to become.
- It is on the disk before it has its name, and takes nobody's place.
- It is not what ``latest`` names: that is for what was recorded here, unless there is nothing else.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from revirt.errors import RecordingExistsError
from revirt.recording import store
from revirt.recording.packing import sync

# A level deeper than recordings are looked for: what is left after a kill is none.
_NAME = "recording"


@contextmanager
def new_recording(target: Path, prefix: str) -> Iterator[Path]:
    """Give an empty directory to make a recording in, which becomes *target*, an absolute path, when the block ends.

    Until then it is in a directory whose name begins with *prefix*.  When the block fails, or is interrupted, nothing
    is left behind.  Raises RecordingExistsError if there is something at *target*, and OSError; also if only that
    *target* is there now could not be synced.
    """
    refuse_existing(target)
    with _scratch(target.parent, prefix) as scratch:
        made = scratch / _NAME
        made.mkdir()
        yield made
        _sync_all(made)
        _place(made, target)
    if not store.is_recording(store.recordings_dir() / store.LATEST):
        store.set_latest(target)


def refuse_existing(target: Path) -> None:
    """Raise RecordingExistsError if there is something at *target*."""
    if os.path.lexists(target):
        raise RecordingExistsError(target)


@contextmanager
def _scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a new directory in *parent*, which is made if need be; both go again if the block fails.

    Raises OSError.
    """
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise
    sync(parent)


def _sync_all(made: Path) -> None:
    """Have the host write down everything in the directory *made*; raises OSError."""
    for directory, _, names in os.walk(made):
        for name in names:
            sync(Path(directory, name))
        sync(Path(directory))


def _place(made: Path, target: Path) -> None:
    """Rename the directory *made* to *target*; raises RecordingExistsError if there is something, OSError."""
    refuse_existing(target)
    try:
        # Takes the place of nothing but an empty directory, if one was made just now.
        made.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise RecordingExistsError(target) from error
        raise
