"""Networks on UNIX stream sockets, with real ones."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from waiting import PATIENCE_S, Wakes, take, until

from revirt.errors import HostError
from revirt.monitor.network.backend import LARGEST_FRAME
from revirt.monitor.network.framing import FramingError, Unframer, framed
from revirt.monitor.network.stream import StreamBackend


def frame(number: int, size: int = 60) -> bytes:
    return number.to_bytes(4, "big") + bytes(size - 4)


class Cable(NamedTuple):
    """A backend, what it wakes, and the peer that it is connected to."""

    backend: StreamBackend
    wakes: Wakes
    peer: socket.socket


@pytest.fixture
def cable() -> Iterator[Cable]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE_S)
    wakes = Wakes()
    with theirs, closing(StreamBackend(wakes, "the peer", ours)) as backend:
        yield Cable(backend, wakes, theirs)


def receive(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = peer.recv(size - len(data))
        assert piece, f"the stream ended after {len(data)} bytes"
        data += piece
    return data


def test_frames_come_in_their_order_and_wake_the_monitor(cable: Cable) -> None:
    frames = [frame(number) for number in range(1000)]

    cable.peer.sendall(b"".join(framed(each) for each in frames))
    cable.wakes.wait()

    assert take(cable.backend, 1000) == frames
    assert not cable.backend.pending


def test_only_so_many_are_taken_as_were_asked_for(cable: Cable) -> None:
    cable.peer.sendall(b"".join(framed(frame(number)) for number in range(3)))
    until(lambda: len(cable.backend._waiting) == 3)

    assert cable.backend.frames(2) == [frame(0), frame(1)]
    assert cable.backend.pending
    assert cable.backend.frames(2) == [frame(2)]
    assert cable.backend.frames(2) == []


def test_what_the_guest_sends_is_framed(cable: Cable) -> None:
    cable.backend.send(frame(7, 61))

    assert receive(cable.peer, 65) == b"\x00\x00\x00\x3d" + frame(7, 61)


def test_a_peer_that_reads_late_gets_whole_frames_and_does_not_hold_up_the_guest(cable: Cable) -> None:
    # More than a socket holds, and less than what waits for it: none may be lost, and none be cut.
    frames = [frame(number, 60_000) for number in range(50)]

    for each in frames:
        cable.backend.send(each)

    for each in frames:
        assert receive(cable.peer, len(each) + 4) == framed(each)
    assert cable.backend.drops.outbound == 0


def test_a_peer_that_does_not_read_costs_frames_and_not_memory(cable: Cable) -> None:
    for number in range(1000):
        cable.backend.send(frame(number, 60_000))

    assert cable.backend.drops.outbound > 800
    assert len(cable.backend._unsent) < 5 << 20
    assert receive(cable.peer, 60_004) == framed(frame(0, 60_000))


def test_a_guest_that_takes_nothing_holds_its_peer_up_and_loses_nothing(cable: Cable) -> None:
    frames = [frame(number, 1000) for number in range(20_000)]
    sender = threading.Thread(target=cable.peer.sendall, args=(b"".join(map(framed, frames)),))
    sender.start()
    until(lambda: cable.backend._is_holding_back)

    # What was read at once comes on top of what may wait.
    assert cable.backend._waiting_size < 1 << 20
    assert take(cable.backend, 20_000) == frames
    sender.join()
    assert cable.backend.drops.inbound == 0


def test_a_peer_that_leaves_while_it_is_held_up_is_heard_to_its_end(cable: Cable) -> None:
    cable.peer.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while not cable.backend._is_holding_back:
            cable.peer.sendall(framed(frame(count, 1000)))
            count += 1
    cable.peer.close()
    until(lambda: cable.backend.fault)

    assert len(take(cable.backend, count)) >= count


def test_what_is_too_short_for_a_frame_is_dropped(cable: Cable) -> None:
    cable.peer.sendall(framed(b"") + framed(bytes(13)) + framed(frame(1)))

    assert take(cable.backend, 1) == [frame(1)]
    assert cable.backend.drops.inbound == 2


def test_a_peer_that_goes_away_is_a_fault_and_what_it_sent_before_still_counts(cable: Cable) -> None:
    cable.peer.sendall(framed(frame(1)))
    cable.wakes.wait()
    cable.peer.close()
    cable.wakes.wait()

    assert cable.backend.fault == "the peer went away"
    assert cable.backend.frames() == [frame(1)]
    cable.backend.send(frame(2))
    assert cable.backend.drops.outbound == 1


def test_a_length_that_no_frame_has_ends_the_network(cable: Cable) -> None:
    cable.peer.sendall(framed(frame(1)) + b"GET / HTTP/1.1\r\n")
    until(lambda: cable.backend.fault)

    assert cable.backend.fault == (
        "the peer sends no frames: a frame of 1195725856 bytes, where at most 65553 are possible"
    )


def test_the_largest_frame_passes_in_pieces_of_any_size() -> None:
    unframer, stream = Unframer(), framed(bytes(LARGEST_FRAME)) + framed(frame(1))

    frames = [each for at in range(0, len(stream), 7) for each in unframer.feed(stream[at : at + 7])]

    assert frames == [bytes(LARGEST_FRAME), frame(1)]
    with pytest.raises(FramingError):
        unframer.feed((LARGEST_FRAME + 1).to_bytes(4, "big"))


def test_a_path_where_somebody_listens_is_connected_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "net"))
        listener.listen()
        with closing(StreamBackend.connect(tmp_path / "net", Wakes())) as backend:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(framed(frame(5)))

                assert take(backend, 1) == [frame(5)]


def test_a_path_where_nobody_listens_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot connect to .*/net: No such file") as caught:
        StreamBackend.connect(tmp_path / "net", Wakes())

    assert caught.value.hint == "start what listens there first"


def test_a_path_that_is_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="longer than the path of a socket may be"):
        StreamBackend.listen(tmp_path / ("x" * 120), Wakes())


def test_who_listens_serves_one_peer_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "net"
    with closing(StreamBackend.listen(path, Wakes())) as backend:
        backend.send(frame(0))  # nobody is there
        for number in (1, 2):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
                peer.sendall(framed(frame(number)))

                assert take(backend, 1) == [frame(number)]
                backend.send(frame(9))
                assert peer.recv(64) == framed(frame(9))
            until(lambda: backend._link is None)

        assert backend.fault is None
        assert backend.drops.outbound == 1


def test_a_socket_to_listen_at_is_the_owners_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "net"

    with closing(StreamBackend.listen(path, Wakes())):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0

    assert not path.exists()


def test_what_is_there_already_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_text("mine")

    with pytest.raises(HostError, match=r"cannot listen at .*: Address already in use"):
        StreamBackend.listen(path, Wakes())

    assert path.read_text() == "mine"


def test_closing_ends_the_thread_and_tells_the_peer(cable: Cable) -> None:
    cable.backend.close()

    assert not cable.backend._thread.is_alive()
    assert cable.peer.recv(1) == b""
    assert cable.backend.fault is None
    cable.backend.close()
