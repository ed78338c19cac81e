"""A network by the program passt (https://passt.top): what the guest sends leaves this host from ordinary sockets.

passt is started for one run, at the other end of a pair of sockets.  It ends when that is closed, and so also if the
recorder is killed.  Started by root it becomes nobody; in any case it locks itself into namespaces of its own.

The guest is offered, by DHCP, the addresses that QEMU's user network has: 10.0.2.15, and 10.0.2.2 as its router.  So
nothing of this host's own gets into the recording, and the guest cannot reach what listens on this host's loopback.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import HostError
from revirt.monitor.network.handshake import RepeatedAcknowledgements, acknowledgement
from revirt.monitor.network.stream import StreamBackend

PROGRAM = "passt"
GUEST_ADDRESS, NETMASK, ROUTER_ADDRESS = "10.0.2.15", "24", "10.0.2.2"
NAME_SERVER_ADDRESS = "10.0.2.3"
"""The first name server of the host, wherever that is.  By DHCP the guest is told of those that are not on loopback."""
ROUTER_MAC = "52:55:0a:00:02:02"
MTU = 1500
"""passt would have the guest send frames of 64 KiB."""

_START_S = 10.0
_END_S = 2.0
_LOOK_S = 0.005
_LAST_LINES = 8
_LINE_SIZE = 400
# What it says always, and what says nothing to who reads it here.
_CHATTER = re.compile(r"Failed to send \d+ bytes to syslog|Don't run as root|$")
_HINTS = (
    (
        "Failed to bind",
        "something else listens there, or it is no address of this host; ports below 1024 want privileges",
    ),
    ("routable interface", "passt needs an interface of this host with an IPv4 address and a default route"),
    ("namespace", "passt locks itself in by namespaces, which this container or kernel does not allow"),
)


@dataclass(frozen=True, slots=True)
class Forward:
    """A *port* of this host, at *address*, whose *protocol* (``tcp`` or ``udp``) goes to *guest_port* of the guest."""

    protocol: str
    address: str
    port: int
    guest_port: int


class PasstBackend(StreamBackend):
    """A network by a passt of its own.

    Raises HostError if that is not installed or does not start, with what it said.
    """

    def __init__(self, wake: Callable[[], None], forwards: Sequence[Forward] = ()) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _Process(theirs.fileno(), forwards)
        except BaseException:
            ours.close()
            raise
        self._repeats = RepeatedAcknowledgements()
        super().__init__(wake, PROGRAM, ours)

    def send(self, frame: bytes) -> None:
        if self._repeats.is_repeat(frame, time.monotonic()):
            return
        super().send(frame)
        answer = acknowledgement(frame)
        if answer is not None:
            self._arrived([answer])

    def _serve(self) -> str | None:
        fault = super()._serve()
        if self._is_closing:
            return None
        self._process.wait()
        said = self._process.last_words
        return f"{PROGRAM} ended: {said}" if said else fault

    def _release(self) -> None:
        super()._release()
        self._process.end()


class _Process:
    """A running passt with the socket *fd*; raises HostError if it does not come to run."""

    def __init__(self, fd: int, forwards: Sequence[Forward]) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise HostError(f"{PROGRAM} is not installed", hint=f"on Debian: apt install {PROGRAM}")
        self._said: deque[str] = deque(maxlen=_LAST_LINES)
        with _pid_file() as started:
            self._process = subprocess.Popen(
                [program, *_options(fd, started, forwards)],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the recorder, which ends in order
            )
            self._listener = threading.Thread(target=self._listen, name="passt's messages", daemon=True)
            self._listener.start()
            try:
                self._wait_for(started)
            except BaseException:
                self.end(at_once=True)
                raise

    @property
    def last_words(self) -> str:
        """What it said last, in a line."""
        return "; ".join(self._said)

    def wait(self) -> None:
        """Wait a moment for it to end, and for what it has to say."""
        try:
            self._process.wait(_END_S)
            self._listener.join(_END_S)
        except subprocess.TimeoutExpired:
            pass

    def end(self, *, at_once: bool = False) -> None:
        """Make sure that it ends: its socket is closed, so it should by itself, unless *at_once*."""
        if not at_once:
            self.wait()
        self._process.kill()
        self._process.wait()
        self._listener.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        while line := self._process.stderr.readline(_LINE_SIZE):
            text = line.decode(errors="replace").strip()
            if _CHATTER.match(text) is None:
                self._said.append(text)

    def _wait_for(self, started: Path) -> None:
        """Return when passt has written its process number, the last thing that it does before it serves."""
        deadline = time.monotonic() + _START_S
        while not started.stat().st_size:
            if self._process.poll() is not None:
                self._listener.join(_END_S)
                said = self.last_words or f"status {self._process.returncode}"
                hint = next((hint for words, hint in _HINTS if words in said), "")
                raise HostError(f"{PROGRAM} does not start: {said}", hint=hint)
            if time.monotonic() > deadline:
                raise HostError(f"{PROGRAM} does not start: it says nothing for {_START_S:.0f} s")
            time.sleep(_LOOK_S)


def _options(fd: int, started: Path, forwards: Sequence[Forward]) -> Iterator[str]:
    yield from ("--foreground", "--quiet", "--stderr", "--fd", str(fd), "--pid", str(started))
    yield from ("--ipv4-only", "--no-map-gw", "--mtu", str(MTU))
    yield from ("--address", GUEST_ADDRESS, "--netmask", NETMASK, "--gateway", ROUTER_ADDRESS)
    yield from ("--mac-addr", ROUTER_MAC, "--dns-forward", NAME_SERVER_ADDRESS, "--no-dhcp-search")
    for forward in forwards:
        option = "--tcp-ports" if forward.protocol == "tcp" else "--udp-ports"
        yield from (option, f"{forward.address}/{forward.port}:{forward.guest_port}")


@contextmanager
def _pid_file() -> Iterator[Path]:
    """Give an empty file that passt can write to, also as nobody."""
    with tempfile.TemporaryDirectory(prefix="revirt-passt-") as directory:
        Path(directory).chmod(0o711)
        path = Path(directory, "pid")
        path.touch()
        path.chmod(0o666)
        yield path
