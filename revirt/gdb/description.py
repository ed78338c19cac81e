"""What gdb is told of the machine, as XML: its registers (GDB manual, "Target Description Format") and its memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from revirt.gdb.registers import CORE, SSE, SYSTEM, Architecture, Register, features

_HEAD = '<?xml version="1.0"?>\n<!DOCTYPE {0} SYSTEM "{1}">\n'

# Names of bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 section 3.4.3 (EFLAGS) and
# 10.2.3 (MXCSR), volume 3 section 2.5 (control registers) and 2.2.1 (EFER).
_EFLAGS = {
    "CF": 0, "": 1, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10, "OF": 11, "NT": 14, "RF": 16,
    "VM": 17, "AC": 18, "VIF": 19, "VIP": 20, "ID": 21,
}  # fmt: skip
_MXCSR = {
    "IE": 0, "DE": 1, "ZE": 2, "OE": 3, "UE": 4, "PE": 5, "DAZ": 6,
    "IM": 7, "DM": 8, "ZM": 9, "OM": 10, "UM": 11, "PM": 12, "FZ": 15,
}  # fmt: skip
_CR0 = {
    "PE": 0, "MP": 1, "EM": 2, "TS": 3, "ET": 4, "NE": 5, "WP": 16, "AM": 18, "NW": 29, "CD": 30, "PG": 31,
}  # fmt: skip
_CR4 = {
    "VME": 0, "PVI": 1, "TSD": 2, "DE": 3, "PSE": 4, "PAE": 5, "MCE": 6, "PGE": 7, "PCE": 8, "OSFXSR": 9,
    "OSXMMEXCPT": 10, "UMIP": 11, "VMXE": 13, "SMXE": 14, "FSGSBASE": 16, "PCIDE": 17, "OSXSAVE": 18, "SMEP": 20,
    "SMAP": 21, "PKE": 22,
}  # fmt: skip
_EFER = {"SCE": 0, "LME": 8, "LMA": 10, "NXE": 11}

_VEC128 = """\
<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/>
<field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/>
<field name="v4_int32" type="v4i32"/>
<field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>
"""


def target_description(architecture: Architecture) -> bytes:
    """Return the description of *architecture*'s registers."""
    parts = [
        _HEAD.format("target", "gdb-target.dtd"),
        f"<target>\n<architecture>{architecture.value}</architecture>\n<osabi>none</osabi>\n",
    ]
    for name, found in features(architecture).items():
        parts.append(f'<feature name="{name}">\n{_types(name, architecture)}')
        parts.extend(_register(register) for register in found)
        parts.append("</feature>\n")
    parts.append("</target>\n")
    return "".join(parts).encode()


def memory_map(architecture: Architecture) -> bytes:
    """Return a map that has all addresses, for reading only.

    It is about virtual addresses, of which any may be mapped; one that is left out could not be read.  "rom" has gdb
    refuse to write, and use breakpoints that need no patching.
    """
    # Two halves: no length of 64 bits covers all of them.
    half = 1 << (architecture.address_bits - 1)
    rows = (f'<memory type="rom" start="{start:#x}" length="{half:#x}"/>\n' for start in (0, half))
    head = _HEAD.format("memory-map", "gdb-memory-map.dtd")
    return f"{head}<memory-map>\n{''.join(rows)}</memory-map>\n".encode()


def _register(register: Register) -> str:
    group = f' group="{register.group}"' if register.group else ""
    return f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.type}"{group}/>\n'


def _types(feature: str, architecture: Architecture) -> str:
    size = architecture.address_bits // 8
    if feature == CORE:
        return _flags("i386_eflags", 4, _EFLAGS)
    if feature == SSE:
        return _VEC128 + _flags("i386_mxcsr", 4, _MXCSR)
    if feature == SYSTEM:
        found: Iterable[tuple[str, Mapping[str, int]]] = (("cr0", _CR0), ("cr4", _CR4), ("efer", _EFER))
        return "".join(_flags(f"revirt_{name}", size, bits) for name, bits in found)
    return ""


def _flags(name: str, size: int, bits: Mapping[str, int]) -> str:
    rows = (f'<field name="{bit}" start="{at}" end="{at}"/>\n' for bit, at in bits.items())
    return f'<flags id="{name}" size="{size}">\n{"".join(rows)}</flags>\n'
