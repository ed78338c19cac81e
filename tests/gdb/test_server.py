"""Clients that come, go, interrupt and misbehave."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from fake import BASE, COUNTER, Client, FakeTimeline

from revirt.gdb import Server, Stub
from revirt.gdb.packets import PACKET_SIZE

Connect = Callable[[], Client]


@pytest.fixture
def timeline() -> FakeTimeline:
    return FakeTimeline()


@pytest.fixture
def connect(timeline: FakeTimeline) -> Iterator[Connect]:
    """Return a function that connects to a server of *timeline*; afterwards the server has ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener, timeline, lambda: Stub(timeline))
    thread = threading.Thread(target=server.serve)
    thread.start()
    clients: list[Client] = []

    def make() -> Client:
        clients.append(Client(socket.create_connection(listener.getsockname())))
        return clients[-1]

    yield make

    server.stop()
    thread.join(60)
    assert not thread.is_alive()
    for client in clients:
        client.socket.close()
    listener.close()
    server.close()


def test_packets_are_acknowledged_until_the_client_does_without(connect: Connect) -> None:
    client = connect()
    assert client.ask(b"qC") == b"QC1"

    assert client.ask(b"QStartNoAckMode") == b"OK"

    client.acknowledges = False
    assert client.ask(b"qC") == b"QC1"


def test_what_did_not_arrive_is_sent_again(connect: Connect) -> None:
    client = connect()
    client.send(b"qC")
    first = client.take(len(b"$QC1#c5"))

    client.socket.sendall(b"-")

    assert client.take(len(first)) == first == b"$QC1#c5"


def test_a_packet_that_did_not_arrive_is_asked_for_again(connect: Connect) -> None:
    client = connect()

    client.socket.sendall(b"$qC#00")

    assert client.take(1) == b"-"
    assert client.ask(b"qC") == b"QC1"


def test_a_break_ends_a_search(connect: Connect, timeline: FakeTimeline) -> None:
    timeline.is_slow = True
    client = connect()
    client.send(b"vCont;c")
    assert timeline.began.wait(60)

    client.socket.sendall(b"\x03")

    assert client.answer() == b"T02thread:1;"


def test_a_break_ends_a_seek_which_says_so(connect: Connect, timeline: FakeTimeline) -> None:
    timeline.is_slow = True
    client = connect()
    client.send(b"qRcmd," + b"seek 4".hex().encode())
    assert timeline.began.wait(60)

    client.socket.sendall(b"\x03")

    assert bytes.fromhex(client.answer()[1:].decode()) == b"interrupted, still at 0:0\n"
    assert client.answer() == b"OK"


def test_a_break_in_a_step_over_watched_memory_ends_it(connect: Connect, timeline: FakeTimeline) -> None:
    """The step is taken, and then gone over once more to see what it accesses."""
    timeline.is_slow = True
    client = connect()
    client.ask(b"Z2,%x,4" % COUNTER)
    client.send(b"s")
    assert timeline.began.wait(60)

    client.socket.sendall(b"\x03")

    assert client.answer() == b"T02thread:1;"


def test_a_break_right_behind_the_packet_is_not_lost(connect: Connect, timeline: FakeTimeline) -> None:
    timeline.is_slow = True
    client = connect()
    client.ask(b"QStartNoAckMode")
    client.acknowledges = False

    client.socket.sendall(b"$bc#c5\x03")

    assert client.answer() == b"T02thread:1;"


def test_a_break_when_nothing_runs_does_not_end_the_next_search(
    connect: Connect, timeline: FakeTimeline
) -> None:
    client = connect()
    client.socket.sendall(b"\x03")
    client.ask(b"Z0,%x,1" % (BASE + 4 * 5))
    client.socket.sendall(b"\x03")

    assert client.ask(b"vCont;c") == b"T05thread:1;"
    assert timeline.at == 5


def test_a_break_between_two_steps_ends_the_second(connect: Connect, timeline: FakeTimeline) -> None:
    """Seen: gdb sends the break of a Ctrl-C during "stepi 1000" mostly while it looks at what a step came to."""
    client = connect()
    assert client.ask(b"s") == b"T05thread:1;"
    client.socket.sendall(b"\x03")
    client.ask(b"g")

    assert client.ask(b"s") == b"T02thread:1;"
    assert client.ask(b"s") == b"T05thread:1;"


def test_another_client_finds_the_timeline_where_the_one_before_left_it(
    connect: Connect, timeline: FakeTimeline
) -> None:
    first = connect()
    first.ask(b"Z0,%x,1" % (BASE + 4 * 5))
    first.ask(b"s")
    assert first.ask(b"D") == b"OK"
    assert first.is_closed()

    second = connect()

    # The breakpoints went with the client that had set them.
    assert timeline.at == 1
    assert second.ask(b"c") == b"T05thread:1;replaylog:end;"


def test_a_client_that_is_gone_ends_its_search(connect: Connect, timeline: FakeTimeline) -> None:
    timeline.is_slow = True
    first = connect()
    first.send(b"vCont;c")
    assert timeline.began.wait(60)

    first.socket.close()

    assert connect().ask(b"qC") == b"QC1"


def test_a_second_client_is_turned_away_at_once(connect: Connect) -> None:
    first = connect()
    first.ask(b"qC")

    second = connect()

    assert second.is_closed()
    assert first.ask(b"qC") == b"QC1"


def test_stopping_the_server_ends_a_search(connect: Connect, timeline: FakeTimeline) -> None:
    timeline.is_slow = True

    client = connect()
    client.send(b"vCont;c")

    assert timeline.began.wait(60)  # and then the server is stopped


def test_a_packet_that_is_too_long_is_answered(connect: Connect) -> None:
    client = connect()
    client.acknowledges = False

    client.socket.sendall(b"$" + b"m" * (3 * PACKET_SIZE) + b"#00")

    assert client.take(len(b"+$E22#a9")) == b"+$E22#a9"


def test_a_client_that_waits_for_no_answer_is_given_up(connect: Connect, timeline: FakeTimeline) -> None:
    timeline.is_slow = True
    client = connect()

    client.socket.sendall(b"$bc#c5" * 1000)

    assert client.is_closed()


def test_noise_does_no_harm(connect: Connect) -> None:
    source = random.Random(15)
    for _ in range(20):
        client = connect()
        noise = bytes(source.choices(b"$#}*+-\x03qmZ,:;0123456789abcdef\0\xff", k=2000))
        client.socket.sendall(noise)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()

    assert connect().ask(b"qC") == b"QC1"
