"""What the stub answers, packet by packet."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest
from fake import BASE, COUNTER, LENGTH, TABLE, FakeTimeline

from revirt.errors import CorruptError
from revirt.gdb.packets import PACKET_SIZE, unescape
from revirt.gdb.registers import Architecture
from revirt.gdb.stub import Disconnect, Stub
from revirt.position import Position


@pytest.fixture
def timeline() -> FakeTimeline:
    return FakeTimeline()


@pytest.fixture
def stub(timeline: FakeTimeline) -> Stub:
    stub = Stub(timeline)
    ask(stub, b"qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+")
    return stub


def ask(stub: Stub, payload: bytes) -> bytes:
    """Return the one answer to *payload*."""
    (answer,) = stub.handle(payload)
    return answer


def document(stub: Stub, name: bytes, chunk: int = 100) -> bytes:
    """Return a document as gdb fetches it, *chunk* bytes at a time."""
    text = b""
    while True:
        answer = ask(stub, b"qXfer:%b:%x,%x" % (name, len(text), chunk))
        text += unescape(answer[1:])
        if answer[:1] == b"l":
            return text


# -- what there is ---------------------------------------------------------------------------------------------


def test_it_says_that_it_can_go_backwards(stub: Stub) -> None:
    features = ask(stub, b"qSupported:swbreak+").split(b";")

    assert {b"ReverseStep+", b"ReverseContinue+", b"QStartNoAckMode+", b"vContSupported+"} < set(features)
    assert b"PacketSize=%x" % PACKET_SIZE in features


def test_there_is_one_thread(stub: Stub) -> None:
    assert ask(stub, b"qC") == b"QC1"
    assert ask(stub, b"qfThreadInfo") == b"m1"
    assert ask(stub, b"qsThreadInfo") == b"l"
    assert ask(stub, b"Hg1") == ask(stub, b"Hc-1") == ask(stub, b"Hg0") == ask(stub, b"T1") == b"OK"
    assert ask(stub, b"Hg2") == ask(stub, b"T2") == ask(stub, b"Hx1") == b"E22"


def test_leaving_does_not_kill(stub: Stub) -> None:
    assert ask(stub, b"qAttached") == b"1"


@pytest.mark.parametrize(
    "packet", [b"vMustReplyEmpty", b"QThreadSuffixSupported", b"!", b"qTStatus", b"vRun;", b"R00", b""]
)
def test_what_is_not_known_gets_an_empty_answer(stub: Stub, packet: bytes) -> None:
    assert ask(stub, packet) == b""


@pytest.mark.parametrize("packet", [b"D", b"D;1", b"k", b"vKill;1"])
def test_a_client_may_leave(stub: Stub, packet: bytes) -> None:
    with pytest.raises(Disconnect):
        stub.handle(packet)


# -- registers and memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "name"), [("amd64", "i386:x86-64"), ("i386", "i386"), ("i8086", "i8086")])
def test_the_description_is_that_of_the_cpus_mode(arch: str, name: str) -> None:
    stub = Stub(FakeTimeline(arch))

    tree = ElementTree.fromstring(document(stub, b"features:read:target.xml"))

    assert tree.findtext("architecture") == name


def test_all_registers_at_once_are_as_long_as_described(stub: Stub) -> None:
    tree = ElementTree.fromstring(document(stub, b"features:read:target.xml"))

    bits = sum(int(each.attrib["bitsize"]) for each in tree.iter("reg"))

    assert len(ask(stub, b"g")) == bits // 4


def test_one_register_is_the_one_among_all(stub: Stub, timeline: FakeTimeline) -> None:
    timeline.at = 0x12

    # gdb's order on i386: eax is 0, eip is 8.
    assert ask(stub, b"p0") == b"12000000"
    assert ask(stub, b"p8") == (BASE + 4 * 0x12).to_bytes(4, "little").hex().encode()
    assert ask(stub, b"g").startswith(b"12000000")
    assert ask(stub, b"pffff") == ask(stub, b"p") == ask(stub, b"p-1") == b"E22"


def test_memory_is_read_as_far_as_it_is_mapped(stub: Stub) -> None:
    assert ask(stub, b"m2001,4") == b"01020304"
    assert ask(stub, b"mfffe,10") == b"feff"
    assert ask(stub, b"m10000,4") == b"E14"
    assert ask(stub, b"m0,0") == b""


@pytest.mark.parametrize(
    "packet", [b"m", b"m,", b"m10", b"m10,zz", b"m-1,4", b"m10,10000000000000000", b"m 1,1"]
)
def test_a_malformed_read_is_refused(stub: Stub, packet: bytes) -> None:
    assert ask(stub, packet) == b"E22"


def test_no_read_is_longer_than_a_packet(stub: Stub) -> None:
    assert len(ask(stub, b"m0,ffffffffffffffff")) <= PACKET_SIZE
    assert ask(stub, b"mffffffffffffffff,4") == b"E14"


def test_physical_memory_in_the_words_of_qemu(stub: Stub) -> None:
    assert ask(stub, b"qqemu.PhyMemMode") == b"0"
    assert ask(stub, b"Qqemu.PhyMemMode:1") == b"OK"

    assert ask(stub, b"m10,2") == b"eeee"


@pytest.mark.parametrize(
    "packet", [b"G00", b"P0=00000000", b"M1000,1:00", b"X1000,1:\0", b"c1000", b"s1000", b"C05;1000"]
)
def test_nothing_is_written(stub: Stub, packet: bytes) -> None:
    assert ask(stub, packet) == b"E.a recording is never changed"


def test_writing_nothing_is_fine(stub: Stub) -> None:
    # This is how gdb finds out whether a stub knows binary writes.
    assert ask(stub, b"X0,0:") == b"OK"


def test_the_memory_map_leaves_nothing_out(stub: Stub) -> None:
    tree = ElementTree.fromstring(document(stub, b"memory-map:read:"))

    found = [(int(each.attrib["start"], 16), int(each.attrib["length"], 16)) for each in tree]

    assert found == [(0, 1 << 31), (1 << 31, 1 << 31)]
    assert {each.attrib["type"] for each in tree} == {"rom"}


@pytest.mark.parametrize("packet", [b"qXfer:features:read:other.xml:0,10", b"qXfer:auxv:read::0,10"])
def test_other_documents_are_refused(stub: Stub, packet: bytes) -> None:
    assert ask(stub, packet) == b"E00"


# -- running ---------------------------------------------------------------------------------------------------


def test_stepping_there_and_back(stub: Stub, timeline: FakeTimeline) -> None:
    assert ask(stub, b"vCont;s:1;c") == ask(stub, b"s") == ask(stub, b"S05") == b"T05thread:1;"
    assert timeline.position == Position(0, 3)

    assert ask(stub, b"bs") == b"T05thread:1;"

    assert timeline.position == Position(0, 2)


def test_the_ends_are_named(stub: Stub, timeline: FakeTimeline) -> None:
    assert ask(stub, b"vCont;c") == b"T05thread:1;replaylog:end;"
    assert ask(stub, b"vCont;s") == b"T05thread:1;replaylog:end;"
    assert timeline.position == timeline.end

    assert ask(stub, b"bc") == b"T05thread:1;replaylog:begin;"
    assert ask(stub, b"bs") == b"T05thread:1;replaylog:begin;"

    assert timeline.position == timeline.start


@pytest.mark.parametrize(("kind", "name"), [(b"0", b"swbreak"), (b"1", b"hwbreak")])
def test_a_breakpoint_is_found_from_both_sides(
    stub: Stub, timeline: FakeTimeline, kind: bytes, name: bytes
) -> None:
    assert ask(stub, b"Z%b,%x,1" % (kind, BASE + 4 * 42)) == b"OK"

    assert ask(stub, b"c") == b"T05thread:1;%b:;" % name
    assert timeline.at == 42
    assert ask(stub, b"c") == b"T05thread:1;replaylog:end;"
    assert ask(stub, b"bc") == b"T05thread:1;%b:;" % name
    assert timeline.at == 42


def test_a_client_that_does_not_know_kinds_of_breakpoint_is_not_told(timeline: FakeTimeline) -> None:
    stub = Stub(timeline)
    ask(stub, b"Z0,%x,1" % (BASE + 4))

    assert ask(stub, b"c") == b"T05thread:1;"


def test_a_breakpoint_that_was_removed_is_not_found(stub: Stub) -> None:
    ask(stub, b"Z1,%x,1" % (BASE + 4 * 42))

    assert ask(stub, b"z1,%x,1" % (BASE + 4 * 42)) == b"OK"

    assert ask(stub, b"c") == b"T05thread:1;replaylog:end;"


@pytest.mark.parametrize(
    ("kind", "name", "address"),
    [(b"2", b"watch", COUNTER), (b"3", b"rwatch", TABLE), (b"4", b"awatch", COUNTER)],
)
def test_a_watchpoint_names_the_address(stub: Stub, kind: bytes, name: bytes, address: int) -> None:
    ask(stub, b"Z%b,%x,4" % (kind, address))

    assert ask(stub, b"c") == b"T05thread:1;%b:%x;" % (name, address)


def test_an_access_that_begins_before_what_is_watched_is_named_by_what_is_watched(stub: Stub) -> None:
    ask(stub, b"Z2,%x,1" % (COUNTER + 2))

    assert ask(stub, b"c") == b"T05thread:1;watch:%x;" % (COUNTER + 2)


def test_going_backwards_a_watchpoint_stops_before_the_write(stub: Stub, timeline: FakeTimeline) -> None:
    ask(stub, b"Z2,%x,4" % COUNTER)
    timeline.at = 55

    assert ask(stub, b"bc") == b"T05thread:1;watch:%x;" % COUNTER

    assert timeline.at == 50


def test_a_step_over_a_write_says_so(stub: Stub, timeline: FakeTimeline) -> None:
    ask(stub, b"Z2,%x,4" % COUNTER)
    timeline.at = 50

    assert ask(stub, b"s") == b"T05thread:1;watch:%x;" % COUNTER
    assert timeline.at == 51
    assert ask(stub, b"s") == b"T05thread:1;"
    assert timeline.at == 52
    timeline.at = 51
    assert ask(stub, b"bs") == b"T05thread:1;watch:%x;" % COUNTER
    assert timeline.at == 50


@pytest.mark.parametrize(
    "point", [b"5,0,1", b"2,0,0", b"2,0,100001", b"2,ffffffffffffffff,2", b"0,zz,1", b"0,1", b"0,1,1;X1,0"]
)
def test_a_point_that_cannot_be_is_refused(stub: Stub, point: bytes) -> None:
    assert ask(stub, b"Z" + point) == ask(stub, b"z" + point) == b"E22"


def test_there_is_an_end_to_points(stub: Stub) -> None:
    answers = [ask(stub, b"Z0,%x,1" % address) for address in range(5000)]

    assert answers.count(b"OK") == 1024
    assert ask(stub, b"Z0,0,1") == b"OK"


def test_a_wrong_action_is_refused(stub: Stub) -> None:
    assert ask(stub, b"vCont?") == b"vCont;c;C;s;S"
    assert ask(stub, b"vCont;t") == ask(stub, b"vCont") == ask(stub, b"Czz") == b"E22"
    assert ask(stub, b"bx") == b""


def test_a_damaged_recording_is_an_answer(
    stub: Stub, timeline: FakeTimeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CorruptError(timeline.recording.path, "segment 3 is not what was written")

    monkeypatch.setattr(timeline, "run", fail)

    answer = ask(stub, b"vCont;c")

    assert answer.startswith(b"E.")
    assert b"segment 3" in answer
    assert b"\x1b" not in answer


def test_a_change_of_mode_is_told_once(stub: Stub, timeline: FakeTimeline) -> None:
    timeline.values = FakeTimeline("amd64").values

    told, answer = stub.handle(b"s")
    again = stub.handle(b"s")

    assert b"unset tdesc filename" in bytes.fromhex(told[1:].decode())
    assert answer == b"T05thread:1;"
    assert len(again) == 1


def test_a_new_description_is_asked_for_in_the_new_mode(stub: Stub, timeline: FakeTimeline) -> None:
    timeline.values = FakeTimeline("amd64").values

    text = document(stub, b"features:read:target.xml")

    assert b"<architecture>i386:x86-64</architecture>" in text


def test_who_runs_gdb_may_choose_the_registers(timeline: FakeTimeline) -> None:
    stub = Stub(timeline, architecture=Architecture.AMD64)

    assert b"i386:x86-64" in document(stub, b"features:read:target.xml")
    assert len(stub.handle(b"s")) == 1


# -- hostile clients -------------------------------------------------------------------------------------------


def test_any_packet_has_an_answer() -> None:
    source = random.Random(8)
    heads = [
        b"qSupported",
        b"qXfer:features:read:target.xml",
        b"vCont;",
        b"qRcmd,",
        b"Z0,",
        b"z2,",
        b"m",
        b"X",
        b"H",
    ]
    stub = Stub(FakeTimeline())

    for _ in range(20_000):
        head = source.choice([b"", *heads, *(bytes((byte,)) for byte in b"?gpmGPMXZzcsCSbvHTqQ")])
        tail = bytes(source.choices(b"0123456789abcdef,:;=-+$#*}\0\xff", k=source.randrange(24)))
        try:
            answers = stub.handle(head + tail)
        except Disconnect:
            continue
        assert answers
        assert all(len(answer) <= PACKET_SIZE for answer in answers)


@pytest.mark.parametrize(
    "command",
    ["", "seek " * 4000, "\0\x1b", "seek 99999999999999999999", "events -1", "seek nan%", "events ²"],
)
def test_any_monitor_command_has_an_answer(stub: Stub, command: str) -> None:
    answers = stub.handle(b"qRcmd," + command.encode().hex().encode())

    assert answers[-1] == b"OK"


@pytest.mark.parametrize("text", [b"z", b"abc", b"ff", "é".encode()])
def test_a_monitor_command_that_is_no_text_is_refused(stub: Stub, text: bytes) -> None:
    assert ask(stub, b"qRcmd," + text) == b"E22"


def test_the_fake_is_as_long_as_it_says() -> None:
    assert FakeTimeline().end == Position(LENGTH // 10 - 1, 9)
