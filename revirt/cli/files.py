"""Files that commands make: new ones only."""

from __future__ import annotations

from pathlib import Path

from revirt.errors import RevirtError
from revirt.log.frame import write_all


def write_new(path: Path, data: bytes) -> None:
    """Write *data* to the new file *path*; what was written of it goes again if it cannot be.

    Raises RevirtError if there is a file of that name, or it cannot be written.
    """
    try:
        with open(path, "xb", buffering=0) as file:
            try:
                write_all(file, data)
            except OSError:
                path.unlink()
                raise
    except FileExistsError as error:
        raise RevirtError(f"{path} exists already", hint="choose another name with -o") from error
    except OSError as error:
        problem = error.strerror or str(error)
        raise RevirtError(
            f"cannot write {path}: {problem}", hint="choose a place with free space with -o"
        ) from error
