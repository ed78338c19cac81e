"""What a CPU's registers say of its mode: how wide code is, and where code and stack are in linear memory.

Intel SDM volume 3, 3.4.5 (segment descriptors), 5.3 and 2.2 (long mode): a code segment's descriptor tells 16 from 32
bits (D), in long mode 64 bits (L); that of the stack tells SP from ESP (B).  In 64-bit code segments have no base.
"""

from __future__ import annotations

from collections.abc import Mapping

LMA, PE, VM = 1 << 10, 1 << 0, 1 << 17
"""Bits of EFER, CR0 and EFLAGS."""
CODE_64, CODE_32, STACK_32 = 1 << 21, 1 << 22, 1 << 22
"""Bits L, D and B of a segment's descriptor, second word."""

Values = Mapping[str, int]
"""The CPU's registers by name, as `revirt.core.Core.registers` has them."""


def code_bits(values: Values) -> int:
    """Return how wide the code is that the CPU runs: 16, 32 or 64 bits."""
    if values["efer"] & LMA and values["cs.flags"] & CODE_64:
        return 64
    if not values["cr0"] & PE or values["rflags"] & VM or not values["cs.flags"] & CODE_32:
        return 16
    return 32


def program_counter(values: Values) -> int:
    """Return the linear address of the instruction to come."""
    if code_bits(values) == 64:
        return values["rip"]
    return (values["cs.base"] + values["rip"]) & 0xFFFF_FFFF


def stack_pointer(values: Values) -> int:
    """Return the linear address of the top of the stack."""
    if code_bits(values) == 64:
        return values["rsp"]
    is_wide = values["cr0"] & PE and not values["rflags"] & VM and values["ss.flags"] & STACK_32
    offset = values["rsp"] & (0xFFFF_FFFF if is_wide else 0xFFFF)
    return (values["ss.base"] + offset) & 0xFFFF_FFFF
