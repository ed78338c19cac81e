"""Guest descriptions: ``guest.toml`` in a directory of its own, beside the files it names.

    name = "hello"                   the directory's name
    summary = "..."                  one line: what the guest proves

    [image]
    file = "hello.bin"               absent in a guest with a recipe
    format = "flat"                  auto, flat, elf, multiboot or linux
    address = 0x7c00                 of a flat binary
    initrd = "initrd"
    append = "console=ttyS0"         command line
    entry = "direct"                 or "decompressor", of a Linux kernel

    [machine]
    memory = "16M"
    devices = []                     beyond those of every machine
    disks = ["root.img"]             virtio disks with these contents; the first is vda

    [run]
    script = "session.script"        what is typed on the console
    clock = "host"                   or "virtual": the default for this guest

    [build]
    recipe = "debian"                the guest is built and cached, not bundled
    daemon = "daemon.c"              a C program that is compiled into it and started

    [digests]
    "hello.bin" = "..."              SHA-256 of bundled files, checked before they are used

Every key but name, summary, memory and one of file and recipe is optional; any other key is an error.  The files of a
guest with a recipe are those of its build: its disks, too, are named so, and are there once it is built.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from revirt.errors import GuestError, UnknownGuestError, UsageError
from revirt.image.base import BaseImage
from revirt.image.cache import (
    FIRMWARE_FILE,
    INITRD_FILE,
    KERNEL_FILE,
    built_directory,
    is_complete_build,
    recorded_digests,
)
from revirt.image.description import Table
from revirt.image.source import digest_of, read_file
from revirt.image.spec import ENTRIES, FORMATS, ImageSpec, check_memory

DESCRIPTION_FILE = "guest.toml"
CLOCKS = ("host", "virtual")

_DESCRIPTION_LIMIT = 64 << 10
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_BUILT_FILE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_SIZE = re.compile(r"(\d{1,15})([KMG]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that can be run; paths are absolute, ``memory`` is in bytes.

    ``file`` is None for a guest with a ``recipe``; ``disks`` are raw images, which nothing ever writes to;
    ``daemon`` is the C source of a program that the recipe compiles; ``expected_digests`` are the SHA-256 digests that
    the description demands, by path.
    """

    name: str
    summary: str
    memory: int
    file: Path | None = None
    format: str = "auto"
    address: int | None = None
    initrd: Path | None = None
    append: str = ""
    entry: str = "direct"
    devices: tuple[str, ...] = ()
    disks: tuple[Path, ...] = ()
    script: Path | None = None
    clock: str | None = None
    recipe: str | None = None
    daemon: Path | None = None
    expected_digests: Mapping[Path, str] = field(default_factory=dict)

    @property
    def is_built(self) -> bool:
        """Whether the guest's files are there; always true without a recipe."""
        return self.recipe is None or is_complete_build(built_directory(self.name), self.built_files)

    @property
    def built_files(self) -> tuple[str, ...]:
        """The names of the files that a build of this guest has to have; the image is the first."""
        boot = (FIRMWARE_FILE,) if self.format == "bios" else (KERNEL_FILE, INITRD_FILE)
        return (*boot, *(disk.name for disk in self.disks))

    def image_spec(self) -> ImageSpec:
        """Return what to load, after checking it against the digests it should have.

        Raises GuestError if the guest is not built or a file is not what it was, ImageError if one is
        missing.
        """
        file, initrd, expected = self._files()
        for path, digest in expected.items():
            if self._digest(path) != digest:
                again = f"build it again: revirt guest build {self.name} --force" if self.recipe else ""
                raise GuestError(
                    f"{path} is not the file that {self.name} was made with: its SHA-256 differs",
                    hint=again or f"restore the file, or correct [digests] in {DESCRIPTION_FILE}",
                )
        return ImageSpec(file, self.format, self.address, initrd, self.append, self.entry)

    def digests(self) -> dict[str, str]:
        """Return SHA-256 digests as hex digits: of the ``image``, and of an ``initrd``, ``disk0``, ... it has."""
        file, initrd, _ = self._files()
        named = {"image": file}
        if initrd is not None:
            named["initrd"] = initrd
        named |= {f"disk{number}": disk for number, disk in enumerate(self.disks)}
        return {name: self._digest(path) for name, path in named.items()}

    def _digest(self, path: Path) -> str:
        if path not in self.disks:
            return digest_of(path)
        # Disks are large; the digest of one is noted from run to run.
        with closing(BaseImage.open(path)) as image:
            return image.digest()

    def _files(self) -> tuple[Path, Path | None, Mapping[Path, str]]:
        if self.file is not None:
            return self.file, self.initrd, self.expected_digests
        directory = built_directory(self.name)
        recorded = recorded_digests(directory)
        image, *others = self.built_files
        if not recorded.keys() >= {image, *others}:
            raise GuestError(f"{self.name} is not built yet", hint=f"run: revirt guest build {self.name}")
        initrd = directory / INITRD_FILE if INITRD_FILE in others else None
        return directory / image, initrd, {directory / name: digest for name, digest in recorded.items()}


def guests() -> list[Guest]:
    """Return the bundled guests, by name.  Raises GuestError if a description is wrong."""
    return [from_directory(file.parent) for file in sorted(_bundled().glob(f"*/{DESCRIPTION_FILE}"))]


def find(name: str) -> Guest:
    """Return the bundled guest *name*, or the one described in the directory of that path.

    Raises UnknownGuestError, with the nearest names, if there is neither.
    """
    bundled = _bundled()
    if _NAME.fullmatch(name) and (bundled / name / DESCRIPTION_FILE).is_file():
        return from_directory(bundled / name)
    # Unlike Path.is_file, this answers for names that no file can have.
    if name and os.path.isfile(os.path.join(name, DESCRIPTION_FILE)):
        return from_directory(Path(name))
    names = sorted(file.parent.name for file in bundled.glob(f"*/{DESCRIPTION_FILE}"))
    raise UnknownGuestError(name, difflib.get_close_matches(name, names))


def from_directory(directory: Path) -> Guest:
    """Return the guest described in *directory*; raises GuestError, naming file and key, if that is wrong."""
    directory = directory.absolute()
    path = directory / DESCRIPTION_FILE
    text = read_file(path, "the guest description", limit=_DESCRIPTION_LIMIT)
    try:
        top = Table(path, "", tomllib.loads(text.decode()))
    except (ValueError, RecursionError) as error:
        raise GuestError(f"{path}: not valid TOML: {error}") from error
    image, machine, run, build = (top.table(key) for key in ("image", "machine", "run", "build"))
    digests = top.table("digests")
    recipe = build.text("recipe")
    name = top.require("name", top.text("name", pattern=_NAME))
    guest = Guest(
        name=name,
        summary=top.require("summary", top.text("summary")),
        memory=_memory(machine),
        file=image.file("file"),
        format=image.choice("format", FORMATS) or "auto",
        address=image.integer("address"),
        initrd=image.file("initrd"),
        append=image.text("append") or "",
        entry=image.choice("entry", ENTRIES) or "direct",
        devices=machine.texts("devices"),
        disks=_built_disks(machine, name) if recipe else machine.files("disks"),
        script=run.file("script"),
        clock=run.choice("clock", CLOCKS),
        recipe=recipe,
        daemon=build.file("daemon"),
        expected_digests=digests.digests(),
    )
    for table in (top, image, machine, run, build, digests):
        table.refuse_unknown()
    if (guest.file is None) == (recipe is None):
        raise GuestError(f"{path}: exactly one of image.file and build.recipe belongs into a description")
    if recipe is not None and (guest.initrd is not None or guest.expected_digests):
        raise GuestError(f"{path}: a guest with a recipe has no files of its own (image.initrd, digests)")
    if recipe is None and guest.daemon is not None:
        raise GuestError(f"{path}: build.daemon: only a guest with a recipe has one")
    if guest.name != directory.name:
        raise GuestError(f"{path}: name: {guest.name!r} lies in a directory called {directory.name!r}")
    return guest


def from_command_line(kernel: Path, initrd: Path | None, append: str, memory: int) -> Guest:
    """Return the guest that ``--kernel``, ``--initrd``, ``--append`` and ``--memory`` (bytes) describe.

    Raises UsageError if a machine cannot have that much memory.
    """
    check_memory(memory)
    return Guest(
        name=kernel.name or "kernel",
        summary="given on the command line",
        memory=memory,
        file=kernel.absolute(),
        initrd=initrd.absolute() if initrd else None,
        append=append,
    )


def from_bios(memory: int) -> Guest:
    """Return the guest that ``--bios`` and ``--memory`` (bytes) describe: the bundled one that is a PC and no more.

    Raises UsageError if a machine cannot have that much memory.
    """
    check_memory(memory)
    return replace(find("seabios"), memory=memory)


def parse_size(text: str) -> int:
    """Return the bytes that *text*, as in ``4096``, ``640K``, ``256M`` or ``1G``, stands for.

    Raises UsageError if it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write bytes, or a number with K, M or G: 256M")
    return int(match[1]) * _UNITS[match[2].upper()]


def _bundled() -> Path:
    """Return the directory of the bundled guests: in the package if installed, beside it in a source tree."""
    package = Path(__file__).absolute().parents[1]
    for directory in (package / "guests", package.parent / "guests"):
        if directory.is_dir():
            return directory
    raise GuestError(f"the bundled guests are missing from {package}", hint="install revirt again")


def _memory(machine: Table) -> int:
    text = machine.require("memory", machine.text("memory"))
    try:
        memory = parse_size(text)
        check_memory(memory)
    except UsageError as error:
        raise GuestError(f"{machine.path}: {machine.name('memory')}: {error}", hint=error.hint) from error
    return memory


def _built_disks(machine: Table, guest: str) -> tuple[Path, ...]:
    """Return where the disks of the built *guest* are, or will be."""
    return tuple(built_directory(guest) / name for name in machine.texts("disks", pattern=_BUILT_FILE))
