"""Instructions in words, and a listing of those around an address.

x86 cannot be read backwards: what stands before an address depends on where one begins.  A listing begins at places
that are known to begin instructions (some that were executed, the symbol before), else at the first place from which
reading on comes to the address.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import capstone

from revirt.image.symbols import Symbols

LONGEST = 15
"""Most bytes in an instruction."""
_BEFORE = 128
_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}

# Maybe with a prefix before it: repz ret.
_CALLS, _RETURNS = {"call", "lcall"}, {"ret", "retf", "retfq", "lret"}

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction at linear ``address``; bytes that are none are one each, as ``.byte``."""

    address: int
    data: bytes
    text: str

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + len(self.data)

    @property
    def is_call(self) -> bool:
        """Whether it calls a function."""
        return not _CALLS.isdisjoint(self.text.split()[:2])

    @property
    def is_return(self) -> bool:
        """Whether it returns from a function."""
        return not _RETURNS.isdisjoint(self.text.split()[:2])


class Disassembler:
    """Reads instructions of a width in bits (16, 32 or 64); targets are named by *symbols*."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._engines = {bits: capstone.Cs(capstone.CS_ARCH_X86, mode) for bits, mode in _MODES.items()}

    def instructions(self, address: int, data: bytes, bits: int) -> Iterator[Instruction]:
        """Yield the instructions in *data*, which is at *address*; a last one that is cut off is left out."""
        place = 0
        while place < len(data):
            for at, size, name, operands in self._engines[bits].disasm_lite(data[place:], address + place):
                place = at - address + size
                yield Instruction(at, data[place - size : place], self._worded(name, operands))
            if place >= len(data) or len(data) - place < LONGEST:
                return
            yield Instruction(address + place, data[place : place + 1], f".byte {data[place]:#04x}")
            place += 1

    def around(
        self, address: int, bits: int, read: Read, before: int, after: int, known: Collection[int] = ()
    ) -> list[Instruction]:
        """Return up to *before* instructions that lead to *address*, and *after* from there on.

        *known* are addresses at which instructions begin.
        """
        size = min(_BEFORE, address)
        while size and len(data := read(address - size, size)) < size:
            # A page that is not there: begin behind it.
            size = min(size - 1, (address - 1) % 4096 + 1 if size > (address - 1) % 4096 + 1 else 0)
        leading = self._leading(address, data if size else b"", bits, known)
        following = self.instructions(address, read(address, after * LONGEST), bits)
        return leading[len(leading) - before if before < len(leading) else 0 :] + [
            each for _, each in zip(range(after), following, strict=False)
        ]

    def _leading(self, address: int, data: bytes, bits: int, known: Collection[int]) -> list[Instruction]:
        """Return the instructions in *data* that end at *address*, from the best place to begin at."""
        first = address - len(data)
        symbol = self._symbols.near(address - 1) if address else None
        starts = sorted(each for each in known if first <= each < address)
        if symbol is not None:
            starts.insert(0, address - 1 - symbol[1])
        for start in (*starts, *range(first, address)):
            if start < first:
                continue
            found = list(self.instructions(start, data[start - first :] + bytes(LONGEST), bits))
            found = [each for each in found if each.address < address]
            if found and found[-1].end == address:
                return found
        return []

    def _worded(self, name: str, operands: str) -> str:
        """Return the instruction in words; an address that it goes to has its symbol behind it."""
        text = f"{name} {operands}".rstrip()
        if operands.startswith("0x") and name.startswith(("call", "j", "loop")):
            symbol = self._symbols.near(int(operands, 16))
            if symbol is not None:
                return f"{text} <{named(symbol)}>"
        return text


def named(symbol: tuple[str, int]) -> str:
    """Return a symbol and the distance from it as ``name+0x10``."""
    name, offset = symbol
    return f"{name}+{offset:#x}" if offset else name
