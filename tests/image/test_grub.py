from __future__ import annotations

import struct

from revirt.image.grub import PARTITION_SECTOR, boot_sector, configuration


def test_boot_sector_keeps_its_code_and_has_one_active_partition() -> None:
    sector = boot_sector(b"\xeb" * 512, 1000)

    assert len(sector) == 512
    assert sector[:0x1B8] == b"\xeb" * 0x1B8
    active, kind, start, size = struct.unpack_from("<B3xB3xII", sector, 0x1BE)
    assert (active, kind, start, size) == (0x80, 0x83, PARTITION_SECTOR, 1000)
    assert not any(sector[0x1CE:0x1FE])
    assert sector[0x1FE:] == b"\x55\xaa"


def test_menu_boots_by_itself_and_starts_the_kernel_of_the_partition() -> None:
    text = configuration("root=/dev/vda1 console=ttyS0")

    assert "set timeout=1\n" in text
    assert "linux /boot/vmlinuz root=/dev/vda1 console=ttyS0\n" in text
    assert "initrd /boot/initrd\n" in text
