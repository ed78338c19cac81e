"""A network on a TAP interface of this host (Linux, Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable

from revirt.errors import HostError
from revirt.monitor.network.backend import LARGEST_FRAME, LiveBackend

DEVICE = "/dev/net/tun"
NAME_LIMIT = 15
"""IFNAMSIZ, without the zero behind the name."""

_TUNSETIFF = 0x400454CA
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP, _IFF_TAP, _IFF_NO_PI = 1, 2, 0x1000
_REQUEST = "16sH22x"  # struct ifreq
_AT_ONCE = 64
_HINTS = {
    errno.EPERM: "as root: ip tuntap add {name} mode tap user $USER",
    errno.EBUSY: "another program has that interface",
    errno.EINVAL: "there is an interface of that name which is no TAP",
}


class TapBackend(LiveBackend):
    """A network on the TAP interface *name*, made if there is none (which goes again when this is closed).

    Raises HostError if that is not possible, with what it wants.
    """

    def __init__(self, wake: Callable[[], None], name: str) -> None:
        super().__init__(wake)
        self._name = name
        self._fd = _open(name)
        _bring_up(name)
        self._start()

    def send(self, frame: bytes) -> None:
        try:
            os.write(self._fd, frame)
        except OSError:
            # Its queue is full, or it is down: to a guest the same as a cable that somebody pulled out.
            self.drops.outbound += 1

    def _serve(self) -> str | None:
        while not self._is_closing:
            if not self._wait((self._fd, self._input())):
                continue
            try:
                self._arrived(self._read_some())
            except OSError as error:
                return f"the interface {self._name} went away: {error.strerror}"
        return None

    def _read_some(self) -> list[bytes]:
        """Return the frames that are there; raises OSError if there is nothing to read from any more."""
        frames: list[bytes] = []
        try:
            while len(frames) < _AT_ONCE:
                frames.append(os.read(self._fd, LARGEST_FRAME))
        except BlockingIOError:
            pass
        return frames

    def _release(self) -> None:
        os.close(self._fd)


def _open(name: str) -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "load the kernel's module: modprobe tun" if error.errno in (errno.ENOENT, errno.ENODEV) else ""
        raise HostError(f"cannot open {DEVICE}: {error.strerror}", hint=hint) from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack(_REQUEST, name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        hint = _HINTS.get(error.errno or 0, "").format(name=name)
        raise HostError(f"cannot have the TAP interface {name}: {error.strerror}", hint=hint) from error
    return fd


def _bring_up(name: str) -> None:
    """Switch the interface on, as far as we may: one that somebody made for us he may have switched on already."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            found = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack(_REQUEST, name.encode(), 0))
            _, flags = struct.unpack(_REQUEST, found)
            if not flags & _IFF_UP:
                fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_REQUEST, name.encode(), flags | _IFF_UP))
        except PermissionError:
            pass
        except OSError as error:
            raise HostError(f"the TAP interface {name} went away: {error.strerror}") from error
