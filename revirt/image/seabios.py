"""SeaBIOS, the BIOS that Debian packages, as a PC's flash memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from revirt.image.apt import Package, read_member
from revirt.image.firmware import flash

PACKAGE = "seabios"

# The one of 256 KiB has everything; the other lacks what would not fit, and differs between releases.
_BIOS = r"usr/share/seabios/bios-256k\.bin"
# For a VGA that is only ports and memory, as on the ISA bus.
_VIDEO_BIOS = r"usr/share/seabios/vgabios-isavga\.bin"
_NOTHING: Mapping[str, bytes] = MappingProxyType({})


def firmware_of(package: Package, roms: Mapping[str, bytes] = _NOTHING) -> bytes:
    """Return flash memory with the BIOS in *package*, its video BIOS, and the option *roms*.

    A ROM that is for the PCI functions of one kind is called ``pciVENDOR,DEVICE.rom`` (four hexadecimal digits each).
    Raises BuildError if the package has not got it.
    """
    video = read_member(package, _VIDEO_BIOS)
    return flash(read_member(package, _BIOS), {"vgaroms/vgabios.bin": video, **roms})
