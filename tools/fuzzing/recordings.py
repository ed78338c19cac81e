"""Damaged recordings: their bytes are changed, or what lies behind their checks, which are then made right again."""

from __future__ import annotations

import json
import shutil
import signal
import struct
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import FuzzError
from fuzzing.drivers import tame_driver
from revirt.checkpoint.format import CHECKPOINT_FRAME, PAGES_FRAME
from revirt.cli import main as revirt
from revirt.errors import RevirtError
from revirt.image import find
from revirt.index import build_index
from revirt.index.format import FRAME as INTERVALS_FRAME
from revirt.log.frame import Frame, compress_fast
from revirt.log.segment import FRAME as SEGMENT_FRAME
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.plugs import NOTHING
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import Manifest, Recording, RingLimits, pack
from revirt.recording.pack_format import SUFFIX

DRIVER = "driver"
"""The guest that no other revirt has: see `fuzzing.drivers`."""
SAMPLES: tuple[tuple[str, str, ClockMode], ...] = (
    ("hello", "hello", "virtual"),
    ("echo", "echo", "virtual"),
    ("idle", "idle", "virtual"),
    ("race", "race", "host"),
    ("timer", "timer", "virtual"),
    ("paging", "paging", "virtual"),
    ("ring", "timer", "virtual"),
    ("plugged", DRIVER, "virtual"),
)
"""Recordings that are made to be damaged, and of which guests.

A ``ring`` has forgotten its beginning; in ``plugged`` frames, keys and random bytes come and go.
"""
STOPPED = 128 + signal.SIGTERM
STATUSES = frozenset({0, 1, 2, 3, 4, STOPPED})
"""What docs/cli.md lists for commands that nobody interrupts at a terminal."""

_SPACING = 7_000
"""Branches of an interval."""
_FRAMES = {".seg": SEGMENT_FRAME, ".ckpt": CHECKPOINT_FRAME, ".pages": PAGES_FRAME, "": INTERVALS_FRAME}
_STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    "",
    "../../etc",
    "\x1b[31m\x00",
    [],
    {},
    [[[]]],
    {"": 0},
    "9" * 5000,
)


def make_samples(directory: Path) -> None:
    """Record the guests that are damaged later, each with several checkpoints, digests and intervals, and pack them."""
    for name, guest_name, clock in SAMPLES:
        guest, plugs = tame_driver(directory) if guest_name == DRIVER else (find(guest_name), NOTHING)
        console = NullConsole() if guest.script is None else ScriptedConsole(Script.load(guest.script))
        options = RecordOptions(
            clock=clock,
            checkpoint_every=20_000,
            digest_every=5_000,
            until=Position(100_000),
            limits=RingLimits(size=8_000) if name == "ring" else None,
            plugs=plugs,
        )
        record(guest, console, options, directory / name)
        build_index(Recording.open(directory / name), jobs=1, spacing=_SPACING)
        pack(directory / name, directory / f"{name}{SUFFIX}")


def damage_recording(rng: Random, samples: Path, case: Path) -> None:
    """Damage a copy of a recording and do with it what the command line can.

    Raises FuzzError for an exit status that no command should have.
    """
    path, sample = case / "recording", samples / rng.choice(SAMPLES)[0]
    shutil.copytree(sample, path)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")
        if files:
            _damage(rng, rng.choice(files))
    target, number = str(path), str(rng.randrange(4))
    position, fork = f"{rng.randrange(50_000)}:{rng.randrange(3)}", str(case / "fork")
    for words in (
        ["info", target, "--json"],
        ["events", target, "--jsonl"],
        ["console", target],
        ["console", target, "--at", position],
        ["net", target, "--jsonl"],
        ["net", target, "-o", str(case / "packets")],
        ["disk", target, "--json"],
        ["screen", target, "--at", position, "--json"],
        ["verify", target, "--json"],
        ["stats", target, "--json"],
        ["du", target, "--json"],
        ["replay", target, "--json"],
        ["audit", target, "--json"],
        ["replay", target, "--from", number, "--until", position],
        ["events", target, "--icount", "--csv"],
        ["diff", target, str(sample), "--json"],
        ["fork", target, "--at", position, "--inputs", "--batch", "--until", "60000", "-o", fork, "--json"],
        ["info", fork],
        ["replay", fork, "--json"],
    ):
        status = revirt(words)
        if status == STOPPED:
            return
        if status not in STATUSES:
            raise FuzzError(f"revirt {' '.join(words)} ended with status {status}")


def _damage(rng: Random, file: Path) -> None:
    if rng.random() < 0.4:
        _damage_bytes(rng, file)
    elif file.suffix == ".json":
        _damage_manifest(rng, file)
    elif file.suffix in _FRAMES:
        _damage_behind_checks(rng, file, _FRAMES[file.suffix])


def _damage_bytes(rng: Random, file: Path) -> None:
    act = rng.choice(("bits", "bits", "run", "cut", "extend", "swap", "directory", "delete"))
    if act == "swap":
        other = rng.choice(sorted(file.parent.glob(f"*{file.suffix}")))
        file.write_bytes(other.read_bytes() if other.is_file() else b"")
    elif act in ("delete", "directory"):
        file.unlink()
        if act == "directory":
            file.mkdir()
    else:
        file.write_bytes(changed(rng, file.read_bytes(), act))


def changed(rng: Random, whole: bytes, act: str) -> bytes:
    """Return *whole*, changed as *act* says: bits, run, cut or extend."""
    data = bytearray(whole)
    if act == "cut":
        del data[rng.randrange(len(data) + 1) :]
    elif act == "extend":
        data += rng.randbytes(rng.randrange(1, 5000))
    elif data and act == "run":
        start = rng.randrange(len(data))
        length = min(rng.choice((1, 2, 4, 8, 100)), len(data) - start)
        data[start : start + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    elif data:
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _damage_behind_checks(rng: Random, file: Path, frame: Frame) -> None:
    """Change a field of the header, or the payload, and make the checks right again."""
    data = file.read_bytes()
    try:
        header = frame.decode_header(file, data)
        start = len(data) - header.stored_size
        raw = frame.decode_payload(file, header, data[start:], offset=start)
        fields = list(header.fields)
        if rng.random() < 0.4:
            place = rng.randrange(len(fields))
            was = fields[place]
            if isinstance(was, bytes):
                fields[place] = changed(rng, was, "bits")
            else:
                fields[place] = rng.choice((0, 1, 0xFF, was + 1, rng.getrandbits(31), rng.getrandbits(64)))
        else:
            raw = changed(rng, raw, rng.choice(("bits", "bits", "run", "cut", "extend")))
        head, stored = frame.encode(tuple(fields), raw, compress_fast)
    except (RevirtError, ValueError, struct.error):
        # Damaged before, or a value that the field cannot hold.
        return
    file.write_bytes(head + data[frame.header_size : start] + stored)


def _damage_manifest(rng: Random, file: Path) -> None:
    """Put something else for one of the manifest's values, at any depth, and make its check right again."""
    try:
        plain = json.loads(file.read_bytes())
        plain.pop("check", None)
        table = plain
        while isinstance(table, dict) and table:
            key = rng.choice(sorted(table))
            if not isinstance(table[key], dict) or rng.random() < 0.3:
                table[key] = _hostile(rng, table[key])
                break
            table = table[key]
        text = Manifest(**plain).to_json()
    except (ValueError, TypeError, AttributeError):
        return
    file.write_text(text)


def _hostile(rng: Random, value: Any) -> Any:
    if isinstance(value, int) and rng.random() < 0.6:
        return rng.choice((value + 1, -1, 0, value << 1, 1 << 31, 1 << 63, 1 << 200))
    return rng.choice(_STRANGE)
