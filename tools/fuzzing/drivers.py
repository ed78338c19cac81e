"""Guests that do to their devices what `mischief` makes up: recorded with all of these plugged, and replayed.

The code is for 32 bits without paging, and goes round a few times.  What is read is mixed into a register, and so into
the digests.  Interrupts lead to a handler that masks them all.  Some code lies where devices write: what is overwritten
must be gone from what was translated, in a replay from any checkpoint as in the recording.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from fuzzing import FuzzError
from fuzzing.acts import Acknowledge, Act, Arrive, In, Load, Out, Poke, Store, Wait
from fuzzing.bench import DEVICES, Bench
from fuzzing.boards import CASE_SIZE
from fuzzing.chances import Chances
from fuzzing.fences import RAM
from fuzzing.guests import REPLAY_SECONDS, Babble
from fuzzing.mischief import Mischief
from fuzzing.rings import DATA_START
from fuzzing.runs import stopped_after
from revirt.image import Guest
from revirt.machine.devices import BLOCK_SIZE, Framebuffer
from revirt.machine.inputs import Frame, Keys
from revirt.monitor.network.backend import UnpluggedBackend
from revirt.monitor.plugs import DiskPlug, NicPlug, Plugs
from revirt.monitor.session import RecordOptions, record
from revirt.monitor.sources import KeySource, Wake
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import replay

RECORD_SECONDS = 5.0
_MEMORY = 4 << 20
_TAME = "driver 31"
"""A driver to which much happens, and which comes to its end."""
_STACK = 0x90000
_BASES = (0x100000, 0x100000, DATA_START + 0x4000)
"""Where the code is: out of the way, or where devices write."""
_ROUNDS = 3
_HEAD_SIZE = 84
_CODE_SELECTOR = 0x10
_GATES = 256
_HANDLER = bytes.fromhex("50 b0ff e621 e6a1 b020 e620 e6a0 58 cf")
"""PUSH EAX; all interrupts masked; both controllers told that it is over; POP EAX; IRET."""
_SHORT_DISK = 1 << 20
_NS_PER_LOOP = 10
_MOST_LOOPS = 2_000


def run_driver(rng: Random, _samples: Path, case: Path) -> None:
    """Record a guest that is a bad driver of everything there is, and replay it.

    Raises FuzzError if a replay is not exact.
    """
    acts = Mischief(Chances(rng.randbytes(CASE_SIZE)), Bench(at_once=True)).acts()
    guest = _guest(case, acts, rng.choice(_BASES))
    keys = KeySource()
    disks = []
    for number, disk in enumerate(DEVICES.disks):
        path = case / f"disk{number}"
        path.write_bytes(rng.randbytes(min(disk.size, _SHORT_DISK)))
        disks.append(DiskPlug(path, disk.overlay * BLOCK_SIZE))
    options = RecordOptions(
        clock=rng.choice(("host", "virtual")),
        until=Position(rng.choice((30_000, 300_000))),
        digest_every=rng.choice((None, 777, 20_000)),
        checkpoint_every=rng.choice((3_000, 100_000)),
        plugs=replace(_plugs(acts, keys), disks=tuple(disks)),
    )
    for act in acts:
        if isinstance(act, Arrive) and isinstance(act.arrival, Keys):
            keys.press(act.arrival.scancodes)
    with stopped_after(RECORD_SECONDS) as on_start:
        record(guest, Babble(rng), options, case / "recording", on_start=on_start)
    recording = Recording.open(case / "recording")
    for checkpoint in sorted({0, rng.choice(recording.checkpoints).number}):
        with stopped_after(REPLAY_SECONDS) as on_start:
            report = replay(recording, checkpoint=checkpoint, on_start=on_start)
        if not report.exact:
            raise FuzzError(f"not exact from checkpoint {checkpoint}: {report.divergence}")


def tame_driver(directory: Path) -> tuple[Guest, Plugs]:
    """Return a guest that is always the same, with files in *directory*, and what is plugged: no disks."""
    acts = Mischief(Chances(Random(_TAME).randbytes(CASE_SIZE)), Bench(at_once=True)).acts()
    acts += [Wait(_MOST_LOOPS * _NS_PER_LOOP)] * 10
    keys = KeySource()
    keys.press(b"\x1c\xf0\x1c")
    return _guest(directory, acts, _BASES[0]), _plugs(acts, keys)


def _guest(directory: Path, acts: Sequence[Act], base: int) -> Guest:
    image = directory / "guest.elf"
    image.write_bytes(_image(acts, base))
    return Guest(name="driver", summary="", memory=_MEMORY, file=image)


def _plugs(acts: Sequence[Act], keys: KeySource) -> Plugs:
    frames = [
        each.arrival.data for each in acts if isinstance(each, Arrive) and isinstance(each.arrival, Frame)
    ]
    nics = [NicPlug(nic.mac, lambda wake: _Cable(frames, wake)) for nic in DEVICES.nics]
    return Plugs(
        nics=tuple(nics),
        framebuffer=Framebuffer(320, 200),
        vga=True,
        rng=True,
        console=True,
        keys=keys,
    )


class _Cable(UnpluggedBackend):
    """Brings *frames*, a few at a time; what is sent goes nowhere."""

    def __init__(self, frames: Sequence[bytes], _wake: Wake) -> None:
        super().__init__()
        self._frames = list(frames)

    def frames(self) -> list[bytes]:
        taken, self._frames = self._frames[:2], self._frames[2:]
        return taken

    @property
    def is_open(self) -> bool:
        return bool(self._frames)


def _image(acts: Sequence[Act], base: int) -> bytes:
    """Return an ELF file of 32 bits for *base*: the handler, the table that leads to it, what is poked, and code."""
    handler = base + _HEAD_SIZE
    gate = struct.pack("<HHBBH", handler & 0xFFFF, _CODE_SELECTOR, 0, 0x8E, handler >> 16)
    table = handler + len(_HANDLER)
    pool = bytearray(_HANDLER + gate * _GATES + struct.pack("<HI", 8 * _GATES - 1, table))
    pointer = table + 8 * _GATES
    code = b"".join(_code(acts, pool, handler))
    setup = b"\xbc%b\x0f\x01\x1d%b\xbd%b" % tuple(
        struct.pack("<I", value) for value in (_STACK, pointer, _ROUNDS)
    )  # MOV ESP; LIDT; MOV EBP
    back = b"\x4d\x0f\x85" + struct.pack("<i", -len(code) - 7)  # DEC EBP; JNZ
    code = setup + code + back + b"\xfa\xf4"  # CLI; HLT
    entry = handler + len(pool)
    size = _HEAD_SIZE + len(pool) + len(code)
    ident = struct.pack("<4sBBB9x", b"\x7fELF", 1, 1, 1)
    head = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    load = struct.pack("<8I", 1, 0, base, base, size, size, 7, 4096)
    return ident + head + load + bytes(pool) + code


def _code(acts: Sequence[Act], pool: bytearray, start: int) -> Iterator[bytes]:
    """Yield code for each of *acts*; what it copies is added to *pool*, which is at *start*."""
    for act in acts:
        match act:
            case In(port, size):
                yield _at_port(port, b"\x31\xc0" + _WIDE[size] + (b"\xec" if size == 1 else b"\xed") + _MIX)
            case Out(port, size, value):
                write = b"\xb8" + struct.pack("<I", value) + _WIDE[size] + (b"\xee" if size == 1 else b"\xef")
                yield _at_port(port, write)
            case Load(address, size) if address >= RAM:
                read = b"\xa0" if size == 1 else _WIDE[min(size, 4)] + b"\xa1"
                yield b"\x31\xc0" + read + struct.pack("<I", address & 0xFFFF_FFFF) + _MIX
            case Store(address, size, value):
                move = b"\xc6\x05" if size == 1 else _WIDE[min(size, 4)] + b"\xc7\x05"
                data = value.to_bytes(8, "little")[: min(size, 4)]
                yield move + struct.pack("<I", address & 0xFFFF_FFFF) + data
            case Poke(address, data):
                yield _copy(start + len(pool), address, len(data))
                pool += data
            case Wait(ns):
                loops = min(max(1, ns // _NS_PER_LOOP), _MOST_LOOPS)
                yield b"\xb9" + struct.pack("<I", loops) + b"\xe2\xfe"  # MOV ECX; LOOP
            case Acknowledge():
                yield b"\xfb\x90\x90\xeb\x01\x90\xfa"  # STI; a branch; CLI
            case _:
                yield b"\xeb\x01\x90"  # a branch


_WIDE = {1: b"", 2: b"\x66", 4: b""}
_MIX = b"\x01\xc3\xc1\xc3\x05"
"""ADD EBX, EAX; ROL EBX, 5."""


def _at_port(port: int, access: bytes) -> bytes:
    return b"\xba" + struct.pack("<I", port) + access


def _copy(source: int, target: int, size: int) -> bytes:
    return b"\xfc\xbe%b\xbf%b\xb9%b\xf3\xa4" % tuple(
        struct.pack("<I", value & 0xFFFF_FFFF) for value in (source, target, size)
    )
