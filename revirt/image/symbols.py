"""The symbols of an ELF file: names for addresses, and addresses for names."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from revirt.errors import ImageError

_NAMED = ("STT_NOTYPE", "STT_OBJECT", "STT_FUNC")
_MOST_SYMBOLS = 1_000_000
_LONGEST_NAME = 256
_FARTHEST = 1 << 12
"""Bytes behind a symbol of unknown size that are still said to be in it."""


class Symbols:
    """Symbols as triples of name, linear address and size in bytes (0: not known)."""

    def __init__(self, symbols: Iterable[tuple[str, int, int]] = ()) -> None:
        found = sorted(symbols, key=lambda each: (each[1], each[2], each[0]))
        self._addresses = [address for _, address, _ in found]
        self._names = [name for name, _, _ in found]
        self._sizes = [size for _, _, size in found]
        self._by_name = dict(zip(self._names, self._addresses, strict=True))
        self._sorted_names = sorted(self._by_name)

    @classmethod
    def of_elf(cls, path: Path) -> Symbols:
        """Return the symbols of the ELF file *path*; raises ImageError if it is none, or cannot be read."""
        try:
            with path.open("rb") as file:
                return cls(_read(ELFFile(file)))
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}", path=path) from error
        except Exception as error:
            # pyelftools raises a dozen unrelated types for damaged headers.
            raise ImageError(
                f"not a valid ELF file: {error or 'its headers are damaged'}", path=path
            ) from error

    def __len__(self) -> int:
        return len(self._by_name)

    def address_of(self, name: str) -> int | None:
        """Return the linear address of *name*, None if there is no such symbol."""
        return self._by_name.get(name)

    def near(self, address: int) -> tuple[str, int] | None:
        """Return the symbol that *address* is in, and how far; None if it is in none."""
        place = bisect_right(self._addresses, address) - 1
        if place < 0:
            return None
        offset = address - self._addresses[place]
        if offset >= (self._sizes[place] or _FARTHEST):
            return None
        return self._names[place], offset

    def beginning_with(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with *prefix*, in order."""
        for place in range(bisect_left(self._sorted_names, prefix), len(self._sorted_names)):
            if not self._sorted_names[place].startswith(prefix):
                return
            yield self._sorted_names[place]


def _read(file: ELFFile) -> Iterator[tuple[str, int, int]]:
    for section in file.iter_sections():
        if not isinstance(section, SymbolTableSection):
            continue
        if section.num_symbols() > _MOST_SYMBOLS:
            raise ValueError(f"{section.num_symbols()} symbols")
        for symbol in section.iter_symbols():
            is_defined = symbol["st_shndx"] != "SHN_UNDEF"
            if is_defined and symbol.name and symbol["st_info"]["type"] in _NAMED:
                yield symbol.name[:_LONGEST_NAME], symbol["st_value"], symbol["st_size"]
