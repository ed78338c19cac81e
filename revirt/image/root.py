"""What is on the root file system of the guests that live on a disk: busybox, and scripts that set it up.

``/etc/rc`` runs first: it mounts what has to be, gives the network card an address, and starts the guest's daemon if
it has one.  The address comes from ``revirt.ip=ADDRESS/BITS[,GATEWAY]`` on the kernel's command line; without that it
is asked for by DHCP, and where nobody answers it is 10.0.2.15/24 with the gateway 10.0.2.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from revirt.errors import BuildError
from revirt.image import cpio

PROMPT = "# "
READY = "revirt: shell ready"
"""What the guest prints before the first prompt of a shell."""

LOGIN = "login: "
"""What a guest that has one prints for somebody to log in; ``root`` has no password."""

DAEMON = "usr/sbin/daemon"
"""Where a guest's daemon is."""

_DIRECTORIES = (
    *("bin", "boot", "dev", "etc", "proc", "root", "sbin", "srv", "sys", "tmp", "usr", "usr/bin", "usr/sbin"),
    *("etc/udhcpc", "var", "var/log"),
)

# One after another, as busybox searches them by halving; the first two come from "[" and "[[".
_APPLET_TABLE = re.compile(rb"\0\[\0\[\[\0((?:[A-Za-z0-9_.+-]+\0)+)")

_RC = """\
#!/bin/sh
# Runs once, before anybody can log in.
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mkdir /dev/pts
mount -t devpts pts /dev/pts
hostname -F /etc/hostname
/etc/network
if [ -x /usr/sbin/daemon ]; then
    /usr/sbin/daemon &
fi
"""

_NETWORK = """\
#!/bin/sh
# Gives the first network card an address: see revirt.ip= in docs/guests.md.
static() {
    ip address add "$1" dev eth0
    [ -z "$2" ] || ip route add default via "$2"
}

ip link set lo up
[ -e /sys/class/net/eth0 ] || exit 0
ip link set eth0 up
for word in $(cat /proc/cmdline); do
    case $word in
        revirt.ip=*) wanted=${word#revirt.ip=} ;;
    esac
done
case $wanted in
    '') udhcpc -f -n -q -t 3 -T 1 -i eth0 >/dev/null 2>&1 || static 10.0.2.15/24 10.0.2.2 ;;
    *,*) static "${wanted%%,*}" "${wanted#*,}" ;;
    *) static "$wanted" ;;
esac
"""

# What udhcpc runs, with its answers in the environment.
_DHCP = """\
#!/bin/sh
case $1 in
    bound | renew)
        ip address flush dev "$interface"
        ip address add "$ip/${mask:-24}" dev "$interface"
        for gateway in $router; do
            ip route add default via "$gateway" dev "$interface" onlink && break
        done
        for server in $dns; do
            echo "nameserver $server"
        done >/etc/resolv.conf
        ;;
esac
"""

_PROFILE = f"""\
export HOME=/root TERM=linux PATH=/bin:/sbin:/usr/bin:/usr/sbin PS1='{PROMPT}'
cd /root
echo '{READY}'
"""

_CONSOLE = """\
#!/bin/sh
# A shell on the console; the guest ends with it.
setsid cttyhack sh -l
poweroff
"""

_INITTAB = """\
::sysinit:/etc/rc
{lines}
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r -t ext4
"""
_SHELL_LINES = "::once:/etc/console"
_LOGIN_LINES = """\
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
tty1::respawn:/sbin/getty 38400 tty1 linux"""


def root_files(busybox: bytes, *, has_login: bool, daemon: bytes | None = None) -> Iterator[cpio.Entry]:
    """Yield the files of a root file system.

    One that *has_login* asks who is there, on the serial port and on the screen, and goes on when a shell ends;
    any other has a shell on the console, and powers off when that ends.  Raises BuildError if *busybox* is none.
    """
    yield from (cpio.directory(name) for name in _DIRECTORIES)
    yield cpio.executable("bin/busybox", busybox)
    # /sbin, too: inittabs and scripts from elsewhere name some of them there.
    for name in applets(busybox):
        yield cpio.symlink(f"bin/{name}", "busybox")
    yield from (cpio.symlink(f"sbin/{name}", "../bin/busybox") for name in ("getty", "init", "reboot"))
    texts = {
        "group": "root:x:0:\n",
        "hostname": "revirt\n",
        "inittab": _INITTAB.format(lines=_LOGIN_LINES if has_login else _SHELL_LINES),
        "passwd": "root::0:0:root:/root:/bin/sh\n",
        "profile": _PROFILE,
    }
    yield from (cpio.regular(f"etc/{name}", text.encode()) for name, text in texts.items())
    for name, text in {"rc": _RC, "network": _NETWORK, "console": _CONSOLE}.items():
        yield cpio.executable(f"etc/{name}", text.encode())
    yield cpio.executable("etc/udhcpc/default.script", _DHCP.encode())
    if daemon is not None:
        yield cpio.executable(DAEMON, daemon)


def applets(busybox: bytes) -> list[str]:
    """Return the names by which *busybox* can be called, without running it; raises BuildError."""
    match = _APPLET_TABLE.search(busybox)
    if match is None:
        raise BuildError("the busybox of the package has no table of the programs in it")
    return ["[", "[[", *(name.decode() for name in match[1].split(b"\0")[:-1] if name != b"busybox")]
