"""The far end of the cable: this host's own TCP, in a network that nobody else sees, or passt."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable

from revirt.errors import HostError
from revirt.monitor.network import Backend, Forward
from revirt.monitor.network.passt import GUEST_ADDRESS, ROUTER_ADDRESS, PasstBackend
from revirt.monitor.network.tap import TapBackend

ENDS = ("tap", "passt")
GUEST_PORT = 7000

_CLONE_NEWNET = 0x40000000
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8916, 0x891C, 0x8922
_TAP = "load0"

Plug = Callable[[Callable[[], None]], Backend]


class TapEnd:
    """This host, with a network of this process's own: from here on it has no other.

    Raises HostError without the privileges for that.
    """

    guest = (GUEST_ADDRESS, GUEST_PORT)
    own = ROUTER_ADDRESS

    def __init__(self, mtu: int | None = None) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            reason = os.strerror(ctypes.get_errno())
            raise HostError(
                f"cannot have a network of its own: {reason}", hint="run it as root, or with --end passt"
            )
        self._mtu = mtu

    def plug(self, wake: Callable[[], None]) -> Backend:
        """Return the cable's end."""
        backend = TapBackend(wake, _TAP)
        name = _TAP.encode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, address in ((_SIOCSIFADDR, ROUTER_ADDRESS), (_SIOCSIFNETMASK, "255.255.255.0")):
                packed = struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(control, request, packed)
            if self._mtu is not None:
                fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name, self._mtu))
        return backend


class PasstEnd:
    """passt, with a port of this host that leads to the guest's."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.guest = ("127.0.0.1", int(server.getsockname()[1]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            self.own = str(probe.getsockname()[0])

    def plug(self, wake: Callable[[], None]) -> Backend:
        """Return the cable's end."""
        return PasstBackend(wake, [Forward("tcp", *self.guest, GUEST_PORT)])


def make_end(name: str) -> TapEnd | PasstEnd:
    """Return the end *name*, one of ENDS."""
    return TapEnd() if name == "tap" else PasstEnd()
