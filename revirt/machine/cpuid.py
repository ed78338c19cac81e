"""What CPUID tells the guest: a plain 64-bit Intel with SSE3, of nothing that this emulator cannot repeat exactly.

No APIC, no TSC deadline, no RDRAND, no AVX: what is not offered cannot differ between two hosts.  The vendor is
GenuineIntel because the GNU C library takes an unknown vendor for a CPU too old to run on.

The model is an Atom of 2011 (Saltwell): an in-order CPU that does not speculate, as this emulator does not.  So an
operating system has no reason to defend itself against speculation, which here would protect nothing and cost a
flush of the TLB at every entry and exit of the kernel (2,000 forks in Linux: 12.8 s instead of 17 to 20).
Layout: Intel SDM volume 2, CPUID.

A recording holds the table that its guest saw, and is replayed with that.  So the table may change from one revirt to
the next, as long as the machine can do what it offers: leaves and features belong to the machine's model.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

Leaf = tuple[int, int, int, int]
CpuidTable = Mapping[tuple[int, int], Leaf]
"""(leaf, subleaf) -> (eax, ebx, ecx, edx)."""

_VENDOR = b"GenuineIntel"
_BRAND = b"revirt virtual CPU".ljust(48, b"\0")

_FAMILY_6_MODEL_0X36_STEPPING_1 = 0x00030661
_CLFLUSH_SIZE_64 = 0x00000800

_EDX_BITS = {
    "fpu": 0,
    "pse": 3,
    "tsc": 4,
    "msr": 5,
    "pae": 6,
    "cx8": 8,
    "sep": 11,
    "pge": 13,
    "cmov": 15,
    "pat": 16,
    "clfsh": 19,
    "mmx": 23,
    "fxsr": 24,
    "sse": 25,
    "sse2": 26,
}
_ECX_BITS = {"sse3": 0, "cx16": 13}
_EXTENDED_EDX_BITS = {"syscall": 11, "nx": 20, "lm": 29}
_EXTENDED_ECX_BITS = {"lahf64": 0}
_INVARIANT_TSC = 1 << 8
_ADDRESS_BITS_40_PHYSICAL_48_LINEAR = 0x3028


def _mask(bits: dict[str, int]) -> int:
    return sum(1 << bit for bit in bits.values())


def cpuid_leaves() -> CpuidTable:
    """Return the table of new machines."""
    ebx, edx, ecx = struct.unpack("<3I", _VENDOR)
    brand = struct.unpack("<12I", _BRAND)
    return {
        (0, 0): (1, ebx, ecx, edx),
        (1, 0): (_FAMILY_6_MODEL_0X36_STEPPING_1, _CLFLUSH_SIZE_64, _mask(_ECX_BITS), _mask(_EDX_BITS)),
        (0x8000_0000, 0): (0x8000_0008, 0, 0, 0),
        (0x8000_0001, 0): (0, 0, _mask(_EXTENDED_ECX_BITS), _mask(_EXTENDED_EDX_BITS)),
        (0x8000_0002, 0): (brand[0], brand[1], brand[2], brand[3]),
        (0x8000_0003, 0): (brand[4], brand[5], brand[6], brand[7]),
        (0x8000_0004, 0): (brand[8], brand[9], brand[10], brand[11]),
        (0x8000_0007, 0): (0, 0, 0, _INVARIANT_TSC),
        (0x8000_0008, 0): (_ADDRESS_BITS_40_PHYSICAL_48_LINEAR, 0, 0, 0),
    }


_REGISTERS = ("EAX", "EBX", "ECX", "EDX")
_ANY = 0xFFFF_FFFF
_IDENTITY = (_ANY, _ANY, _ANY, _ANY)
_POSSIBLE: CpuidTable = {
    (0, 0): _IDENTITY,
    (1, 0): (_ANY, _ANY, _mask(_ECX_BITS), _mask(_EDX_BITS)),
    (0x8000_0000, 0): _IDENTITY,
    (0x8000_0001, 0): (_ANY, _ANY, _mask(_EXTENDED_ECX_BITS), _mask(_EXTENDED_EDX_BITS)),
    (0x8000_0002, 0): _IDENTITY,
    (0x8000_0003, 0): _IDENTITY,
    (0x8000_0004, 0): _IDENTITY,
    (0x8000_0007, 0): (0, 0, 0, _INVARIANT_TSC),
    (0x8000_0008, 0): (_ADDRESS_BITS_40_PHYSICAL_48_LINEAR, 0, 0, 0),
}
"""The bits that a table may set on a machine of model 1: what says who the CPU is, and what it has."""

_KEY = re.compile(r"(0|[1-9a-f][0-9a-f]{0,7})\.(0|[1-9a-f][0-9a-f]{0,7})")
_VALUE = re.compile(r"[0-9a-f]{8}( [0-9a-f]{8}){3}")


def check_table(table: CpuidTable) -> None:
    """Raise ValueError, naming leaf and register, if *table* offers what a machine of model 1 has not."""
    for (leaf, subleaf), registers in table.items():
        possible = _POSSIBLE.get((leaf, subleaf))
        if possible is None:
            raise ValueError(f"CPUID has leaf {leaf:#x}.{subleaf:x}, which a machine of model 1 has not")
        for name, value, bits in zip(_REGISTERS, registers, possible, strict=True):
            if value & ~bits:
                raise ValueError(
                    f"CPUID leaf {leaf:#x}.{subleaf:x} offers {name} bits {value & ~bits:#x},"
                    " which a machine of model 1 has not"
                )


def table_to_plain(table: CpuidTable) -> dict[str, str]:
    """Return *table* as text: ``leaf.subleaf`` to EAX, EBX, ECX and EDX, all in hex."""
    return {
        f"{leaf:x}.{subleaf:x}": " ".join(f"{value:08x}" for value in registers)
        for (leaf, subleaf), registers in table.items()
    }


def table_from_plain(plain: object) -> CpuidTable:
    """Return the table that `table_to_plain` described; raises ValueError naming what is wrong."""
    if not isinstance(plain, dict):
        raise ValueError("cpuid is not a table")
    table: dict[tuple[int, int], Leaf] = {}
    for key, value in plain.items():
        leaf = _KEY.fullmatch(key)
        if leaf is None or not isinstance(value, str) or _VALUE.fullmatch(value) is None:
            raise ValueError(f"cpuid: not a leaf: {key!r:.40}: {value!r:.80}")
        eax, ebx, ecx, edx = (int(word, 16) for word in value.split())
        table[int(leaf[1], 16), int(leaf[2], 16)] = eax, ebx, ecx, edx
    return table
