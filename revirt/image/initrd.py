"""The initial RAM file system of guests that live on a disk: it loads drivers, and hands over to the disk.

It reads of the kernel's command line ``root=DEVICE``, and ``ro``; the root file system is an ext4.  What an archive
behind it has in ``extra`` is copied there.
"""

from __future__ import annotations

from collections.abc import Sequence

from revirt.image import cpio
from revirt.image.modules import Module

DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console")
"""Modules for the devices that a machine may have; ext4 is built into Debian's kernels."""

EXTRA = "extra"
"""The directory of what is copied to the root file system."""

_INIT = """\
#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in /modules/*; do
    insmod "$module"
done
mode=rw
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        ro) mode=ro ;;
    esac
done
if ! mount -t ext4 -o "$mode" "$root" /root; then
    echo "revirt: there is no root file system on '$root'"
    poweroff -f
fi
[ ! -d /extra ] || cp -a /extra/. /root
mount -o move /dev /root/dev
mount -o move /proc /root/proc
exec switch_root /root /sbin/init
"""
_APPLETS = ("cat", "cp", "insmod", "mount", "poweroff", "sh", "switch_root")


def root_mounter(busybox: bytes, modules: Sequence[Module]) -> bytes:
    """Return the archive that loads *modules*, in their order, and starts what is on the root file system."""
    return cpio.archive(
        [
            *(cpio.directory(name) for name in ("bin", "dev", "modules", "proc", "root")),
            cpio.character_device("dev/console", 0o600, 5, 1),
            cpio.executable("bin/busybox", busybox),
            *(cpio.symlink(f"bin/{name}", "busybox") for name in _APPLETS),
            *(
                # The shell goes through them by name.
                cpio.regular(f"modules/{number:02}-{module.name}.ko", module.data)
                for number, module in enumerate(modules)
            ),
            cpio.executable("init", _INIT.encode()),
        ]
    )
