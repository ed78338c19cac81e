"""Guests that are programs for a bare PC, as Debian packages them, and a PC without any.

They come as files that a PC boots from: images of disks, or option ROMs, which go into its flash memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from revirt.image import seabios
from revirt.image.apt import Package, PackageIndex, read_member
from revirt.image.cache import FIRMWARE_FILE
from revirt.image.debian import DISK_FILE, Ingredients

_MEMTEST = "memtest86+"
# An image of a CD, with a boot sector and GRUB for those who take it for a disk.
_MEMTEST_DISK = r"usr/lib/memtest86\+/memtest86\+x64\.iso"
_IPXE = "ipxe-qemu"
_IPXE_ROM = r"usr/lib/ipxe/qemu/pxe-virtio\.rom"
_VIRTIO_NET = "pci1af4,1000.rom"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which packages, of all that there are for *architecture*, make a guest, and how."""

    packages: tuple[str, ...]
    make: Callable[[Mapping[str, Package]], dict[str, bytes]]
    architecture: str = "amd64"


def fetch(recipe: Recipe, apt_root: Path, progress: Callable[[str], None]) -> Ingredients:
    """Return the files of *recipe*, from packages that are downloaded.

    *apt_root* is kept between builds.  Raises BuildError if tools, packages or the network are missing.
    """
    index = PackageIndex(apt_root, recipe.architecture, progress)
    # An index kept from last time may name packages that are gone by now.
    index.update()
    with tempfile.TemporaryDirectory(dir=apt_root, prefix="packages-") as name:
        packages = index.download(recipe.packages, Path(name))
        return Ingredients(
            recipe.make(packages), {name: package.version for name, package in packages.items()}
        )


def bare_pc(packages: Mapping[str, Package]) -> dict[str, bytes]:
    """Return the files of a PC that finds nothing to boot unless it is given it."""
    return {FIRMWARE_FILE: seabios.firmware_of(packages[seabios.PACKAGE])}


def memtest(packages: Mapping[str, Package]) -> dict[str, bytes]:
    """Return the files of a PC that boots Memtest86+ from a disk."""
    return {**bare_pc(packages), DISK_FILE: read_member(packages[_MEMTEST], _MEMTEST_DISK)}


def ipxe(packages: Mapping[str, Package]) -> dict[str, bytes]:
    """Return the files of a PC whose network cards have iPXE in their ROM."""
    roms = {_VIRTIO_NET: read_member(packages[_IPXE], _IPXE_ROM)}
    return {FIRMWARE_FILE: seabios.firmware_of(packages[seabios.PACKAGE], roms)}


RECIPES = {
    "seabios": Recipe((seabios.PACKAGE,), bare_pc),
    "memtest": Recipe((seabios.PACKAGE, _MEMTEST), memtest),
    "ipxe": Recipe((seabios.PACKAGE, _IPXE), ipxe),
}
