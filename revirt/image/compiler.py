"""Programs for guests, compiled on the host: static, for amd64, and on purpose without any of the usual protections.

There is no canary on the stack, the stack is executable, the program lies at fixed addresses, its tables of addresses
stay writable, and nothing checks what is copied or printed: what the textbooks of the nineties attack.  The same
compiler and C library make the same bytes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from revirt.errors import BuildError
from revirt.image.apt import run_tool
from revirt.image.source import is_elf
from revirt.image.tools import find_tool

_COMPILERS = ("cc", "gcc", "clang")
_UNPROTECTED = (
    *("-fno-stack-protector", "-fcf-protection=none", "-U_FORTIFY_SOURCE", "-Wno-format-security"),
    *("-static", "-fno-pie", "-no-pie", "-z", "execstack", "-z", "norelro"),
)
_REPRODUCIBLE = ("-Wl,--build-id=none", "-g0", "-frandom-seed=revirt")

_MACHINE_OFFSET = 18
_AMD64 = (62).to_bytes(2, "little")


def compile_daemon(source: Path, scratch: Path) -> bytes:
    """Return the program that the C file *source* is, static and unprotected, with its symbols.

    Raises BuildError, with what the compiler said, if it cannot be compiled for amd64.
    """
    compiler = next(filter(None, map(find_tool, _COMPILERS)), None)
    if compiler is None:
        raise BuildError("no C compiler is installed", hint="on Debian install 'gcc' and 'libc6-dev'")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="compile-") as name:
        output = Path(name, "program")
        # By its name only: the path of the source would be in the program.
        command = [compiler, "-m64", "-std=gnu11", "-O1", "-w", *_UNPROTECTED, *_REPRODUCIBLE]
        command += ["-o", str(output), source.name]
        run_tool(
            command,
            source.parent,
            hint="it takes a C compiler for amd64 and a static C library: on Debian 'gcc' and 'libc6-dev'",
        )
        program = output.read_bytes()
    if not is_elf(program) or program[_MACHINE_OFFSET : _MACHINE_OFFSET + 2] != _AMD64:
        raise BuildError(f"{compiler} does not make programs for amd64")
    return program
