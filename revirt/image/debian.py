"""The Debian guests: an unmodified kernel package, and busybox-static as its initial RAM file system."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import BuildError
from revirt.image import cpio
from revirt.image.apt import PackageIndex, read_member

READY = "revirt: shell ready"
"""What the guest prints before its first prompt."""
PROMPT = "# "

_INIT = f"""\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=linux PS1='{PROMPT}'
cd /root
echo '{READY}'
setsid cttyhack sh
poweroff -f
"""
_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin")
_BUSYBOX = "busybox-static"
_KERNEL_PACKAGE = r"linux-image-\d[\w.+-]*"
_KERNEL_FILE = r"boot/vmlinuz-.*"
_BUSYBOX_FILE = r"(usr/)?bin/busybox"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which packages make a guest: ``kernels`` are metapackages, the first that exists is taken."""

    architecture: str
    kernels: tuple[str, ...]


RECIPES = {
    "debian": Recipe("amd64", ("linux-image-cloud-amd64",)),
    "debian-i386": Recipe("i386", ("linux-image-686", "linux-image-686-pae")),
}


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a build is made of; ``packages`` are versions by package name."""

    kernel: bytes
    initrd: bytes
    packages: dict[str, str]


def fetch(recipe: Recipe, apt_root: Path, progress: Callable[[str], None]) -> Ingredients:
    """Return the kernel and initrd of *recipe*, from packages that are downloaded.

    *apt_root* is kept between builds.  Raises BuildError if tools, packages or the network are missing.
    """
    index = PackageIndex(apt_root, recipe.architecture, progress)
    # An index kept from last time may name packages that are gone by now.
    index.update()
    kernel = index.resolve(recipe.kernels, _KERNEL_PACKAGE)
    with tempfile.TemporaryDirectory(dir=apt_root, prefix="packages-") as directory:
        packages = index.download([kernel, _BUSYBOX], Path(directory))
        missing = {kernel, _BUSYBOX} - packages.keys()
        if missing:
            raise BuildError(f"apt-get did not deliver {', '.join(sorted(missing))}")
        progress("making the initial RAM file system")
        return Ingredients(
            kernel=read_member(packages[kernel], _KERNEL_FILE),
            initrd=initial_ramfs(read_member(packages[_BUSYBOX], _BUSYBOX_FILE)),
            packages={name: package.version for name, package in packages.items()},
        )


def initial_ramfs(busybox: bytes) -> bytes:
    """Return an initial RAM file system that gives a shell on the console and powers off when it ends."""
    return cpio.archive(
        [
            *(cpio.directory(name) for name in _DIRECTORIES),
            cpio.character_device("dev/console", 0o600, 5, 1),
            cpio.character_device("dev/null", 0o666, 1, 3),
            cpio.character_device("dev/ttyS0", 0o600, 4, 64),
            cpio.executable("bin/busybox", busybox),
            cpio.symlink("bin/sh", "busybox"),
            cpio.executable("init", _INIT.encode()),
        ]
    )
