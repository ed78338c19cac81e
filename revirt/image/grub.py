"""A disk that a PC's BIOS boots: GRUB in front of the first partition, which holds the root file system.

    sector 0           boot.img, and the partition table in its last 66 bytes
    sectors 1..        core.img: GRUB with the modules that it needs, to read the partition
    sectors 2048..     the partition

boot.img loads the sector that it has a number of, and that is 1 unless somebody changes it; core.img's first sector
loads the rest from the sectors behind it, as grub-mkimage leaves it (GRUB, grub-core/boot/i386/pc/boot.S and
diskboot.S).  So both are put where they expect to be, and nothing in them is changed.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from revirt.errors import BuildError
from revirt.image.spec import BOOT_SIGNATURE
from revirt.image.tools import GRUB, Toolbox

SECTOR_SIZE = 512
PARTITION_SECTOR = 2048
KERNEL = "/boot/vmlinuz"
INITRD = "/boot/initrd"
CONFIGURATION = "/boot/grub/grub.cfg"

_FORMAT = "i386-pc"
_PREFIX = "(hd0,msdos1)/boot/grub"
_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux", "echo")

_TABLE_OFFSET = 0x1BE
_DISK_SIGNATURE_OFFSET = 0x1B8
_DISK_SIGNATURE = b"rvrt"
_ACTIVE = 0x80
_LINUX = 0x83
# Cylinder, head and sector for what lies beyond what they can say; everybody reads the sector numbers.
_NO_GEOMETRY = b"\xfe\xff\xff"


def configuration(command_line: str) -> str:
    """Return a grub.cfg: a menu, and after a second Linux with *command_line*.

    It is on the PC's console, which the firmware has also on the serial line: GRUB's own driver would say all twice.
    """
    return f"""\
set timeout=1
menuentry "Debian" {{
    linux {KERNEL} {command_line}
    initrd {INITRD}
}}
"""


def make_disk(partition: bytes, toolbox: Toolbox) -> bytes:
    """Return a disk that boots from *partition*: an ext4 with a kernel, an initrd and a grub.cfg.

    Raises BuildError if GRUB's packages cannot be had, or do not fit in front of the partition.
    """
    directory = toolbox.unpack(GRUB) / "usr/lib/grub" / _FORMAT
    with tempfile.TemporaryDirectory(dir=toolbox.scratch, prefix="grub-") as name:
        core_file = Path(name, "core.img")
        # Modules and program have to be of one release: the host's program may be of another.
        command = ["grub-mkimage", "-O", _FORMAT, "-d", str(directory), "-p", _PREFIX, "-o", str(core_file)]
        toolbox.run_packaged([*command, *_MODULES], GRUB)
        core = core_file.read_bytes()
        boot = (directory / "boot.img").read_bytes()
    if len(boot) != SECTOR_SIZE or len(core) > (PARTITION_SECTOR - 1) * SECTOR_SIZE:
        raise BuildError("GRUB's images are not of the sizes that they should be")
    start = (boot_sector(boot, len(partition) // SECTOR_SIZE) + core).ljust(
        PARTITION_SECTOR * SECTOR_SIZE, b"\0"
    )
    return start + partition


def boot_sector(code: bytes, sectors: int) -> bytes:
    """Return *code*, 512 bytes, with a table of one active Linux partition of so many *sectors*."""
    entry = struct.pack("<B3sB3sII", _ACTIVE, _NO_GEOMETRY, _LINUX, _NO_GEOMETRY, PARTITION_SECTOR, sectors)
    sector = bytearray(code)
    sector[_DISK_SIGNATURE_OFFSET : _DISK_SIGNATURE_OFFSET + len(_DISK_SIGNATURE)] = _DISK_SIGNATURE
    sector[_TABLE_OFFSET:] = entry.ljust(64, b"\0") + BOOT_SIGNATURE
    return bytes(sector)
