"""Listings, against what objdump makes of the same bytes."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest
from library import RecordingOf

from revirt.debugger import Session
from revirt.debugger.code import Disassembler
from revirt.image.symbols import Symbols
from revirt.timeline import seek_point

GUESTS = Path(__file__).parents[2] / "guests"
_LISTED = re.compile(r"^\s*([0-9a-f]+):\t", re.MULTILINE)


def objdump(*arguments: str) -> list[int]:
    """Return the addresses at which objdump finds instructions."""
    command = ["objdump", "-d", "--no-show-raw-insn", *arguments]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(address, 16) for address in _LISTED.findall(listed)]


@pytest.mark.parametrize("function", ["main", "grant", "read_line"])
def test_32_bit_code_is_cut_as_objdump_cuts_it(session: Session, function: str) -> None:
    expected = objdump(f"--disassemble={function}", str(GUESTS / "vuln" / "vuln.elf"))
    start = session.evaluate(function)

    listed = session.disassembler.around(start, 32, session.timeline.read, 0, len(expected))

    assert len(expected) > 10
    assert [each.address for each in listed] == expected


def test_16_bit_code_is_listed_from_its_start(recording_of: RecordingOf) -> None:
    session = Session(recording_of("hello"))
    path = str(GUESTS / "hello" / "hello.bin")
    expected = objdump("-D", "-b", "binary", "-m", "i8086", "--adjust-vma=0x7c00", path)

    listed = session.disassembler.around(session.pc, session.bits, session.timeline.read, 0, 6)

    assert session.bits == 16
    assert [each.address for each in listed] == expected[:6]


@pytest.mark.parametrize("guest", ["vuln", "paging", "race"])
def test_listings_come_to_the_instruction_that_is_executed(guest: str, recording_of: RecordingOf) -> None:
    session = Session(recording_of(guest))

    for share in (10, 35, 60, 85):
        seek_point(session.timeline, f"{share}%")
        trail = session.walk.trail()
        known = {*trail.before, *trail.after}
        listed = session.disassembler.around(session.pc, session.bits, session.timeline.read, 10, 10, known)
        addresses = [each.address for each in listed]

        assert session.pc in addresses
        assert all(one.end == other.address for one, other in itertools.pairwise(listed))
        assert len(addresses) >= 11


def test_bytes_that_are_no_instruction_stand_alone() -> None:
    data = bytes.fromhex("06") + bytes(20)  # PUSH ES, which 64-bit code does not have

    found = list(Disassembler(Symbols()).instructions(0, data, 64))

    assert (found[0].text, found[0].data) == (".byte 0x06", b"\x06")


def test_code_right_behind_a_page_that_is_missing_can_be_listed() -> None:
    page = b"\x90" * 4096

    def read(address: int, size: int) -> bytes:
        return page[address - 4096 : address - 4096 + size] if address >= 4096 else b""

    disassembler = Disassembler(Symbols())

    assert [each.address for each in disassembler.around(4098, 64, read, 5, 1)] == [4096, 4097, 4098]
    assert [each.address for each in disassembler.around(4096, 64, read, 5, 1)] == [4096]
    assert disassembler.around(0, 64, read, 5, 1) == []


@pytest.mark.parametrize(
    ("code", "is_call", "is_return"),
    [
        ("e800000000", True, False),
        ("ffd0", True, False),
        ("3effd0", True, False),
        ("ff18", True, False),
        ("c3", False, True),
        ("f3c3", False, True),
        ("c20800", False, True),
        ("cb", False, True),
        ("48cb", False, True),
        ("48cf", False, False),
        ("ebfe", False, False),
    ],
)
def test_calls_and_returns_are_known_with_prefixes(code: str, is_call: bool, is_return: bool) -> None:
    (found,) = Disassembler(Symbols()).instructions(0x1000, bytes.fromhex(code), 64)

    assert (found.is_call, found.is_return) == (is_call, is_return)
