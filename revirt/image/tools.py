"""Programs that builds run: the host's own, or out of Debian packages where the host has none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from revirt.errors import BuildError
from revirt.image.apt import Package, extract, run_tool

_PLACES = ("usr/bin", "usr/sbin", "bin", "sbin")
_LIBRARY_PLACES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")

E2FSPROGS = ("e2fsprogs", "libext2fs2", "libcom-err2", "libss2")
"""The packages of mke2fs and debugfs, with the libraries that not every Debian has anyway."""

GRUB = ("grub-pc-bin", "grub-common", "libdevmapper1.02.1")
"""The packages of GRUB for a PC's BIOS, and of what makes an image of it."""


class Toolbox:
    """Runs programs; *download* returns the packages that it is given the names of, *scratch* is where they go."""

    def __init__(
        self, download: Callable[[Sequence[str], Path], Mapping[str, Package]], scratch: Path
    ) -> None:
        self._download = download
        self.scratch = scratch
        self.packages: dict[str, str] = {}
        """Versions of what was downloaded, by name."""

        self._unpacked: dict[tuple[str, ...], Path] = {}

    def unpack(self, packages: tuple[str, ...]) -> Path:
        """Return a directory with the contents of *packages*; raises BuildError if they cannot be had."""
        if packages not in self._unpacked:
            directory = Path(tempfile.mkdtemp(dir=self.scratch, prefix=f"{packages[0]}-"))
            for package in self._download(packages, directory).values():
                extract(package, directory)
                package.file.unlink()
                self.packages[package.name] = package.version
            self._unpacked[packages] = directory
        return self._unpacked[packages]

    def run(
        self, command: Sequence[str], packages: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> str:
        """Run *command*, the host's or out of *packages*, in the scratch directory; return what it printed.

        Raises BuildError if it is not to be had, or fails.
        """
        name, *arguments = command
        found = find_tool(name)
        return (
            self._run(found, arguments, environment or {})
            if found
            else self.run_packaged(command, packages, environment)
        )

    def run_packaged(
        self, command: Sequence[str], packages: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> str:
        """Do as `run` does, but never with the host's own."""
        name, *arguments = command
        try:
            root = self.unpack(packages)
        except BuildError as error:
            raise BuildError(
                f"{name} is not installed, and its package cannot be had: {error}",
                hint=f"install {packages[0]!r}",
            ) from error
        for place in _PLACES:
            if (root / place / name).is_file():
                libraries = ":".join(str(root / library) for library in _LIBRARY_PLACES)
                return self._run(
                    str(root / place / name), arguments, {**(environment or {}), "LD_LIBRARY_PATH": libraries}
                )
        raise BuildError(f"{name} is not in the package {packages[0]}")

    def _run(self, program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
        hint = f"this is a fault of the recipe or of {program}"
        return run_tool([program, *arguments], self.scratch, environment=environment, hint=hint).stdout


def find_tool(name: str) -> str | None:
    """Return the path of the host's program *name*, also where only root looks for programs; None if it has none."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
