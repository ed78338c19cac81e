"""Files that commands write: new ones, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from revirt.errors import RevirtError
from revirt.recording.packing import rename_new


@contextmanager
def new_file(target: Path, *, force: bool | None = None) -> Iterator[BinaryIO]:
    """Give a file to write, which has the name *target* when the block ends well; else nothing is left of it.

    *force* says whether -f was given, None of a command that has no such option.  Raises RevirtError if there is
    something at *target* and it was not, or if it cannot be written.
    """
    if not force and os.path.lexists(target):
        raise _exists(target, force)
    temporary = target.with_name(f".revirt-{secrets.token_hex(8)}")
    try:
        try:
            with open(temporary, "xb") as file:
                yield file
            if force:
                os.replace(temporary, target)
            else:
                rename_new(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise _exists(target, force) from error
    except OSError as error:
        problem = error.strerror or str(error)
        raise RevirtError(
            f"cannot write {target}: {problem}", hint="choose a place with free space"
        ) from error


def write_new(target: Path, data: bytes) -> None:
    """Write *data* to the new file *target*; raises as `new_file`."""
    with new_file(target) as file:
        file.write(data)


def _exists(target: Path, force: bool | None) -> RevirtError:
    instead = "" if force is None else ", or replace it with -f"
    return RevirtError(f"{target} exists already", hint=f"choose another name{instead}")
