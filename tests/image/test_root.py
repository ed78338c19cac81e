from __future__ import annotations

import re
import subprocess

import pytest

from revirt.errors import BuildError
from revirt.image import cpio
from revirt.image.initrd import root_mounter
from revirt.image.modules import Module
from revirt.image.root import applets, root_files

BUSYBOX = b"\x7fELF code \0[\0[[\0acpid\0busybox\0getty\0sh\0\0more"


def files(*, has_login: bool, daemon: bytes | None = None) -> dict[str, cpio.Entry]:
    return {entry.name: entry for entry in root_files(BUSYBOX, has_login=has_login, daemon=daemon)}


def test_programs_of_a_busybox_are_found_without_running_it() -> None:
    assert applets(BUSYBOX) == ["[", "[[", "acpid", "getty", "sh"]


def test_busybox_without_a_table_of_programs_is_refused() -> None:
    with pytest.raises(BuildError, match="no table"):
        applets(b"\x7fELF busybox")


def test_every_directory_stands_before_what_is_in_it() -> None:
    names = list(files(has_login=False, daemon=b"daemon"))

    for position, name in enumerate(names):
        parent = name.rpartition("/")[0]
        assert not parent or parent in names[:position]


def test_guest_without_login_has_a_shell_that_it_ends_with() -> None:
    root = files(has_login=False)

    assert b"/etc/console" in root["etc/inittab"].data
    assert b"getty" not in root["etc/inittab"].data
    assert root["etc/console"].data.endswith(b"poweroff\n")


def test_guest_with_login_asks_on_the_serial_port_and_on_the_screen() -> None:
    inittab = files(has_login=True)["etc/inittab"].data

    assert b"ttyS0::respawn:/sbin/getty" in inittab
    assert b"tty1::respawn:/sbin/getty" in inittab
    assert b"/etc/console" not in inittab


def test_only_a_guest_with_a_daemon_has_one() -> None:
    assert files(has_login=False, daemon=b"program")["usr/sbin/daemon"].data == b"program"
    assert "usr/sbin/daemon" not in files(has_login=False)


@pytest.mark.parametrize("name", ["etc/rc", "etc/network", "etc/console", "etc/udhcpc/default.script"])
def test_scripts_are_scripts(name: str) -> None:
    script = files(has_login=False)[name]

    assert script.mode & 0o777 == 0o755
    subprocess.run(["sh", "-n"], input=script.data, check=True)


def test_modules_are_loaded_in_their_order() -> None:
    drivers = [Module("zebra", b"first"), *(Module(f"a{number}", b"next") for number in range(10))]

    archive = root_mounter(BUSYBOX, drivers)

    listed = re.findall(rb"modules/\d[^\0]+", archive)
    assert listed == sorted(listed)
    assert len(listed) == 11
    assert listed[0] == b"modules/00-zebra.ko"
