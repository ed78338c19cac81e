"""Starting gdb for the user."""

from __future__ import annotations

import shutil
from pathlib import Path

from revirt.errors import HostError

COMMANDS = Path(__file__).with_name("commands.gdb")
"""A script with commands for gdb."""


def gdb_command(address: str, symbols: Path | None, *, program: str = "gdb") -> list[str]:
    """Return the command that starts gdb connected to *address*, with *symbols* if there are any.

    Raises HostError if there is no gdb.
    """
    found = shutil.which(program)
    if found is None:
        raise HostError(
            f"there is no program {program!r} to launch", hint="install gdb, or connect from elsewhere"
        )
    command = [found, "-q", "-x", str(COMMANDS)]
    if symbols is not None:
        # The sources of bundled guests are named from the directory that holds all guests.
        command += ["-d", str(symbols.parent.parent), "-ex", f"symbol-file {_quoted(symbols)}"]
    return [*command, "-ex", f"target remote {address}"]


def _quoted(path: Path) -> str:
    """Return *path* as gdb reads it in a command."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
