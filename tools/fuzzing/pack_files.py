"""Packs as targets."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from random import Random

from fuzzing import FuzzError
from fuzzing.changes import Change
from fuzzing.forgery import NotForgedError
from fuzzing.packs import NAMES, forge_pack
from fuzzing.targets import Commands, Scene, Target
from fuzzing.watch import Watch
from revirt.errors import RevirtError
from revirt.recording import unpack
from revirt.recording.pack_format import BLOCK, INDEX_NAME, SUFFIX, encode_header, new_digest, padding

_CHECK = b"# check "


class Packs(Target):
    """Packs, which are unpacked; what comes out is packed again, or verified."""

    kind = "pack"
    acts = ("by force", "by force", "verify", "pack")

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._packs = [(scene.samples / f"{name}{SUFFIX}").read_bytes() for name in scene.names]
        # Not in the recordings directory: there a link to the newest one is made.
        self._place = self.directory / "packs"
        self._pack, self._target, self._again = (
            self._place / name for name in (f"hostile{SUFFIX}", "unpacked", f"again{SUFFIX}")
        )
        self._verify = commands.prepare("verify", str(self._target))
        self._repack = commands.prepare("pack", str(self._target), "-o", str(self._again), "--force")

    def samples(self) -> Sequence[bytes]:
        return self._packs

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        try:
            return forge_pack(
                rng, data, (*NAMES, f"{self.directory}/escaped", f"../{self.directory.name}/x"), change
            )
        except (RevirtError, ValueError, IndexError) as error:
            raise NotForgedError(str(error)) from error

    def reseal(self, data: bytes) -> bytes:
        """Make the header of the index right, and its check; the digests in it are left alone."""
        try:
            size = int(data[124:135], 8)
            index = data[BLOCK : BLOCK + size]
            lines = index[: index.rindex(_CHECK)]
        except ValueError:
            return data
        digest = new_digest()
        digest.update(lines)
        index = lines + _CHECK + digest.hexdigest().encode() + b"\n"
        rest = data[BLOCK + size + padding(size) :]
        return encode_header(INDEX_NAME, len(index)) + index + bytes(padding(len(index))) + rest

    def run(self, _place: int, data: bytes, act: str | None) -> list[RevirtError]:
        self._place.mkdir()
        self._pack.write_bytes(data)
        refused: list[RevirtError] = []
        try:
            with self.reading(refused, may_write=True):
                unpack(self._pack, self._target, force=act == "by force")
            expected = {self._pack} if refused else {self._pack, self._target}
            if set(self._place.iterdir()) != expected:
                raise FuzzError(f"unpacking, refused with {refused}, left {list(self._place.iterdir())}")
            if act is not None and not refused:
                self._use(act, data, refused)
        finally:
            shutil.rmtree(self._place)
        return refused

    def _use(self, act: str, data: bytes, refused: list[RevirtError]) -> None:
        """Do *act* with what came out of the pack *data*."""
        with self.reading(refused, may_write=True):
            (self._verify if act == "verify" else self._repack)()
        if act == "pack" and self._again.read_bytes() != data:
            raise FuzzError("what was unpacked is packed into something else")
