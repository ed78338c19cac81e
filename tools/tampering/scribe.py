"""Recordings of no guest: events, checkpoints and memory are drawn, so that many can be made."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from revirt.checkpoint.format import PAGE_SIZE
from revirt.core import hash_pages
from revirt.log.chain import SEALED, Chain
from revirt.log.events import Event, Kind
from revirt.log.frame import check_of
from revirt.machine.config import MachineConfig
from revirt.recording import CheckpointInfo, Manifest, RecordingWriter, RingLimits

MEMORY = 1 << 17
_PC = 0x7C00


class Scribe:
    """Writes a recording into the new directory *path*, sealed with the key in the file *sign*."""

    def __init__(self, path: Path, rng: Random, sign: Path, limits: RingLimits | None = None) -> None:
        contents = Manifest(
            guest={"name": "scribe", "digests": {}},
            machine=MachineConfig(MEMORY, "virtual", 0, 10).to_plain(),
            clock="virtual",
            versions={"revirt": "1"},
            command=["revirt", "record"],
        )
        self.writer = RecordingWriter.create(path, contents, limits, sign)
        self._rng = rng
        self._chain = Chain()
        self._memory = bytearray(MEMORY)
        self._branches = 0

    def note(self, count: int) -> None:
        """Append *count* events."""
        for _ in range(count):
            self._branches += self._rng.randrange(100)
            kind = self._rng.choice((Kind.CLOCK, Kind.INTERRUPT, Kind.RECEIVED, Kind.TRANSMITTED))
            data = self._rng.randbytes(self._rng.randrange(1, 40)) if kind in (2, 3) else b""
            number = 0 if data else self._rng.randrange(1 << 20)
            self._append(Event(kind, self._branches, False, _PC, self._rng.getrandbits(16), number, data))

    def checkpoint(self) -> None:
        """Write to some pages, and take a checkpoint."""
        pages = sorted(self._rng.sample(range(MEMORY // PAGE_SIZE), self._rng.randrange(1, 6)))
        if not self.writer.checkpoints:
            pages = list(range(MEMORY // PAGE_SIZE))
        contents = b"".join(self._page() for _ in pages)
        for place, page in enumerate(pages):
            start = page * PAGE_SIZE
            self._memory[start : start + PAGE_SIZE] = contents[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]
        number, state = self.writer.checkpoints, self._rng.randbytes(60)
        info = CheckpointInfo(number, self._branches, False, _PC, self._branches * 10, self.writer.events + 1)
        numbers = b"".join(page.to_bytes(4, "little") for page in pages)
        self.writer.add_checkpoint(info, state, [(numbers, contents)])
        self.digest()
        self._append(Event(Kind.CHECKPOINT, self._branches, False, _PC, 0, number, check_of(state)))

    def digest(self) -> None:
        """Append a DIGEST."""
        digests = bytes(16) + check_of(hash_pages(bytes(self._memory))) + bytes(16)
        self._append(Event(Kind.DIGEST, self._branches, False, _PC, data=digests))

    def end(self) -> dict[str, Any]:
        """Append the END; return what the manifest is to say."""
        self.digest()
        self._append(Event(Kind.END, self._branches, False, _PC, data=b"it ended"))
        return {"reason": "it ended", "exit_code": 0, "branches": self._branches, "pc": _PC}

    def _page(self) -> bytes:
        return self._rng.choice((bytes(PAGE_SIZE), self._rng.randbytes(64) * 64))

    def _append(self, event: Event) -> None:
        if event.kind in SEALED:
            event = self._chain.seal(event)
        else:
            self._chain.add(event)
        self.writer.append(event)
