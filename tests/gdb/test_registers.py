"""The registers that gdb is shown are those that it demands, in its order, with the CPU's values."""

from __future__ import annotations

import pytest
from fake import BASE, cpu_registers

from revirt.gdb.registers import (
    CORE,
    SEGMENTS,
    SSE,
    Architecture,
    features,
    registers,
)
from revirt.machine.modes import program_counter

# GDB manual, "i386 Features".
X87 = [*(f"st{n}" for n in range(8)), "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"]
SELECTORS = ["cs", "ss", "ds", "es", "fs", "gs"]
CORE_32 = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags", *SELECTORS, *X87]
CORE_64 = [
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{n}" for n in range(8, 16)),
    *("rip", "eflags"),
    *SELECTORS,
    *X87,
]  # fmt: skip


def names(architecture: Architecture, feature: str) -> list[str]:
    return [register.name for register in features(architecture)[feature]]


@pytest.mark.parametrize(
    ("architecture", "core", "vectors"),
    [(Architecture.AMD64, CORE_64, 16), (Architecture.I386, CORE_32, 8), (Architecture.I8086, CORE_32, 8)],
)
def test_gdbs_own_features_are_complete_and_in_its_order(
    architecture: Architecture, core: list[str], vectors: int
) -> None:
    assert names(architecture, CORE) == core
    assert names(architecture, SSE) == [*(f"xmm{n}" for n in range(vectors)), "mxcsr"]


def test_segment_bases_are_a_feature_of_amd64() -> None:
    assert names(Architecture.AMD64, SEGMENTS) == ["fs_base", "gs_base"]
    # gdb knows that feature in 64 bits only.
    assert SEGMENTS not in features(Architecture.I386)


@pytest.mark.parametrize("architecture", list(Architecture))
def test_no_name_stands_for_two_registers(architecture: Architecture) -> None:
    found = [register.name for register in registers(architecture)]

    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("arch", "architecture"),
    [("amd64", Architecture.AMD64), ("i386", Architecture.I386), ("i8086", Architecture.I8086)],
)
def test_every_register_has_a_value_of_its_size(arch: str, architecture: Architecture) -> None:
    values = cpu_registers(arch)

    assert Architecture.of(values) is architecture
    for register in registers(architecture):
        assert len(register.encode(values)) == register.bits // 4


def test_code_of_16_bits_in_protected_mode_is_shown_as_such() -> None:
    values = {**cpu_registers("i386"), "cs.flags": 0x9B00}

    assert Architecture.of(values) is Architecture.I8086


def test_code_of_32_bits_in_long_mode_keeps_the_registers_of_long_mode() -> None:
    values = {**cpu_registers("amd64"), "cs.flags": 0x00CF9B00}

    assert Architecture.of(values) is Architecture.AMD64


def test_the_program_counter_is_linear_where_the_code_segment_has_a_base() -> None:
    values = {**cpu_registers("i8086"), "cs.base": 0xF0000, "rip": 0xFFF0}

    assert program_counter(values) == 0xFFFF0


def test_a_base_that_64_bit_code_does_not_use_is_not_added() -> None:
    values = {**cpu_registers("amd64"), "cs.base": 0x10000}

    assert program_counter(values) == BASE


def test_the_x87_stack_is_shown_from_its_top() -> None:
    # Two values pushed: TOP is 6, ST(0) lies in R6 and ST(1) in R7.
    values = {**cpu_registers("i386"), "fpsw": 6 << 11, "fp6": 2, "fp7": 1}
    shown = {register.name: register.value(values) for register in registers(Architecture.I386)}

    assert (shown["st0"], shown["st1"]) == (2, 1)


def test_what_the_core_does_not_know_is_said_to_be_unavailable() -> None:
    values = cpu_registers("i386")
    encoded = {register.name: register.encode(values) for register in registers(Architecture.I386)}

    assert encoded["fop"] == b"xxxxxxxx"
