"""Files that commands write: new ones, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from revirt.errors import RevirtError


@contextmanager
def new_file(target: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write, which has the name *target* when the block ends well; else nothing is left of it.

    Raises RevirtError if there is something at *target*, which only *force* replaces, or if it cannot be written.
    """
    if not force and os.path.lexists(target):
        raise _exists(target)
    temporary = target.with_name(f".revirt-{secrets.token_hex(8)}")
    try:
        try:
            with open(temporary, "xb") as file:
                yield file
            _rename(temporary, target, force=force)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        problem = error.strerror or str(error)
        raise RevirtError(
            f"cannot write {target}: {problem}", hint="choose a place with free space with -o"
        ) from error


def _rename(temporary: Path, target: Path, *, force: bool) -> None:
    if force:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError:
        # A file system without links (FAT): there, looking first is all that can be done.
        if os.path.lexists(target):
            raise _exists(target) from None
        os.rename(temporary, target)


def _exists(target: Path) -> RevirtError:
    return RevirtError(f"{target} exists already", hint="choose another name with -o, or replace it with -f")
