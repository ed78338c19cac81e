"""What CPUID tells the guest: a plain 64-bit Intel with SSE3, of nothing that this emulator cannot repeat exactly.

No APIC, no TSC deadline, no RDRAND, no AVX: what is not offered cannot differ between two hosts.  The vendor is
GenuineIntel because the GNU C library takes an unknown vendor for a CPU too old to run on.

The model is an Atom of 2011 (Saltwell): an in-order CPU that does not speculate, as this emulator does not.  So an
operating system has no reason to defend itself against speculation, which here would protect nothing and cost a
flush of the TLB at every entry and exit of the kernel (2,000 forks in Linux: 12.8 s instead of 17 to 20).
Layout: Intel SDM volume 2, CPUID.
"""

from __future__ import annotations

import struct

Leaf = tuple[int, int, int, int]

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


def cpuid_leaves() -> dict[tuple[int, int], Leaf]:
    """Return (leaf, subleaf) -> (eax, ebx, ecx, edx)."""
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
