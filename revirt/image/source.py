"""What comes from the user: image files, recognised by their first bytes, and command lines."""

from __future__ import annotations

import hashlib
import stat
from functools import cache
from pathlib import Path

from revirt.errors import ImageError

MAX_FILE_SIZE = 512 << 20
"""The largest file read, in bytes; kernels and initial RAM disks are far smaller."""

MAX_COMMAND_LINE = 64 << 10

ELF_MAGIC = b"\x7fELF"
BOOT_PROTOCOL_MAGIC = b"HdrS"
BOOT_PROTOCOL_MAGIC_OFFSET = 0x202

# What people hand over by mistake: (offset, magic, what it is, what to do).
_FOREIGN = (
    (0x24, b"\x18\x28\x6f\x01", "an ARM kernel (zImage)", "revirt runs x86 kernels only"),
    (0x38, b"ARM\x64", "an ARM64 kernel (Image)", "revirt runs x86 kernels only"),
    (0x30, b"RISCV\0\0\0", "a RISC-V kernel (Image)", "revirt runs x86 kernels only"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", "give the x86 kernel itself"),
    (0, b"\x1f\x8b", "gzip-compressed", "decompress it first, or give a bzImage"),
    (0, b"\xfd7zXZ\0", "xz-compressed", "decompress it first, or give a bzImage"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", "decompress it first, or give a bzImage"),
    (0, b"070701", "a cpio archive", "an initial RAM disk is given as the initrd, beside a kernel"),
    (0, b"!<arch>\n", "a Debian package or a library", "unpack it and give the kernel inside"),
    (0x8001, b"CD001", "a CD image", "give the kernel inside"),
    (0, b"QFI\xfb", "a disk image (qcow2)", "give the kernel inside"),
)


def read_file(path: Path, what: str, *, limit: int = MAX_FILE_SIZE, hint: str = "") -> bytes:
    """Return the contents of the regular file *path*, *what* (as in "the kernel") of a guest.

    Raises ImageError, with *hint*, if it is larger than *limit* bytes, and without it if it is missing,
    unreadable or empty.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Devices never end, and opening a pipe waits for ever.
            raise ImageError(f"{what} is not a regular file", path=path)
        if status.st_size > limit:
            raise ImageError(
                f"{what} is too large: {status.st_size} bytes, at most {limit}", path=path, hint=hint
            )
        with path.open("rb") as file:
            data = file.read(limit)
    except FileNotFoundError:
        raise ImageError(f"{what} does not exist", path=path, hint="check the path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{what} cannot be read: {reason}", path=path) from error
    if not data:
        raise ImageError(f"{what} is empty", path=path)
    return data


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the file *path*, as hex digits; raises ImageError if it cannot be read.

    A file that has not changed since is not read again: a run asks twice.
    """
    try:
        status = path.stat()
    except OSError:
        return _hash_file(path, 0, 0)  # which says what is wrong with it
    return _hash_file(path, status.st_mtime_ns, status.st_size)


@cache
def _hash_file(path: Path, _modified_ns: int, _size: int) -> str:
    return hashlib.sha256(read_file(path, "the file", limit=MAX_FILE_SIZE)).hexdigest()


def encode_command_line(text: str, path: Path, limit: int = MAX_COMMAND_LINE) -> bytes:
    """Return the command line *text* for the image *path*, zero-terminated.

    Raises ImageError if it is longer than *limit* bytes, or cannot be written as such a string.
    """
    try:
        line = text.encode()
    except UnicodeEncodeError as error:
        raise ImageError("the command line is not valid text", path=path) from error
    limit = min(limit, MAX_COMMAND_LINE)
    if len(line) > limit:
        raise ImageError(f"the command line has {len(line)} bytes; this kernel takes {limit}", path=path)
    if b"\0" in line:
        raise ImageError("the command line has a NUL character in it", path=path)
    return line + b"\0"


def is_elf(data: bytes) -> bool:
    """Return whether *data* is an ELF file."""
    return data.startswith(ELF_MAGIC)


def is_bzimage(data: bytes) -> bool:
    """Return whether *data* has the setup header of an x86 Linux kernel image."""
    return data.startswith(BOOT_PROTOCOL_MAGIC, BOOT_PROTOCOL_MAGIC_OFFSET)


def refuse_foreign(data: bytes, path: Path) -> None:
    """Raise ImageError if *data* is recognised as something that no x86 machine starts."""
    for offset, magic, kind, hint in _FOREIGN:
        if data.startswith(magic, offset):
            raise ImageError(f"this is {kind}, not an x86 image", path=path, hint=hint)
