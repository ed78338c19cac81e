"""Where the symbols of what runs in the guest are: files on this host that are what was recorded, or say they are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from revirt.errors import GuestError
from revirt.image import Guest, find
from revirt.recording.reader import Recording

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
