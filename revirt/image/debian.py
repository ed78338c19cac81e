"""The Debian guests: an unmodified kernel package and busybox-static, in RAM, on a disk, or behind a boot loader."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from revirt.image import cpio, grub, initrd, modules, root, seabios
from revirt.image.apt import Package, PackageIndex, members, read_member
from revirt.image.cache import FIRMWARE_FILE, INITRD_FILE, KERNEL_FILE
from revirt.image.compiler import compile_daemon
from revirt.image.ext4 import make_file_system
from revirt.image.root import PROMPT as PROMPT
from revirt.image.root import READY as READY
from revirt.image.tools import Toolbox

ROOT_FILE = "root.img"
"""The disk of a guest whose kernel is started directly: a file system."""
DISK_FILE = "disk.img"
"""The disk of a guest that boots like a PC: a partition table, and a file system in the first partition."""
DAEMON_FILE = "daemon"

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

_DISK_SIZE = 64 << 20
_ROOT_UUID = "72657669-7274-4000-8000-000000000001"
_GRUB_COMMAND_LINE = "root=/dev/vda1 console=tty0 console=ttyS0"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a guest's files are made from: packages as they were downloaded, programs to run, and a daemon's source."""

    kernel: Package
    busybox: bytes
    others: dict[str, Package]
    toolbox: Toolbox
    daemon: Path | None

    def kernel_image(self) -> bytes:
        """Return the kernel as it is in its package."""
        return read_member(self.kernel, _KERNEL_FILE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which packages make a guest, and how: ``kernels`` are metapackages, the first that exists is taken."""

    architecture: str
    kernels: tuple[str, ...]
    make: Callable[[Sources], dict[str, bytes]]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a build is made of: ``files`` by name, and ``packages``, their versions by name."""

    files: dict[str, bytes]
    packages: dict[str, str] = field(default_factory=dict)


def fetch(
    recipe: Recipe, apt_root: Path, progress: Callable[[str], None], daemon: Path | None = None
) -> Ingredients:
    """Return the files of *recipe*, from packages that are downloaded, with the C program *daemon* if it takes one.

    *apt_root* is kept between builds.  Raises BuildError if tools, packages or the network are missing.
    """
    index = PackageIndex(apt_root, recipe.architecture, progress)
    # An index kept from last time may name packages that are gone by now.
    index.update()
    kernel = index.resolve(recipe.kernels, _KERNEL_PACKAGE)
    with tempfile.TemporaryDirectory(dir=apt_root, prefix="packages-") as name:
        directory = Path(name)
        packages = index.download([kernel, _BUSYBOX, *recipe.packages], directory)
        toolbox = Toolbox(index.download, directory)
        progress("making the guest's files")
        sources = Sources(
            packages[kernel], read_member(packages[_BUSYBOX], _BUSYBOX_FILE), packages, toolbox, daemon
        )
        files = recipe.make(sources)
        versions = {name: package.version for name, package in packages.items()}
        return Ingredients(files, versions | toolbox.packages)


def ram_guest(sources: Sources) -> dict[str, bytes]:
    """Return the files of a guest that lives in RAM."""
    return {KERNEL_FILE: sources.kernel_image(), INITRD_FILE: initial_ramfs(sources.busybox)}


def disk_guest(sources: Sources) -> dict[str, bytes]:
    """Return the files of a guest that lives on a disk, and whose kernel is started directly."""
    daemon = compile_daemon(sources.daemon, sources.toolbox.scratch) if sources.daemon else None
    entries = root.root_files(sources.busybox, has_login=False, daemon=daemon)
    files = {
        KERNEL_FILE: sources.kernel_image(),
        INITRD_FILE: _mounter(sources),
        ROOT_FILE: make_file_system(entries, _DISK_SIZE, _ROOT_UUID, sources.toolbox),
    }
    return files if daemon is None else {**files, DAEMON_FILE: daemon}


def grub_guest(sources: Sources) -> dict[str, bytes]:
    """Return the files of a guest that is on a disk with its kernel, and the firmware that it boots by."""
    boot = {
        grub.KERNEL: sources.kernel_image(),
        grub.INITRD: _mounter(sources),
        grub.CONFIGURATION: grub.configuration(_GRUB_COMMAND_LINE).encode(),
    }
    entries = [
        *root.root_files(sources.busybox, has_login=True),
        cpio.directory("boot/grub"),
        *(cpio.regular(name.lstrip("/"), data) for name, data in boot.items()),
    ]
    partition = make_file_system(entries, _DISK_SIZE, _ROOT_UUID, sources.toolbox)
    return {
        FIRMWARE_FILE: seabios.firmware_of(sources.others[seabios.PACKAGE]),
        DISK_FILE: grub.make_disk(partition, sources.toolbox),
    }


def _mounter(sources: Sources) -> bytes:
    drivers = modules.in_loading_order(members(sources.kernel, modules.FILES), initrd.DRIVERS)
    return initrd.root_mounter(sources.busybox, drivers)


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


_amd64 = partial(Recipe, "amd64", ("linux-image-cloud-amd64",))

RECIPES = {
    "debian": _amd64(ram_guest),
    "debian-i386": Recipe("i386", ("linux-image-686", "linux-image-686-pae"), ram_guest),
    "debian-disk": _amd64(disk_guest),
    "debian-grub": _amd64(grub_guest, (seabios.PACKAGE,)),
}
