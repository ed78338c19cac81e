"""Guests of random code, in every mode: whatever they do, it is recorded, and replays exactly."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

from fuzzing import FuzzError
from fuzzing.runs import stopped_after
from revirt.errors import DivergenceError
from revirt.image import Guest
from revirt.image.layout import IDENTITY_TABLES_SIZE
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession, replay

RECORD_SECONDS = 2.0
REPLAY_SECONDS = 8.0

_BASE = 0x100000
_ACCESSED_DIRTY = 0x60
_PORTS = (0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xA0, 0xA1, 0xE9, 0xF4)
_WIDE_PORTS = (*range(0x3F8, 0x400), 0xCF8, 0xCF9, 0xCFC, 0x604, 0xB004, 0x4D0)
_INSTRUCTIONS = [
    bytes.fromhex(code)
    for line in (
        "fa fb f4 fc fd f8 f9 90 9c 9d cf c3 cc 60 61 98 99 c9",  # flags, stack, HLT, IRET, RET, INT3
        "0f31 0fa2 0f05 0f34 0f30 0f32 0f01d0 0f0b 0f09 0fc7c8",  # RDTSC, CPUID, SYSCALL, MSRs, UD2, CMPXCHG8B
        "f3a4 f3aa f2ae f3ab f36c f36e",  # repeated string instructions, INS and OUTS among them
        "8ed0 8ed8 8ec0 0f20c0 0f22c0 0f22d8 0f22e0 0f0118 0f0110 0f00d8",  # segments, CRn, LIDT, LGDT, LTR
        "d9fe dbe3 d9eb ddd8 0f58c1 0fae00 f00fb10f 87e1",  # x87, SSE, FXSAVE, locked
        "e2fe 74fc 75f8 eb02 ebfb e2f4 e80300 e8030000",  # loops and calls
    )
    for code in line.split()
]


def run_random_guest(rng: Random, _samples: Path, case: Path) -> None:
    """Record a guest of random code and replay it.

    Raises FuzzError if a replay is not exact.
    """
    image = case / "guest.bin"
    image.write_bytes(_image(rng))
    guest = Guest(name="random", summary="", memory=rng.choice((1, 2, 4)) << 20, file=image)
    options = RecordOptions(
        clock=rng.choice(("host", "virtual")),
        until=Position(rng.choice((1_000, 50_000, 400_000))),
        digest_every=rng.choice((None, 777, 20_000)),
        checkpoint_every=rng.choice((3_000, 100_000)),
    )
    with stopped_after(RECORD_SECONDS) as on_start:
        record(guest, Babble(rng), options, case / "recording", on_start=on_start)
    recording = Recording.open(case / "recording")
    for checkpoint in sorted({0, rng.choice(recording.checkpoints).number}):
        with stopped_after(REPLAY_SECONDS) as on_start:
            report = replay(recording, checkpoint=checkpoint, on_start=on_start)
        if not report.exact and not _changes_its_page_tables(recording):
            raise FuzzError(f"not exact from checkpoint {checkpoint}: {report.divergence}")


def _changes_its_page_tables(recording: Recording) -> bool:
    """Whether the guest writes to the page tables that it was started with, and so may use stale translations.

    That is outside what is promised: see docs/determinism.md, "Page tables changed without telling".
    """
    session = ReplaySession(recording)
    base = session.machine.core.registers()["cr3"]
    before = _entries(session, base)
    with contextlib.suppress(DivergenceError):
        session.run()
    return _entries(session, base) != before


def _entries(session: ReplaySession, base: int) -> list[int]:
    """Return the entries of the page tables at *base*, but for what the CPU itself sets in them."""
    tables = bytes(session.machine.core.ram[base : base + IDENTITY_TABLES_SIZE])
    return [entry & ~_ACCESSED_DIRTY for (entry,) in struct.iter_unpack("<Q", tables)] if base else []


class Babble(NullConsole):
    """Types random bytes now and then, 200 times at most, and then ends the run."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._left = 200

    @property
    def pending(self) -> bool:
        return self._left > 0 and self._rng.random() < 0.3

    @property
    def finished(self) -> str | None:
        return None if self._left else "said everything"

    def take(self) -> bytes:
        self._left -= 1
        return self._rng.randbytes(self._rng.choice((1, 2, 40)))

    def wait(self, _timeout_s: float | None) -> None:
        # Does not sleep: a guest that halts for long is woken by what is typed.
        self._left = max(0, self._left - 1)


def _image(rng: Random) -> bytes:
    """Return a flat binary, or an ELF file of 32 or 64 bits: code for real, protected or long mode."""
    code = b"".join(_code(rng))
    ident = struct.Struct("<4sBBB9x")
    match rng.choice(("flat", "elf32", "elf64")):
        case "elf32":
            size = 84 + len(code)
            head = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, _BASE + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
            load = struct.pack("<8I", 1, 0, _BASE, _BASE, size, size, 7, 4096)
            return ident.pack(b"\x7fELF", 1, 1, 1) + head + load + code
        case "elf64":
            size = 120 + len(code)
            head = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
            load = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size, 4096)
            return ident.pack(b"\x7fELF", 2, 1, 1) + head + load + code
        case _:
            return code


def _code(rng: Random) -> Iterator[bytes]:
    """Yield pieces of code: a stack, then instructions of which each mode makes what it can."""
    yield b"\xbc" + struct.pack("<I", rng.choice((0x7C00, 0x80000)))
    for _ in range(rng.randrange(20, 400)):
        act = rng.random()
        if act < 0.35:
            yield rng.choice(_INSTRUCTIONS)
        elif act < 0.50:
            port, value = rng.choice(_PORTS), rng.getrandbits(8)
            yield rng.choice((bytes((0xB0, value, 0xE6, port)), bytes((0xE4, port)), bytes((0xE7, port))))
        elif act < 0.60:
            # IN and OUT by DX, of 1, 2 and 4 bytes.
            access = rng.choice((b"\xec", b"\xee", b"\xef", b"\x66\xef", b"\xed"))
            yield b"\xba" + struct.pack("<I", rng.choice(_WIDE_PORTS)) + access
        elif act < 0.70:
            yield rng.choice((b"\xe2", b"\x75", b"\x74", b"\xeb", b"\x72")) + rng.randbytes(1)
        elif act < 0.80:
            value = rng.choice((0x7C40, _BASE + 0x100, rng.getrandbits(32)))
            yield bytes((rng.randrange(0xB8, 0xC0),)) + struct.pack("<I", value)
        else:
            yield rng.randbytes(rng.randrange(1, 9))
