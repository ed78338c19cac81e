"""Packing: a recording becomes one file, which `revirt.recording.pack_format` describes.

Rules:
- A recording is verified before it is packed, and none is packed while it is being recorded.
- Every file is read twice: for the index, which comes first in the pack, and to be copied.  One that is not the same
  the second time ends it.
- Images of disks are no part of a recording.  They are in a pack if that is asked for.
- The pack is there whole or not at all, and takes nobody's place.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from revirt.errors import CorruptError, FormatVersionError, HostError, RecordingError, RecordingExistsError
from revirt.log.frame import list_directory, open_file, read_at
from revirt.machine.devices import Disk
from revirt.recording import layout, manifest
from revirt.recording.manifest import RecordingState
from revirt.recording.pack_format import (
    END,
    INDEX_NAME,
    MEMBER_LIMIT,
    Index,
    Member,
    encode_header,
    new_digest,
    padding,
)
from revirt.recording.packed_disks import compress_images, disks_of
from revirt.recording.progress import Progress, no_progress
from revirt.recording.reader import Recording

_PREFIX = ".revirt-pack-"
PIECE = 1 << 20
"""Bytes that are read, hashed and written at a time."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """What was packed or unpacked.

    ``path`` is the file or directory that was made, None for a stream.  ``size`` and ``digest`` are those of the whole
    pack, in bytes and as BLAKE2b-256; ``files`` says how many files of the recording are in it.  ``problems`` counts
    what `Recording.verify` finds in a recording that was packed or unpacked by force.  ``left_out`` are names in
    the recording's directory that mean nothing there.  ``disks`` are those that the recording wants the images of;
    ``has_images`` says whether these are in the pack.
    """

    path: Path | None
    uuid: str | None
    files: int
    size: int
    digest: bytes
    problems: int = 0
    left_out: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    has_images: bool = False


def pack(
    recording: Path,
    target: Path,
    *,
    force: bool = False,
    with_disks: bool = False,
    progress: Progress = no_progress,
) -> PackReport:
    """Pack the recording in the directory *recording* into the new file *target*.

    Raises RecordingExistsError if there is something at *target*, HostError if it cannot be written, and as
    `pack_to`; nothing is left behind then.
    """
    target = target.absolute()
    if os.path.lexists(target):
        raise _exists(target)
    if target.parent.resolve().is_relative_to(recording.resolve()):
        raise RecordingError(f"{target} is inside the recording", hint="name another place with -o")
    try:
        with _new_file(target) as file:
            report = pack_to(
                recording,
                file,
                force=force,
                with_disks=with_disks,
                scratch=target.parent,
                progress=progress,
            )
    except OSError as error:
        problem = error.strerror or str(error)
        raise HostError(
            f"cannot write {target}: {problem}", hint="choose a place with free space with -o"
        ) from error
    return replace(report, path=target)


def pack_to(
    recording: Path,
    out: BinaryIO,
    *,
    force: bool = False,
    with_disks: bool = False,
    scratch: Path | None = None,
    progress: Progress = no_progress,
) -> PackReport:
    """Write a pack of the recording in the directory *recording* to *out*, *with_disks* with the images of its disks.

    These are compressed in a directory made in *scratch*, or else where the host has such.

    Raises NoRecordingError if there is none, RecordingError if it is still being recorded or changes meanwhile,
    FormatVersionError if a newer revirt made it.  One that is damaged is refused with CorruptError unless *force*:
    then it is packed as it is.  What *out* raises is passed on.
    """
    uuid, problems = check(recording, force=force, progress=progress)
    names, left_out = _names(recording)
    with ExitStack() as stack:
        images: Mapping[str, Path] = {}
        if with_disks:
            directory = stack.enter_context(TemporaryDirectory(prefix=_PREFIX, dir=scratch))
            images = compress_images(recording, Path(directory), progress)
        files = {name: images.get(name, recording / name) for name in (*names, *images)}
        index = Index.of(recording, _members(files, progress), has_images=bool(images))
        sink = _Sink(out, index.pack_size, progress)
        sink.write(encode_header(INDEX_NAME, len(index.data)))
        sink.write(index.data)
        sink.write(bytes(padding(len(index.data))))
        for member in index:
            sink.write(member.header)
            _copy(files[member.name], member, sink)
            sink.write(bytes(padding(member.size)))
        sink.write(END)
    out.flush()
    return PackReport(
        None,
        uuid,
        index.count,
        sink.size,
        sink.digest(),
        problems,
        tuple(left_out),
        wanted_disks(recording),
        bool(images),
    )


def wanted_disks(recording: Path) -> tuple[Disk, ...]:
    """Return the disks of *recording*, none if its manifest does not tell."""
    try:
        return disks_of(recording)
    except RecordingError:
        return ()


def check(
    recording: Path, *, force: bool, source: Path | None = None, progress: Progress = no_progress
) -> tuple[str | None, int]:
    """Verify the recording in the directory *recording*; return its uuid and how many problems it has.

    Raises CorruptError if it has any, unless *force*; that names *source* if there is one, where the recording came
    from.  Raises FormatVersionError if a newer revirt made it, RecordingError if it is being recorded.
    """
    try:
        uuid, count, first = _problems(recording, progress)
    except FormatVersionError as error:
        raise FormatVersionError(source or error.path, error.found, error.known, what=error.what) from error
    if count and not force:
        more = f", and {count - 1} more" if count > 1 else ""
        hint = "--force takes it as it is"
        if source is None:
            hint = f"'revirt verify' lists it; {hint}"
        raise CorruptError(source or recording, f"the recording is damaged: {first}{more}", hint=hint)
    return uuid, count


def _problems(recording: Path, progress: Progress) -> tuple[str | None, int, str]:
    """Return the uuid of *recording*, how many problems `Recording.verify` finds, and the first of them."""
    try:
        opened = Recording.open(recording)
    except CorruptError as error:
        _refuse_recorder(layout.is_locked(recording), recording)
        return None, 1, f"{manifest.NAME}: {error.problem}"
    _refuse_recorder(opened.state is RecordingState.RECORDING, recording)
    count, first = 0, ""
    for finding in opened.verify(progress=progress):
        first = first or f"{finding.path.relative_to(recording)}: {finding.problem}"
        count += 1
    return opened.manifest.uuid, count, first


def _refuse_recorder(is_recorded: bool, recording: Path) -> None:
    if is_recorded:
        raise RecordingError(f"{recording} is still being recorded", hint="stop its recorder first")


def _names(recording: Path) -> tuple[list[str], list[str]]:
    """Return the names of the recording's files, and of what else lies there; raises CorruptError."""
    found: list[str] = []
    for path in list_directory(recording, follow=True):
        if path.name not in layout.DIRECTORIES:
            found.append(path.name)
        else:
            found += (f"{path.name}/{each.name}" for each in list_directory(path))
    names = list(filter(layout.is_member, found))
    left_out = (name for name in found if not layout.is_member(name) and not _is_passing(name))
    return names, list(left_out)


def _is_passing(name: str) -> bool:
    """Return whether *name* is of what nobody misses: the lock, the index, and what a dead recorder was writing.

    Of images of disks it is said elsewhere that they are missing.
    """
    return name in (layout.LOCK, layout.INDEX, layout.DISKS) or layout.is_member(name.removesuffix(".tmp"))


def _members(files: Mapping[str, Path], progress: Progress) -> Iterator[Member]:
    """Yield what is to be packed, in order; *files* say where it is, by name.  Raises CorruptError."""
    total = sum(map(_size, files.values()))
    done = 0
    for name in sorted(files, key=layout.in_order):
        size, digest = 0, new_digest()
        if _size(files[name]) > MEMBER_LIMIT:
            raise CorruptError(files[name], "larger than a pack can hold", hint="")
        for piece in _read(files[name], MEMBER_LIMIT):
            size += len(piece)
            digest.update(piece)
            progress("hashing", done + size, total)
        done += size
        yield Member(name, size, digest.digest())


def _copy(path: Path, member: Member, sink: _Sink) -> None:
    size, digest = 0, new_digest()
    for piece in _read(path, member.size):
        size += len(piece)
        digest.update(piece)
        sink.write(piece)
    if (size, digest.digest()) != (member.size, member.digest):
        raise RecordingError(f"{path} changed while it was being packed", hint="pack it again")


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        # Whoever reads it will say so.
        return 0


def _read(path: Path, limit: int) -> Iterator[bytes]:
    """Yield the first *limit* bytes of *path*, a file and no link to one; raises CorruptError."""
    with open_file(path) as file:
        offset = 0
        while piece := read_at(path, file, offset, min(PIECE, limit - offset)):
            offset += len(piece)
            yield piece


class _Sink:
    """Where a pack is written to; counts and hashes what it is given."""

    def __init__(self, out: BinaryIO, total: int, progress: Progress) -> None:
        self.size = 0
        self._out = out
        self._hash = new_digest()
        self._total = total
        self._progress = progress

    def write(self, data: bytes) -> None:
        """Write *data*; passes on what the stream raises."""
        left = memoryview(data)
        while left:
            # All of it, but where Python runs with unbuffered streams.
            left = left[self._out.write(left) :]
        self._hash.update(data)
        self.size += len(data)
        self._progress("packing", self.size, self._total)

    def digest(self) -> bytes:
        """Return the BLAKE2b-256 of everything written."""
        return self._hash.digest()


@contextmanager
def _new_file(target: Path) -> Iterator[BinaryIO]:
    """Give a file to write, and let it take the name *target* when the block ends well; raises OSError."""
    temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename_new(temporary, target)
    except FileExistsError as error:
        raise _exists(target) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync(target.parent)


def rename_new(temporary: Path, target: Path) -> None:
    """Let the file *temporary* have the name *target*, too, or instead; FileExistsError if something has it."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links (FAT): there, looking first is all that can be done.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target)) from None
        os.rename(temporary, target)


def sync(path: Path) -> None:
    """Have the host write down the file or directory *path*; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Not every file system can do it for a directory.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _exists(target: Path) -> RecordingExistsError:
    return RecordingExistsError(target, hint="choose another file with -o")
