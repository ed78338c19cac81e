"""The registers that gdb is shown: which there are, in which order, and what each holds.

gdb knows three kinds of x86 (`Architecture`) and does not change from one to another unless it is told to ask again, so
the kind is that of the CPU's mode when it asks.  Registers stand in features; those of gdb's own features have to be
there, with these names (GDB manual, "Standard Target Features", "i386 Features"); the ones of `SYSTEM` are ours.  The
order here is that of the g packet.

gdb knows flat addresses only.  Where the code segment has a base, as in real mode, the instruction pointer it is
shown is the linear address, so that ``x/i $pc`` and breakpoints mean the same place; ``$cs_base`` is what was added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from revirt.machine.modes import LMA, Values, code_bits, program_counter

CORE = "org.gnu.gdb.i386.core"
SSE = "org.gnu.gdb.i386.sse"
SEGMENTS = "org.gnu.gdb.i386.segments"
SYSTEM = "revirt.x86.system"


class Architecture(Enum):
    """A kind of x86, by the name that gdb and BFD have for it."""

    I8086 = "i8086"
    I386 = "i386"
    AMD64 = "i386:x86-64"

    @classmethod
    def of(cls, values: Values) -> Architecture:
        """Return the one that suits the mode of the CPU with these registers.

        Long mode is AMD64, whatever the code it runs at the moment; otherwise it is the size of the code that decides.
        """
        if values["efer"] & LMA:
            return cls.AMD64
        return cls.I8086 if code_bits(values) == 16 else cls.I386

    @property
    def address_bits(self) -> int:
        """Bits of an address as gdb counts them."""
        return 64 if self is Architecture.AMD64 else 32


@dataclass(frozen=True, slots=True)
class Register:
    """A register as gdb is told of it; ``value`` is None where the CPU core does not know it."""

    name: str
    bits: int
    type: str
    value: Callable[[Values], int | None]
    group: str = ""

    def encode(self, values: Values) -> bytes:
        """Return the value as gdb wants it: hex digits in the target's byte order, ``x`` for what is not known."""
        size = self.bits // 8
        value = self.value(values)
        if value is None:
            return b"xx" * size
        return (value & (1 << self.bits) - 1).to_bytes(size, "little").hex().encode()


def features(architecture: Architecture) -> dict[str, tuple[Register, ...]]:
    """Return the registers of *architecture* by feature, both in the order in which gdb gets them."""
    return _FEATURES[architecture]


def registers(architecture: Architecture) -> tuple[Register, ...]:
    """Return all registers of *architecture*, in the order of their numbers."""
    return tuple(register for each in features(architecture).values() for register in each)


def _plain(name: str, bits: int, type_: str, source: str = "", group: str = "") -> Register:
    key = source or name
    return Register(name, bits, type_, lambda values: values[key], group)


def _general(architecture: Architecture) -> Iterator[Register]:
    if architecture is Architecture.AMD64:
        bits, prefix = 64, "r"
        names = [
            "rax",
            "rbx",
            "rcx",
            "rdx",
            "rsi",
            "rdi",
            "rbp",
            "rsp",
            *(f"r{number}" for number in range(8, 16)),
        ]
    else:
        bits, prefix = 32, "e"
        names = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"]
    for name in names:
        type_ = "data_ptr" if name[1:] in ("bp", "sp") else f"int{bits}"
        yield _plain(name, bits, type_, name if bits == 64 else f"r{name[1:]}")
    yield Register(f"{prefix}ip", bits, "code_ptr", program_counter)
    yield _plain("eflags", 32, "i386_eflags", "rflags")
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        yield _plain(name, 32, "int32")


def _x87() -> Iterator[Register]:
    for number in range(8):
        yield Register(f"st{number}", 80, "i387_ext", _stack_register(number))
    sources = {"fctrl": "fpcw", "fstat": "fpsw", "ftag": "fptag"}
    # Where the last x87 instruction and its operand were: the core does not keep that.
    for name in ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"):
        if name in sources:
            yield _plain(name, 32, "int", sources[name], "float")
        else:
            yield Register(name, 32, "int", _unknown, "float")


def _unknown(_values: Values) -> None:
    return None


def _stack_register(number: int) -> Callable[[Values], int]:
    """Return what reads ST(*number*); the core has the registers by their place, not by that in the stack."""

    def read(values: Values) -> int:
        top = values["fpsw"] >> 11 & 7
        return values[f"fp{(top + number) & 7}"]

    return read


def _vectors(architecture: Architecture) -> Iterator[Register]:
    for number in range(16 if architecture is Architecture.AMD64 else 8):
        yield _plain(f"xmm{number}", 128, "vec128")
    yield _plain("mxcsr", 32, "i386_mxcsr", group="vector")


def _system(architecture: Architecture) -> Iterator[Register]:
    bits = architecture.address_bits
    yield _plain("cr0", bits, "revirt_cr0")
    yield _plain("cr2", bits, f"int{bits}")
    yield _plain("cr3", bits, f"int{bits}")
    yield _plain("cr4", bits, "revirt_cr4")
    yield _plain("efer", bits, "revirt_efer")
    bases = (
        ["cs", "ss", "ds", "es"]
        if architecture is Architecture.AMD64
        else ["cs", "ss", "ds", "es", "fs", "gs"]
    )
    for name in bases:
        yield _plain(f"{name}_base", bits, f"int{bits}", f"{name}.base", "system")
    for table in ("gdtr", "idtr"):
        yield _plain(f"{table}_base", bits, f"int{bits}", f"{table}.base", "system")
        yield _plain(f"{table}_limit", 32, "int32", f"{table}.limit", "system")
    for name in ("ldtr", "tr"):
        yield _plain(name, 32, "int32", group="system")
        yield _plain(f"{name}_base", bits, f"int{bits}", f"{name}.base", "system")
    for number in (0, 1, 2, 3, 6, 7):
        yield _plain(f"dr{number}", bits, f"int{bits}", group="system")
    if architecture is Architecture.AMD64:
        for name in ("kernel_gs_base", "star", "lstar", "cstar", "fmask"):
            yield _plain(name, 64, "int64", group="system")


def _segments() -> Iterator[Register]:
    for name in ("fs", "gs"):
        yield _plain(f"{name}_base", 64, "int64", f"{name}.base")


def _features(architecture: Architecture) -> dict[str, tuple[Register, ...]]:
    found = {CORE: (*_general(architecture), *_x87()), SSE: tuple(_vectors(architecture))}
    if architecture is Architecture.AMD64:
        found[SEGMENTS] = tuple(_segments())
    return {**found, SYSTEM: tuple(_system(architecture))}


_FEATURES = {architecture: _features(architecture) for architecture in Architecture}
