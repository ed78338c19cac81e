"""Damaged packs: their bytes are changed, or what their digests are of, which are then made right again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzzing import FuzzError
from fuzzing.changes import Change
from fuzzing.recordings import SAMPLES, STATUSES, STOPPED, changed
from revirt.cli import main as revirt
from revirt.recording.pack_format import (
    BLOCK,
    END,
    INDEX_NAME,
    ROOT,
    SUFFIX,
    Index,
    encode_header,
    new_digest,
    padding,
)

NAMES = (
    *(
        "../escaped",
        "/tmp/escaped",
        "log/../../escaped",
        "log/./00000000.seg",
        "log//00000000.seg",
        "lock",
        "log",
        "",
    ),
    *(
        "manifest.json",
        "log/00000000.seg",
        "log/99999999.seg",
        "pages/00000000.ckpt",
        "checkpoints/00000001.ckpt",
    ),
    *("log/00000000.seg.tmp", "manifest.json/x", "n" * 90, "log/\x1b[2J", "log\\00000000.seg"),
)
_NUMBERS = (0, 1, 511, 512, 513, 1 << 20, 8**11 - 1, 8**11, 10**10, 1 << 63)


@dataclass(slots=True)
class _Part:
    """A file in a pack, as it stands there and as the index has it."""

    name: str
    data: bytes
    claimed_size: int
    claimed_digest: str


def damage_pack(rng: Random, samples: Path, case: Path) -> None:
    """Damage a pack, unpack it, and do with what comes out what the command line can.

    Raises FuzzError for an exit status that no command should have, and for files that are left behind.
    """
    whole = (samples / f"{rng.choice(SAMPLES)[0]}{SUFFIX}").read_bytes()
    damaged = forge_pack(rng, whole, (*NAMES, f"{case}/escaped")) if rng.random() < 0.7 else whole
    if damaged == whole or rng.random() < 0.1:
        damaged = changed(rng, damaged, rng.choice(("bits", "run", "cut", "extend")))
    # Not in the recordings directory: there a link to the newest one is made.
    target = case / "packs" / "unpacked"
    target.parent.mkdir()
    pack = case / f"damaged{SUFFIX}"
    pack.write_bytes(damaged)
    before = set(case.rglob("*"))
    force = ["--force"] if rng.random() < 0.5 else []
    status = _run(["unpack", str(pack), "-o", str(target), "--json", *force])
    left = {path for path in set(case.rglob("*")) - before if not path.is_relative_to(target)}
    if left or target.exists() != (status == 0):
        raise FuzzError(
            f"unpack ended with status {status} and left {sorted(target.parent.iterdir())}, {sorted(left)}"
        )
    if status == 0:
        _run(["replay", str(target), "--json"])
        _run(["pack", str(target), "-o", str(case / f"again{SUFFIX}"), *force])


def _run(words: list[str]) -> int:
    status = revirt(words)
    if status not in STATUSES:
        raise FuzzError(f"revirt {' '.join(words)} ended with status {status}")
    # Who was asked to stop does no more.
    if status == STOPPED:
        raise SystemExit(0)
    return status


def forge_pack(rng: Random, whole: bytes, names: tuple[str, ...], change: Change | None = None) -> bytes:
    """Change files, or what the index has of them, such as one of *names*, and make everything else fit again.

    *change* changes the bytes of a file.
    """
    change = change or (lambda data: changed(rng, data, rng.choice(("bits", "run", "cut", "extend"))))
    parts = _parts(whole)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(parts))
        part = parts[place]
        match rng.choice(("data", "data", "size", "name", "digest", "drop", "twice", "swap")):
            case "data":
                part.data = change(part.data)
                part.claimed_size, part.claimed_digest = len(part.data), _digest(part.data)
            case "size":
                part.claimed_size = rng.choice((*_NUMBERS, part.claimed_size + 1))
            case "name":
                part.name = rng.choice(names)
            case "digest":
                part.claimed_digest = rng.choice(("0" * 64, _digest(b"")))
            case "drop" if len(parts) > 1:
                del parts[place]
            case "twice":
                parts.insert(place, part)
            case "swap":
                parts[place], parts[-1] = parts[-1], parts[place]
    index = _index(rng, parts)
    files = b"".join(_archived(f"{ROOT}/{part.name}", part.data, part.claimed_size) for part in parts)
    return _archived(INDEX_NAME, index, len(index)) + files + END


def _parts(whole: bytes) -> list[_Part]:
    size = int(whole[124:135], 8)
    place = BLOCK + size + padding(size)
    parts = []
    for member in Index.decode(Path(), whole[BLOCK : BLOCK + size]):
        place += BLOCK
        data = whole[place : place + member.size]
        parts.append(_Part(member.name, data, member.size, member.digest.hex()))
        place += member.size + padding(member.size)
    return parts


def _index(rng: Random, parts: list[_Part]) -> bytes:
    version = rng.choice((1, 1, 1, 1, 1, 1, 2, 0, 10**30))
    text = f"# revirt pack {version}\n"
    for part in parts:
        text += f"# {part.claimed_size} bytes\nBLAKE2b-256 ({ROOT}/{part.name}) = {part.claimed_digest}\n"
    if rng.random() < 0.1:
        text = re.sub(r"\n", rng.choice(("\r\n", "\n\n", " \n", "")), text, count=rng.randrange(1, 4))
    return text.encode() + f"# check {_digest(text.encode())}\n".encode()


def _archived(name: str, data: bytes, size: int) -> bytes:
    try:
        header = encode_header(name, size)
    except ValueError:
        header = bytes(BLOCK)
    return header + data + bytes(padding(len(data)))


def _digest(data: bytes) -> str:
    digest = new_digest()
    digest.update(data)
    return digest.hexdigest()
