"""Addresses as people write them.

    sum    =  term { ("+" | "-") term }
    term   =  "*" term  |  "[" sum "]"  |  "(" sum ")"  |  number  |  name
    number =  0x hexadecimal, or decimal
    name   =  a register, with or without "$";  a symbol, with or without "&"

``*term`` and ``[sum]`` are what memory holds there, as wide as an address of the code that runs.  A name that both a
register and a symbol have is the register's: ``&name`` is the symbol.  ``pc`` and ``sp`` are linear addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from revirt.errors import UsageError
from revirt.image.symbols import Symbols
from revirt.machine.modes import code_bits, program_counter, stack_pointer

_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]{1,16}|\d{1,20})(?!\w)|(?P<name>[$&]?[A-Za-z_.][\w.]*)|(?P<sign>[-+*()\[\]]))",
    re.ASCII,
)
_LONGEST = 200
_MASK = (1 << 64) - 1
_WIDE = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")

Read = Callable[[int, int], bytes]
"""Reads so many bytes from a linear address on, fewer where a page is not there."""


def register_values(values: Mapping[str, int]) -> dict[str, int]:
    """Return the registers that have a name in expressions: those of the CPU, their lower parts, pc and sp."""
    found = {name: value for name, value in values.items() if "." not in name}
    for name in _WIDE:
        whole = values[f"r{name}"]
        found[f"e{name}"], found[name] = whole & 0xFFFF_FFFF, whole & 0xFFFF
        if name.endswith("x"):
            found[f"{name[0]}l"], found[f"{name[0]}h"] = whole & 0xFF, whole >> 8 & 0xFF
    found["eip"], found["eflags"] = values["rip"] & 0xFFFF_FFFF, values["rflags"]
    found["fs_base"], found["gs_base"] = values["fs.base"], values["gs.base"]
    found["pc"], found["sp"] = program_counter(values), stack_pointer(values)
    return found


def evaluate(text: str, values: Mapping[str, int], symbols: Symbols, read: Read) -> int:
    """Return what *text* comes to, modulo 2**64, with the CPU's registers *values*.

    Raises UsageError for what is no expression, an unknown name, or memory that is not there.
    """
    return _Evaluation(text, values, symbols, read).result


class _Evaluation:
    """One expression, read from left to right."""

    def __init__(self, text: str, values: Mapping[str, int], symbols: Symbols, read: Read) -> None:
        if len(text) > _LONGEST:
            raise UsageError(f"an expression of more than {_LONGEST} characters")
        self._text = text
        self._registers = register_values(values)
        self._word = code_bits(values) // 8
        self._symbols = symbols
        self._read = read
        self._tokens = _tokens(text)
        self._place = 0
        self.result = self._sum()
        if self._next() is not None:
            raise self._malformed()

    def _sum(self) -> int:
        value = self._term()
        while (token := self._next()) in ("+", "-"):
            self._place += 1
            value += self._term() if token == "+" else -self._term()
        return value & _MASK

    def _term(self) -> int:
        token = self._next()
        self._place += 1
        if token == "*":
            return self._load(self._term())
        if token in ("[", "("):
            value = self._sum()
            if self._next() != {"[": "]", "(": ")"}[token]:
                raise self._malformed()
            self._place += 1
            return self._load(value) if token == "[" else value
        if token is None or token in "+-)]":
            raise self._malformed()
        if token[0].isdigit():
            return int(token, 0) if token[:2] in ("0x", "0X") else int(token)
        return self._named(token)

    def _named(self, token: str) -> int:
        name = token.lstrip("$&")
        value = self._registers.get(name.lower()) if token[0] != "&" else None
        if value is None and token[0] != "$":
            value = self._symbols.address_of(name)
        if value is None:
            raise UsageError(f"no register or symbol is called {name!r}", hint="numbers are 0x10 or 16")
        return value

    def _load(self, address: int) -> int:
        data = self._read(address, self._word)
        if len(data) < self._word:
            raise UsageError(f"{address:#x} is not mapped here")
        return int.from_bytes(data, "little")

    def _next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _malformed(self) -> UsageError:
        return UsageError(f"{self._text!r} is no address", hint="write as: rsp+8, [rbp-4], 0x7c00, &line+20")


def _tokens(text: str) -> list[str]:
    found, place = [], 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None:
            raise UsageError(f"{text!r} is no address", hint="write as: rsp+8, [rbp-4], 0x7c00, &line+20")
        found.append(match[0].strip())
        place = match.end()
    return found
