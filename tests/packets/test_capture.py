"""Capture files: those that other programs write are read, those that we write are read by them."""

from __future__ import annotations

import io
import os
import random
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import wire
from programs import run

from revirt.packets import CapturedFrame, CaptureError, CaptureReader, CaptureWriter

START_NS = 1_700_000_000 * 10**9
FRAMES = [wire.ethernet(bytes([number]) * (46 + number)) for number in range(5)]
TIMES_NS = [START_NS, START_NS + 1, START_NS + 1_000_001, START_NS + 2 * 10**9, START_NS + 3 * 10**9]


def ours(path: Path) -> Path:
    with open(path, "wb") as file:
        writer = CaptureWriter(file, "made by a test")
        for number, (time_ns, frame) in enumerate(zip(TIMES_NS, FRAMES, strict=True)):
            writer.write(
                number % 2, time_ns, frame, is_inbound=number % 3 == 0, comment=f"position {number}:0"
            )
    return path


def read(path: Path) -> list[CapturedFrame]:
    reader = CaptureReader(path)
    try:
        return list(reader)
    finally:
        reader.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "packets"


# -- with other programs ---------------------------------------------------------------------------------------------


def test_tshark_reads_what_we_write(file: Path) -> None:
    ours(file)

    fields = ("time_epoch", "comment", "interface_name", "packet_flags_direction", "len")
    text = run(
        "tshark", "-r", file, "-T", "fields", *(word for name in fields for word in ("-e", f"frame.{name}"))
    )

    rows = [line.split("\t") for line in text.splitlines()]
    assert [row[0] for row in rows] == [f"{ns // 10**9}.{ns % 10**9:09}" for ns in TIMES_NS]
    assert [row[1] for row in rows] == [f"position {number}:0" for number in range(5)]
    assert [row[2] for row in rows] == ["card 0", "card 1", "card 0", "card 1", "card 0"]
    assert [int(row[3], 0) for row in rows] == [1, 2, 2, 1, 2]
    assert [int(row[4]) for row in rows] == [len(frame) for frame in FRAMES]


@pytest.mark.parametrize("form", ["pcap", "nsecpcap", "pcapng"])
def test_files_of_every_form_come_back_as_another_program_writes_them(
    form: str, file: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    run("editcap", "-F", form, ours(file), theirs)

    found = read(theirs)

    unit_ns = 1000 if form == "pcap" else 1
    assert [frame.data for frame in found] == FRAMES
    assert [frame.time_ns for frame in found] == [ns // unit_ns * unit_ns for ns in TIMES_NS]
    # Of pcapng alone the direction is a part.
    assert [frame.is_outbound for frame in found] == [
        form == "pcapng" and number % 3 != 0 for number in range(5)
    ]


def test_a_file_that_was_typed_is_read(file: Path, tmp_path: Path) -> None:
    typed = tmp_path / "typed.txt"
    typed.write_text("0000 " + FRAMES[0].hex(" ") + "\n")
    run("text2pcap", typed, file)

    assert [frame.data for frame in read(file)] == [FRAMES[0]]


# -- forms that are rare ---------------------------------------------------------------------------------------------


def pcap(
    order: str, magic: int, *records: tuple[int, int, bytes], link_type: int = 1, major: int = 2
) -> bytes:
    header = struct.pack(order + "IHHiIII", magic, major, 4, 0, 0, 65535, link_type)
    return header + b"".join(
        struct.pack(order + "IIII", seconds, fraction, len(data), len(data)) + data
        for seconds, fraction, data in records
    )


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(options: bytes = b"", order: str = "<", link_type: int = 1, largest: int = 0) -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, largest) + options, order)


def packet(ticks: int, data: bytes, order: str = "<", number: int = 0, size: int | None = None) -> bytes:
    size = len(data) if size is None else size
    return block(
        6, struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, size, size) + data, order
    )


@pytest.mark.parametrize(
    ("order", "magic", "time_ns"),
    [
        ("<", 0xA1B2C3D4, 5_000_007_000),
        (">", 0xA1B2C3D4, 5_000_007_000),
        ("<", 0xA1B23C4D, 5_000_000_007),
        (">", 0xA1B23C4D, 5_000_000_007),
    ],
)
def test_pcap_has_two_byte_orders_and_two_units(order: str, magic: int, time_ns: int, file: Path) -> None:
    file.write_bytes(pcap(order, magic, (5, 7, FRAMES[0])))

    assert read(file) == [CapturedFrame(time_ns, FRAMES[0])]


@pytest.mark.parametrize(
    ("option", "time_ns"),
    [
        (b"", 3_000_000),
        (struct.pack("<HHB3x", 9, 1, 3), 3_000_000_000),
        (struct.pack("<HHB3x", 9, 1, 0x80 | 10), 3000 * 10**9 // 1024),
        (struct.pack("<HHq", 14, 8, 100), 100_003_000_000),
    ],
)
def test_pcapng_has_any_unit_of_time(option: bytes, time_ns: int, file: Path) -> None:
    file.write_bytes(section() + interface(option) + packet(3000, FRAMES[0]))

    (found,) = read(file)

    assert found.time_ns == time_ns
    assert found.data == FRAMES[0]


def test_pcapng_may_have_sections_of_either_byte_order_and_blocks_that_mean_nothing_here(file: Path) -> None:
    sections = [
        section(order)
        + interface(order=order)
        + block(0x0BAD, bytes(200_000), order)
        + packet(1, FRAMES[0], order)
        for order in "<>"
    ]
    file.write_bytes(b"".join(sections))

    assert [frame.data for frame in read(file)] == [FRAMES[0], FRAMES[0]]


def test_a_simple_packet_comes_with_the_one_before_it(file: Path) -> None:
    simple = block(3, struct.pack("<I", len(FRAMES[1])) + FRAMES[1])
    cut = block(3, struct.pack("<I", 2000) + bytes(100))
    old = block(2, struct.pack("<HHIIII", 0, 0, 0, 9, 60, 60) + bytes(60))
    file.write_bytes(section() + interface(largest=100) + packet(7, FRAMES[0]) + simple + cut + old)

    assert read(file) == [
        CapturedFrame(7000, FRAMES[0]),
        CapturedFrame(7000, FRAMES[1]),
        CapturedFrame(7000, bytes(100)),
        CapturedFrame(9000, bytes(60)),
    ]


# -- files that were made to harm ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "ends within this file"),
        (b"hello, world", "this is no capture file"),
        (b"\x1f\x8b\x08\x00", "this is compressed"),
        (pcap("<", 0xA1B2C3D4)[:20], "ends within the header"),
        (pcap("<", 0xA1B2C3D4, major=7), "pcap version 7"),
        (pcap("<", 0xA1B2C3D4, link_type=113), "link type 113, which is not Ethernet"),
        (pcap("<", 0xA1B2C3D4, (0, 0, FRAMES[0]))[:-1], "ends within a frame"),
        (pcap("<", 0xA1B2C3D4) + b"\x01", "ends within a record"),
        (pcap("<", 0xA1B2C3D4) + struct.pack("<IIII", 0, 0, 1 << 31, 0), "a frame of 2147483648 bytes"),
        (section() + packet(0, b""), "interface 0, which is not described"),
        (section() + interface(link_type=101) + packet(0, b""), "link type 101"),
        (section() + interface() + section() + packet(0, b""), "interface 0, which is not described"),
        (
            section() + interface() + packet(0, bytes(8), size=60),
            "a frame of 60 bytes in a block that holds 8",
        ),
        (section() + interface() + packet(0, b"", size=1 << 31), "a frame of 2147483648 bytes"),
        (section() + interface() + block(6, bytes(8)), "a packet block with 8 bytes in it"),
        (section() + block(1, bytes(4)), "an interface in 4 bytes"),
        (section() + interface() * 1025, "more than 1024 interfaces"),
        (section() + struct.pack("<II", 6, 1 << 31), "a block of 2147483648 bytes"),
        (section() + struct.pack("<II", 5, 8), "a block of 8 bytes"),
        (section() + struct.pack("<II", 5, 13), "a block of 13 bytes"),
        (section() + struct.pack("<IIII", 5, 16, 0, 20), "a block of 16 bytes that says 20 at its end"),
        (section() + struct.pack("<II", 5, 1 << 31), "ends within a block"),
        (b"\x0a\x0d\x0d\x0a" + bytes(20), "no known byte order"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_what_is_wrong(data: bytes, problem: str, file: Path) -> None:
    file.write_bytes(data)

    with pytest.raises(CaptureError, match=problem) as caught:
        read(file)

    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("name", ["pipe", "none", "."])
def test_what_is_no_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(CaptureError):
        CaptureReader(tmp_path / name)


def test_damage_anywhere_is_an_error_or_other_frames_and_nothing_else(file: Path) -> None:
    randomness = random.Random(5)
    whole = {
        "pcapng": ours(file).read_bytes(),
        "pcap": pcap("<", 0xA1B2C3D4, *((n, n, frame) for n, frame in enumerate(FRAMES))),
    }
    for form in whole:
        for _ in range(2000):
            damaged = bytearray(whole[form])
            for _ in range(randomness.randrange(1, 4)):
                damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)
            file.write_bytes(damaged[: randomness.randrange(len(damaged) + 1)])
            with suppress(CaptureError):
                read(file)


def test_a_stream_that_takes_a_little_at_a_time_gets_all() -> None:
    class Reluctant(io.RawIOBase):
        def __init__(self) -> None:
            self.taken = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.taken += data[:5]
            return min(5, len(data))

    slow, fast = Reluctant(), io.BytesIO()
    for out in (slow, fast):
        CaptureWriter(out).write(0, 1, FRAMES[0], is_inbound=True, comment="here")  # type: ignore[arg-type]

    assert slow.taken == fast.getvalue()
