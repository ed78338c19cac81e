"""Starting gdb for the user: its arguments, and the symbols of what runs in the guest."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from revirt.errors import GuestError, HostError
from revirt.image import Guest, find
from revirt.recording import Recording

COMMANDS = Path(__file__).with_name("commands.gdb")
"""A script with commands for gdb."""

_ELF = b"\x7fELF"
_RELEASE = re.compile(rb"[\w.+~-]{1,64}")
# Linux x86 boot protocol: the setup header's signature, and where the offset (less 0x200) of the kernel's version is.
_HEADER_SIGNATURE, _HEADER_MAGIC = 0x202, b"HdrS"
_KERNEL_VERSION = 0x20E
_SETUP_SIZE = 0x10000
_KERNELS = (
    "/usr/lib/debug/boot/vmlinux-{0}",
    "/usr/lib/debug/lib/modules/{0}/vmlinux",
    "/usr/lib/debug/vmlinux-{0}",
    "/lib/modules/{0}/build/vmlinux",
    "/boot/vmlinux-{0}",
)
"""Where distributions put kernels with symbols, by release."""


def gdb_command(address: str, symbols: Path | None, *, program: str = "gdb") -> list[str]:
    """Return the command that starts gdb connected to *address*, with *symbols* if there are any.

    Raises HostError if there is no gdb.
    """
    found = shutil.which(program)
    if found is None:
        raise HostError(
            f"there is no program {program!r} to launch", hint="install gdb, or connect from elsewhere"
        )
    command = [found, "-q", "-x", str(COMMANDS)]
    if symbols is not None:
        # The sources of bundled guests are named from the directory that holds all guests.
        command += ["-d", str(symbols.parent.parent), "-ex", f"symbol-file {_quoted(symbols)}"]
    return [*command, "-ex", f"target remote {address}"]


def find_symbols(recording: Recording) -> Path | None:
    """Return a file with the symbols of the guest of *recording*: its image, or its kernel where the host has it.

    Only files that are what was recorded are considered, or that say they are of the same kernel release.
    """
    image = _image_of(recording)
    if image is None:
        return None
    with image.open("rb") as file:
        head = file.read(_SETUP_SIZE)
    if head.startswith(_ELF):
        return image
    release = kernel_release(head)
    if release is None:
        return None
    candidates = (Path(each.format(release)) for each in _KERNELS)
    return next((path for path in candidates if path.is_file()), None)


def kernel_release(image: bytes) -> str | None:
    """Return the release that the bzImage which begins with *image* says that it is; None if it does not say."""
    if image[_HEADER_SIGNATURE : _HEADER_SIGNATURE + 4] != _HEADER_MAGIC:
        return None
    offset = int.from_bytes(image[_KERNEL_VERSION : _KERNEL_VERSION + 2], "little") + 0x200
    match = _RELEASE.match(image, offset)
    return match[0].decode() if match else None


def _image_of(recording: Recording) -> Path | None:
    """Return the image that *recording* was made with, if it is still where it was."""
    try:
        guest: Guest = find(str(recording.manifest.guest.get("name")))
        path = guest.image_spec().file
        recorded = recording.manifest.guest.get("digests", {}).get("image")
        return path if hashlib.sha256(path.read_bytes()).hexdigest() == recorded else None
    except (GuestError, OSError, AttributeError):
        return None


def _quoted(path: Path) -> str:
    """Return *path* as gdb reads it in a command."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
