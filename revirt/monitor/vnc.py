"""A VNC server: the machine's screen for remote viewers, whose keys are typed on its keyboard (RFC 6143).

Rules:
- The machine is never waited for, nor does it wait: it publishes screens, and threads of this module send them.
- Without a password only this host is listened to: a loopback address, or a UNIX socket of its owner's.
- Whoever connects is hostile: few at a time, limits for the time that is waited and the size of what is read.
- Whoever looks gets at most 25 pictures a second, and only what changed of them.

Versions 3.3, 3.7 and 3.8 of the protocol; whatever a viewer does with its mouse or clipboard is read and ignored.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import HostError, UsageError
from revirt.monitor.rfb import ProtocolError
from revirt.monitor.vnc_client import FRAME_S, Client
from revirt.screen import PixelScreen, Screen, draw
from revirt.screen.pixels import black

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 5900
MAX_CLIENTS = 4

_NO_SCREEN = (640, 480)
_FIRST_S = 1.0
_ATTEMPTS = 5
"""Wrong passwords after which nobody is let in any more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a *path*, or *host* and *port* (0: any that is free)."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return what *text* names: ``ADDRESS:PORT``, ``:PORT`` or ``unix:PATH``; raises UsageError for other text."""
        if text.startswith("unix:") and len(text) > 5:
            return cls(path=Path(text[5:]))
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 1 << 16):
            raise UsageError(f"{text!r} is no address for VNC", hint="write 127.0.0.1:5900 or unix:PATH")
        return cls(host.strip("[]") or DEFAULT_HOST, int(port))

    @property
    def is_private(self) -> bool:
        """Whether nobody but this host can connect."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def listen(self) -> socket.socket:
        """Return a socket that listens there; raises HostError if that cannot be done."""
        try:
            if self.path is not None:
                return _listen_at(self.path)
            family, *_, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(where[:2], family=family)
        except OSError as error:
            # What `create_server` says of a port that is taken has the address in it a second time.
            number = error.errno or 0
            problem = os.strerror(number) if number > 0 else error.strerror or error
            raise HostError(
                f"cannot listen for VNC at {self}: {problem}",
                hint="choose another place with --display vnc=ADDRESS:PORT; port 0 is any that is free",
            ) from error

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _listen_at(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
        server.listen()
    except OSError:
        server.close()
        raise
    finally:
        os.umask(before)
    return server


class VncServer:
    """Shows a machine that is called *name*, at *address*; *press* gets scan codes of set 2.

    ``address`` is where it listens in the end, ``password`` what viewers are asked for, None if they are not.
    """

    def __init__(self, address: Address, press: Callable[[bytes], None], name: str = "revirt") -> None:
        self._socket = address.listen()
        port = self._socket.getsockname()[1] if address.path is None else 0
        self.address = Address(address.host, port, address.path)
        self.password = None if address.is_private else secrets.token_urlsafe(6)
        self.name = name
        self.press = press
        self._lock = threading.Condition()
        self._clients: set[Client] = set()
        self._screen: Screen | None = None
        self._drawn: PixelScreen | None = None
        self._wake: Callable[[], None] = lambda: None
        self._failures = 0
        self._is_open = True

    # -- for the machine -------------------------------------------------------------------------------------

    def start(self, wake: Callable[[], None]) -> None:
        """Let viewers come; *wake* is called, from any thread, when a screen should be published soon."""
        self._wake = wake
        threading.Thread(target=self._accept, name="vnc", daemon=True).start()

    @property
    def is_watched(self) -> bool:
        """Whether somebody waits for a screen."""
        with self._lock:
            return any(client.is_waiting for client in self._clients)

    def publish(self, screen: Screen) -> None:
        """Take the machine's *screen*, as it is now."""
        with self._lock:
            if screen is self._screen:
                return
            self._screen, self._drawn = screen, None
            self._lock.notify_all()
            clients = list(self._clients)
        for client in clients:
            client.wake()

    def close(self) -> None:
        """Hang up, and listen no longer."""
        self._is_open = False
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self.address.path is not None:
            self.address.path.unlink(missing_ok=True)
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.hang_up()

    # -- for its clients -------------------------------------------------------------------------------------

    def frame(self) -> PixelScreen:
        """Return the newest screen, drawn; a black one as long as there is none."""
        with self._lock:
            screen, drawn = self._screen, self._drawn
        if drawn is not None:
            return drawn
        if screen is None:
            return black(*_NO_SCREEN)
        drawn = draw(screen)
        with self._lock:
            if screen is self._screen:
                self._drawn = drawn
        return drawn

    def first_frame(self) -> PixelScreen:
        """Return what `frame` does, but wait a moment for the machine's first."""
        self._wake()
        with self._lock:
            self._lock.wait_for(lambda: self._screen is not None, _FIRST_S)
        return self.frame()

    @property
    def is_shut(self) -> bool:
        """Whether too many passwords were wrong."""
        return self._failures >= _ATTEMPTS

    def note_failure(self) -> None:
        """Count a wrong password."""
        self._failures += 1

    def ask(self) -> None:
        """Let the machine publish a screen soon."""
        self._wake()

    def _accept(self) -> None:
        while self._is_open:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._is_open:
                    time.sleep(FRAME_S)  # no descriptors left: viewers may go
                continue
            with self._lock:
                is_full = len(self._clients) >= MAX_CLIENTS
                client = None if is_full or not self._is_open else Client(self, connection)
                if client is not None:
                    self._clients.add(client)
            if client is None:
                connection.close()
            else:
                threading.Thread(target=self._serve, args=(client,), name="vnc client", daemon=True).start()

    def _serve(self, client: Client) -> None:
        try:
            with suppress(OSError, ProtocolError):
                client.serve()
        finally:
            with self._lock:
                self._clients.discard(client)
            client.close()
            if codes := client.keys.release_all():
                self.press(codes)
