"""What clients send to the stub as a target: streams of packets, to the stub itself and to its server."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from fuzzing import FuzzError
from fuzzing.changes import Change
from fuzzing.streams import forge, packet, reseal, session
from fuzzing.targets import SECONDS, Commands, Scene, Target
from fuzzing.watch import Watch
from revirt.errors import RevirtError, UsageError
from revirt.gdb import Server, Stub
from revirt.gdb.packets import PACKET_SIZE, Decoder, Packet, Sign, encode
from revirt.gdb.stub import Disconnect
from revirt.recording import Recording
from revirt.replay import ReplaySession
from revirt.timeline import Timeline

_LAST_WORDS = b"#00#00" + packet(b"qC")
"""Ends any packet that has begun, and asks something that is answered."""
_LAST_ANSWER = encode(b"QC1")
_PATIENCE_S = 10 * SECONDS
_HARMLESS = (b"Z", b"z")
"""Packets behind which the guest is not looked at: they come by the thousand."""


class Packets(Target):
    """Streams of packets.  The recording, the guest and every answer are looked at behind each."""

    kind = "packets"
    acts = ("serve", "serve", "serve", "compare")
    acting = 0.4
    patience = _PATIENCE_S / SECONDS
    """There may be hundreds of searches in a stream."""

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._timelines = [Timeline(Recording.open(scene.directory / name)) for name in scene.names]
        self._starts = [each.machine.digest() for each in self._timelines]

    def samples(self) -> Sequence[bytes]:
        return [session()] * len(self._timelines)

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        return forge(data, rng, change)

    def reseal(self, data: bytes) -> bytes:
        return reseal(data)

    def run(self, place: int, data: bytes, act: str | None) -> list[RevirtError]:
        timeline = self._timelines[place]
        self._begin(place)
        files = _signature(timeline.recording.path)
        refused: list[RevirtError] = []
        if act == "serve":
            # Sockets are opened before, and after: the case must not.
            self._serve(timeline, data, refused)
        else:
            with self.reading(refused):
                handle(timeline, data, refused)
        if act == "compare":
            _compare(timeline)
        if _signature(timeline.recording.path) != files:
            raise FuzzError("files of the recordings have changed")
        return refused

    def _begin(self, place: int) -> None:
        """Have everything be as it was, whatever the case before did."""
        timeline = self._timelines[place]
        for number in timeline.checkpoints:
            timeline.delete_checkpoint(number)
        timeline.seek(timeline.start)
        if timeline.machine.digest() != self._starts[place]:
            raise FuzzError("the start is not what it was")

    def _serve(self, timeline: Timeline, data: bytes, refused: list[RevirtError]) -> None:
        """Send *data* to a server of *timeline*, in pieces; then another client has to be answered."""
        rng = Random(zlib.crc32(data))
        with socket.create_server(("127.0.0.1", 0)) as listener, _serving(listener, timeline) as address:
            with socket.create_connection(address, _PATIENCE_S) as client, self.reading(refused):
                _talk(client, data, rng)
            _expect_answer(address)


@contextmanager
def _serving(listener: socket.socket, timeline: Timeline) -> Iterator[tuple[str, int]]:
    """Serve *timeline* in another thread; yield the address.  Raises FuzzError if that does not end as asked."""
    problems: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve()
        except BaseException as error:
            problems.append(error)

    server = Server(listener, timeline, lambda: Stub(timeline))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.stop()
        thread.join(_PATIENCE_S)
        if thread.is_alive():
            raise FuzzError("the server does not end")
        server.close()
        if problems:
            raise FuzzError("the server died") from problems[0]


def _talk(client: socket.socket, data: bytes, rng: Random) -> None:
    """Send *data* through *client*, as impolitely as *rng* wants; raises FuzzError if the answers are no packets."""
    got = bytearray()
    manner = rng.choice(("wait", "wait", "wait", "leave", "reset", "half"))
    with suppress(ConnectionError):
        while data:
            size = rng.choice((1, 7, 100, 70_000))
            client.sendall(data[:size])
            data = data[size:]
        if manner == "wait":
            client.sendall(_LAST_WORDS)
        elif manner == "half":
            client.shutdown(socket.SHUT_WR)
        elif manner == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while manner in ("wait", "half") and not got.endswith(_LAST_ANSWER):
            part = client.recv(1 << 16)
            if not part:
                break
            got += part
    for each in Decoder().feed(bytes(got)):
        if not isinstance(each, Packet | Sign):
            raise FuzzError("an answer is no packet")


def _expect_answer(address: tuple[str, int]) -> None:
    """Raise FuzzError if a new client is not answered: one that comes before the last has left is turned away."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        with suppress(ConnectionError), socket.create_connection(address, _PATIENCE_S) as client:
            client.sendall(packet(b"qC"))
            answer = b""
            while not answer.endswith(_LAST_ANSWER) and (part := client.recv(1000)):
                answer += part
            if answer:
                return
        time.sleep(0.002)
    raise FuzzError("the next client is not answered")


def handle(timeline: Timeline, data: bytes, refused: list[RevirtError]) -> None:
    """Let a stub answer *data*, as a server does, but in one thread; refusals go to *refused*.

    Raises FuzzError if a packet is not answered as one has to be, or changes the guest where it stands.
    """
    stub = Stub(timeline)
    place, digest = timeline.position, timeline.machine.digest()
    for each in Decoder().feed(data):
        if each is Sign.BREAK:
            timeline.interrupt()
        if not isinstance(each, Packet):
            continue
        try:
            replies = stub.handle(each.payload)
        except Disconnect as done:
            replies = [done.reply]
            stub = Stub(timeline)
        if (
            timeline.position == place
            and each.payload[:1] not in _HARMLESS
            and timeline.machine.digest() != digest
        ):
            raise FuzzError(f"{each.payload[:80]!r} has changed the guest")
        if timeline.position != place:
            place, digest = timeline.position, timeline.machine.digest()
        if not replies or (replies[-1][:1] == b"O" and replies[-1] != b"OK"):
            raise FuzzError(f"{each.payload[:80]!r} is not answered")
        for reply in replies:
            if list(Decoder().feed(encode(reply)))[1:] or len(reply) > PACKET_SIZE:
                raise FuzzError(f"{each.payload[:80]!r} is answered with {len(reply)} bytes: {reply[:80]!r}")
        if replies[-1][:1] == b"E":
            refused.append(UsageError(replies[-1].decode()))


def _compare(timeline: Timeline) -> None:
    """Raise FuzzError if the machine is not what a replay that goes straight ahead comes to."""
    session = ReplaySession(timeline.recording)
    place = timeline.position
    session.run(place.branches)
    if place.steps:
        session.machine.step(place.steps)
    if session.machine.digest() != timeline.machine.digest():
        raise FuzzError(f"the guest at {place} is another")


def _signature(directory: Path) -> list[tuple[str, int, int]]:
    """Return which files there are, how large, and when they were changed last."""
    found = []
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        found.append((str(path), status.st_size, status.st_mtime_ns))
    return found
