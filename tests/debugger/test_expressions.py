"""Addresses as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.debugger.expressions import evaluate
from revirt.errors import UsageError
from revirt.image.symbols import Symbols

MEMORY = bytes(range(256))
SYMBOLS = Symbols([("line", 0x40, 8), ("rax", 0x50, 8)])
LONG = {"efer": 1 << 10, "cs.flags": 1 << 21}


def registers(**changed: int) -> dict[str, int]:
    """Return the registers of a CPU in 64-bit code, but for those *changed*."""
    general = {f"r{name}": 0 for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip", "flags")}
    system = {"cr0": 1, **LONG, "cs.base": 0, "ss.base": 0, "ss.flags": 0, "fs.base": 0, "gs.base": 0}
    return {**general, **system, "rax": 0x1122334455667788, "rsp": 0x10, "rip": 0x20, **changed}


def value(text: str, **changed: int) -> int:
    def read(address: int, size: int) -> bytes:
        return MEMORY[address : address + size]

    return evaluate(text, registers(**changed), SYMBOLS, read)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16", 16),
        ("0x10", 16),
        ("rsp", 0x10),
        ("$rsp", 0x10),
        ("RSP", 0x10),
        ("rsp+8", 0x18),
        (" rsp + 8 - 4 ", 0x14),
        ("1-2", 0xFFFF_FFFF_FFFF_FFFF),
        ("(1+2)-(1-0)", 2),
        ("eax", 0x55667788),
        ("ax", 0x7788),
        ("ah", 0x77),
        ("al", 0x88),
        ("line+4", 0x44),
        ("rax", 0x1122334455667788),
        ("&rax", 0x50),
        ("pc", 0x20),
        ("sp", 0x10),
        ("[rsp]", 0x1716151413121110),
        ("*rsp", 0x1716151413121110),
        ("*rsp+1", 0x1716151413121111),
        ("[[0]-[0]+16]", 0x1716151413121110),
    ],
)
def test_an_expression_comes_to(text: str, expected: int) -> None:
    assert value(text) == expected


def test_memory_is_read_as_wide_as_addresses_are() -> None:
    assert value("[16]", efer=0, **{"cs.flags": 1 << 22}) == 0x13121110
    assert value("[16]", efer=0, **{"cs.flags": 0}) == 0x1110


def test_in_real_mode_pc_and_sp_are_linear() -> None:
    real = {"cr0": 0, "efer": 0, "cs.flags": 0, "cs.base": 0x7C0, "ss.base": 0x9000}

    assert value("pc", **real) == 0x7E0
    assert value("sp", **real) == 0x9010


@pytest.mark.parametrize(
    "text", ["", "+", "1+", "(1", "[1)", "1 2", "0x", "1a", "a b", "$", "é", "[", "*", "1" * 300]
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        value(text)


@pytest.mark.parametrize(
    ("text", "named"), [("nowhere", "nowhere"), ("$line", "line"), ("[0x1000]", "0x1000")]
)
def test_what_is_not_there_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        value(text)


@given(st.text(alphabet="rsp[]()+-*$&0x19 line", max_size=200))
def test_any_text_has_a_value_or_is_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert 0 <= value(text) < 1 << 64
