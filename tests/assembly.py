"""Machine code for tests: GNU assembler source in, bytes out."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path


@cache
def assemble(source: str, bits: int, origin: int) -> bytes:
    """Return the code of *source* (Intel syntax) for a 16-, 32- or 64-bit code segment, linked at *origin*.

    Raises subprocess.CalledProcessError, with the assembler's words on stderr, if the source is wrong.
    """
    text = f".intel_syntax noprefix\n.code{bits}\n.globl _start\n_start:\n{source}\n"
    emulation = "elf_x86_64" if bits == 64 else "elf_i386"
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        _run("as", "--64" if bits == 64 else "--32", "-o", here / "code.o", "-", text=text)
        _run("ld", "-m", emulation, f"-Ttext={origin:#x}", "-o", here / "code.elf", here / "code.o")
        _run("objcopy", "-O", "binary", "-j", ".text", here / "code.elf", here / "code.bin")
        return (here / "code.bin").read_bytes()


def _run(*command: str | Path, text: str = "") -> None:
    subprocess.run([str(word) for word in command], input=text, text=True, check=True)
