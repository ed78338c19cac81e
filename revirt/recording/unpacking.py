"""Unpacking: a file made by `revirt.recording.packing` becomes a recording again.

Rules:
- The pack is read once, from its beginning to its end, in pieces: it may come through a pipe, and be of any size.
- What is written is written under names that a recording may have, into a new directory that nobody else may enter,
  beside the one it is to become.
- The recording is there when all of it has been compared with the pack's digests, was verified, and is on the disk;
  or nothing is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from revirt.errors import HostError, RecordingError
from revirt.log.frame import open_file, write_all
from revirt.recording import layout
from revirt.recording.pack_format import (
    BLOCK,
    END,
    Index,
    Member,
    corrupt_pack,
    decode_index_header,
    new_digest,
    padding,
)
from revirt.recording.packed_disks import expand_images
from revirt.recording.packing import PIECE, PackReport, check, wanted_disks
from revirt.recording.placing import new_recording, refuse_existing
from revirt.recording.progress import Progress, no_progress

_PREFIX = ".revirt-unpack-"


def unpack(
    source: Path, target: Path, *, force: bool = False, progress: Progress = no_progress
) -> PackReport:
    """Unpack the file *source* into the new directory *target*; raises as `unpack_from`."""
    refuse_existing(target.absolute())
    with open_pack(source) as file:
        size = os.fstat(file.fileno()).st_size
        return unpack_from(file, target, source=source, size=size, force=force, progress=progress)


def open_pack(source: Path) -> BinaryIO:
    """Open the file *source*; raises RecordingError if there is none, CorruptError if it is something else."""
    if source.is_dir():
        raise RecordingError(f"{source} is a directory, not a pack", hint="packs are made by 'revirt pack'")
    if not os.path.lexists(source):
        raise RecordingError(f"there is no file {source}", hint="check the path")
    return open_file(source, follow=True)


def unpack_from(
    stream: BinaryIO,
    target: Path,
    *,
    source: Path,
    size: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> PackReport:
    """Unpack what *stream* holds, all of it, into the new directory *target*.

    *source* is its name in errors, *size* how many bytes it has, if that is known.

    Raises CorruptError if it is not what `pack` makes, FormatVersionError if a newer revirt made it or what is in it,
    RecordingExistsError if there is something at *target*, HostError if that cannot be written.  A recording that
    was damaged when it was packed is refused with CorruptError unless *force*.  When it raises, or is
    interrupted, nothing is left behind; unless the recording is whole and in its place, and only that
    could not be synced any more.
    """
    target = target.absolute()
    refuse_existing(target)
    pack = _Source(stream, source, progress)
    index = pack.read_index()
    if size not in (None, index.pack_size):
        raise corrupt_pack(source, f"{size} bytes where {index.pack_size} belong", min(size, index.pack_size))
    try:
        with new_recording(target, _PREFIX) as made:
            for name in layout.ALWAYS:
                (made / name).mkdir()
            for member in index:
                (made / member.name).parent.mkdir(exist_ok=True)
                pack.copy(member, made / member.name)
            pack.finish()
            (made / layout.LOCK).touch()
            progress("checking", 0, None)
            uuid, problems = check(made, force=force, source=source)
            expand_images(made, source, progress)
            disks = wanted_disks(made)
    except OSError as error:
        problem = error.strerror or str(error)
        hint = "choose a writable directory with free space with -o"
        raise HostError(f"cannot unpack into {target}: {problem}", hint=hint) from error
    return PackReport(
        target,
        uuid,
        index.count,
        pack.offset,
        pack.digest(),
        problems,
        disks=disks,
        has_images=index.has_images,
    )


class _Source:
    """A pack, read from its front; everything that it gives was in its place."""

    def __init__(self, stream: BinaryIO, path: Path, progress: Progress) -> None:
        self.offset = 0
        """Bytes read so far."""
        self._stream = stream
        self._path = path
        self._hash = new_digest()
        self._progress = progress
        self._total: int | None = None

    def read_index(self) -> Index:
        """Return the index, which comes first; raises CorruptError or FormatVersionError."""
        size = decode_index_header(self._path, self._read_some(BLOCK))
        # In pieces: what the header claims is allocated when it has come.
        data = b"".join(self._pieces(size))
        index = Index.decode(self._path, data)
        self._expect(bytes(padding(size)), "zeros behind the index")
        self._total = index.pack_size
        return index

    def copy(self, member: Member, path: Path) -> None:
        """Write the next file, *member*, to the new file *path*; raises CorruptError, and OSError for *path*."""
        self._expect(member.header, f"the header of {member.name}")
        start, digest = self.offset, new_digest()
        with open(path, "xb", buffering=0) as file:
            for piece in self._pieces(member.size):
                digest.update(piece)
                write_all(file, piece)
                self._progress("unpacking", self.offset, self._total)
        if digest.digest() != member.digest:
            raise corrupt_pack(self._path, f"{member.name} does not have its digest", start)
        self._expect(bytes(padding(member.size)), f"zeros behind {member.name}")

    def finish(self) -> None:
        """Read the end; raises CorruptError if there is another, or none."""
        self._expect(END, "the end of the pack")
        if self._take(1):
            raise corrupt_pack(self._path, "there is more behind the end of the pack", self.offset - 1)

    def digest(self) -> bytes:
        """Return the BLAKE2b-256 of everything read."""
        return self._hash.digest()

    def _expect(self, expected: bytes, what: str) -> None:
        start = self.offset
        if self._read(len(expected)) != expected:
            raise corrupt_pack(self._path, f"not {what}", start)

    def _pieces(self, size: int) -> Iterator[bytes]:
        end = self.offset + size
        while self.offset < end:
            yield self._read(min(PIECE, end - self.offset))

    def _read(self, size: int) -> bytes:
        data = self._read_some(size)
        if len(data) < size:
            raise corrupt_pack(self._path, "cut short", self.offset)
        return data

    def _read_some(self, size: int) -> bytes:
        """Return the next *size* bytes, fewer only at the end of the stream."""
        data = self._take(size)
        while len(data) < size and (more := self._take(size - len(data))):
            data += more
        return data

    def _take(self, size: int) -> bytes:
        """Return 1 to *size* bytes, none at the end of the stream."""
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise RecordingError(f"cannot read {self._path}: {error.strerror or error}") from error
        if data is None:
            raise RecordingError(f"cannot read {self._path}: nothing has come yet, and it does not wait")
        self.offset += len(data)
        self._hash.update(data)
        return data
