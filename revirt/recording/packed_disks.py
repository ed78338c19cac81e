"""Images of disks in a pack: each as one zstd stream (RFC 8878), ``disks/<n>.zst``, which `zstd -d` reads, too.

Rules:
- An image is packed only if it is the one that the recording was made with, and taken out only if it is.
- It is compressed once, into a scratch file: the index of the pack wants its size and its digest first.
- Taken out it has at most the size that the manifest says, and holes where it holds zeros.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import zstandard

from revirt.errors import CorruptError, RecordingError
from revirt.image.base import SECTOR_SIZE, BaseImage, note_digest
from revirt.image.sparse import PIECE, SparseWriter
from revirt.machine.devices import Disk
from revirt.recording import layout
from revirt.recording.disks import base_path, open_bases
from revirt.recording.machine import machine_of
from revirt.recording.manifest import NAME, Manifest
from revirt.recording.progress import Progress

_LEVEL = 3
_WINDOW = 128 << 20
"""Most bytes that a stream may refer back: what `zstd` itself makes at its highest level."""


def disks_of(recording: Path) -> tuple[Disk, ...]:
    """Return the disks of the machine in the directory *recording*; raises CorruptError or FormatVersionError."""
    return machine_of(recording, Manifest.read(recording / NAME)).devices.disks


def compress_images(recording: Path, scratch: Path, progress: Progress) -> dict[str, Path]:
    """Compress the images of the disks of *recording* into files in *scratch*; return these by their names in a pack.

    Raises RecordingError if one is missing, another, or changes meanwhile, HostError if one cannot be read, and
    OSError for *scratch*.
    """
    made = {}
    disks = disks_of(recording)
    for number, image in enumerate(open_bases(recording, disks)):
        path = scratch / str(number)
        _compress(image, disks[number].size, path, progress)
        if not image.is_unchanged:
            raise RecordingError(f"{image.path} changed while it was being packed", hint="pack it again")
        image.close()
        made[layout.packed_disk_name(number)] = path
    return made


def expand_images(recording: Path, source: Path, progress: Progress) -> None:
    """Make images of the compressed ones in *recording*, which was unpacked from *source*; these are deleted.

    Raises CorruptError if one is not the image that the recording was made with, and OSError.
    """
    directory = recording / layout.DISKS
    if not directory.is_dir():
        return
    disks = disks_of(recording)
    for path in sorted(directory.iterdir()):
        number = layout.packed_disk(f"{layout.DISKS}/{path.name}")
        if number is None or number >= len(disks):
            raise CorruptError(source, f"{path.name} is the image of a disk that there is not", hint="")
        place = base_path(recording, number)
        if _expand(path, place, disks[number], progress) != disks[number].sha256:
            problem = f"the image of disk {number} is not the one that it was recorded with"
            raise CorruptError(source, problem, hint="get the pack again from where it came")
        note_digest(place, disks[number].sha256)
        path.unlink()


def _compress(image: BaseImage, size: int, path: Path, progress: Progress) -> None:
    with open(path, "xb") as file, zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file) as packer:
        done = 0
        for piece in image.pieces():
            if isinstance(piece, int):
                for start in range(0, piece, PIECE):
                    packer.write(bytes(min(PIECE, piece - start)))
                done += piece
            else:
                packer.write(piece)
                done += len(piece)
            progress("compressing disks", done, size)


def _expand(path: Path, place: Path, disk: Disk, progress: Progress) -> str:
    """Write what the stream *path* holds to the new file *place*; return its SHA-256, none if it is too large."""
    found = hashlib.sha256()
    target = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        writer = SparseWriter(target)
        with open(path, "rb") as file:
            unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
            stream = unpacker.stream_reader(file, read_across_frames=True)
            while data := _read_whole(stream):
                if writer.size + len(data) > disk.size:
                    return ""
                found.update(data)
                writer.write(data)
                progress("unpacking disks", writer.size, disk.size)
        writer.finish()
    except zstandard.ZstdError:
        return ""
    finally:
        os.close(target)
    return found.hexdigest() if -(-writer.size // SECTOR_SIZE) * SECTOR_SIZE == disk.size else ""


def _read_whole(stream: zstandard.ZstdDecompressionReader) -> bytes:
    """Return PIECE bytes, fewer at the end of the *stream* only."""
    data: bytes = stream.read(PIECE)
    while len(data) < PIECE and (more := stream.read(PIECE - len(data))):
        data += more
    return data
