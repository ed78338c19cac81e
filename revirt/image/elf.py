"""ELF images: bare-metal programs, and the kernel inside a bzImage.

Segments are loaded at their physical addresses.  A 32-bit file is entered in protected mode without paging; a
64-bit one in long mode with the first 4 GiB mapped onto themselves.
"""

from __future__ import annotations

import io
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from revirt.errors import ImageError
from revirt.image.boot import Boot, CpuStart, Mode
from revirt.image.layout import GDT_LIMIT, Layout

MAX_SEGMENTS = 256
_MACHINES = {"EM_386": False, "EM_X86_64": True}


@dataclass(frozen=True, slots=True)
class Segment:
    """A loadable segment: ``size`` bytes at ``paddr``, the first of them ``data`` and the rest zero."""

    paddr: int
    vaddr: int
    size: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Executable:
    """An x86 ELF executable; ``entry`` is physical."""

    is_64bit: bool
    entry: int
    segments: tuple[Segment, ...]

    @property
    def end(self) -> int:
        """The first physical address above all segments."""
        return max(segment.paddr + segment.size for segment in self.segments)

    def put(self, layout: Layout) -> None:
        """Put every segment into *layout*; raises ImageError where one does not fit."""
        layout.require(self.end, "the image")
        for index, segment in enumerate(self.segments):
            layout.put(segment.paddr, segment.data, f"segment {index} of the image", size=segment.size)


def load_elf(path: Path, data: bytes, memory: int) -> Boot:
    """Return the ELF executable *data*, read from *path*, ready for *memory* bytes.

    Raises ImageError if it is not one for x86, is truncated, or does not fit.
    """
    executable = parse(path, data)
    layout = Layout(memory, path)
    executable.put(layout)
    gdt = layout.place_gdt(is_64bit=executable.is_64bit)
    if executable.is_64bit:
        cr3 = layout.place_identity_tables()
        return layout.boot(CpuStart(Mode.LONG, executable.entry, {}, gdt, GDT_LIMIT, cr3))
    return layout.boot(CpuStart(Mode.PROTECTED, executable.entry, {}, gdt, GDT_LIMIT))


def parse(path: Path, data: bytes | mmap.mmap) -> Executable:
    """Return the executable in *data*; raises ImageError, naming *path*, if it is not one for x86."""
    try:
        file = ELFFile(io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], data))
        headers = _program_headers(file)
    except ImageError as error:
        raise ImageError(str(error), path=path) from None
    except Exception as error:
        # pyelftools raises a dozen unrelated types for damaged headers.
        raise ImageError(f"not a valid ELF file: {error or 'its headers are damaged'}", path=path) from error
    machine = file["e_machine"]
    if machine not in _MACHINES or not file.little_endian:
        raise ImageError(
            f"an ELF file for another processor ({machine})", path=path, hint="revirt runs x86 only"
        )
    if _MACHINES[machine] != (file.elfclass == 64):
        raise ImageError(
            f"{file.elfclass}-bit ELF file for {machine}", path=path, hint="link it as i386 or x86-64"
        )
    if file["e_type"] not in ("ET_EXEC", "ET_DYN"):
        raise ImageError(f"not an executable ({file['e_type']})", path=path, hint="link it first")
    if any(header["p_type"] == "PT_INTERP" for header in headers):
        raise ImageError("a program for an operating system, not a kernel", path=path)
    view = memoryview(data)
    segments = tuple(_segment(path, view, h) for h in headers if h["p_type"] == "PT_LOAD" and h["p_memsz"])
    if not segments:
        raise ImageError("nothing to load: the ELF file has no loadable segments", path=path)
    return Executable(file.elfclass == 64, _physical_entry(path, file["e_entry"], segments), segments)


def _program_headers(file: ELFFile) -> list[dict[str, int | str]]:
    count = file["e_phnum"]
    if count > MAX_SEGMENTS:
        raise ImageError(f"{count} program headers, at most {MAX_SEGMENTS}")
    if count and file["e_phentsize"] != file.structs.Elf_Phdr.sizeof():
        raise ImageError(f"program headers of {file['e_phentsize']} bytes")
    start, size = file["e_phoff"], file["e_phentsize"]
    return [struct_parse(file.structs.Elf_Phdr, file.stream, start + index * size) for index in range(count)]


def _segment(path: Path, data: memoryview, header: dict[str, int | str]) -> Segment:
    numbers = [header[key] for key in ("p_offset", "p_filesz", "p_memsz", "p_paddr", "p_vaddr")]
    offset, stored, size, paddr, vaddr = (int(number) for number in numbers)
    if stored > size:
        raise ImageError(
            f"segment at {paddr:#x} has {stored} bytes in the file for {size} in memory", path=path
        )
    if offset + stored > len(data):
        raise ImageError(
            f"truncated: the segment at {paddr:#x} ends at byte {offset + stored} of a file of {len(data)}",
            path=path,
            hint="fetch or build the file again",
        )
    return Segment(paddr, vaddr, size, data[offset : offset + stored])


def _physical_entry(path: Path, entry: int, segments: tuple[Segment, ...]) -> int:
    """Return *entry* as a physical address.

    Linux gives its entry so already; a kernel linked high gives it in the space of its virtual addresses.
    """
    if any(0 <= entry - segment.paddr < segment.size for segment in segments):
        return entry
    for segment in segments:
        if 0 <= entry - segment.vaddr < segment.size:
            return segment.paddr + entry - segment.vaddr
    raise ImageError(f"the entry point {entry:#x} is in none of its segments", path=path)
