"""What is plugged into the machine of a live run, and what is at the other end of the cable."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from revirt.errors import UsageError
from revirt.image.base import BaseImage, Progress
from revirt.image.guest import Guest
from revirt.machine.devices import BLOCK_SIZE, Devices, Disk, Framebuffer, Nic
from revirt.monitor.display import Display
from revirt.monitor.network.backend import Backend
from revirt.monitor.sources import DiskSource, EntropySource, KeySource, NetSource, Source, Wake

OVERLAY = 1 << 30
"""Bytes that a guest may write to one disk, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class DiskPlug:
    """A disk with the contents of the file *path*; *overlay* is how many bytes may be written, 0 none."""

    path: Path
    overlay: int = OVERLAY


@dataclass(frozen=True, slots=True)
class NicPlug:
    """A network card; *plug* connects it, once there is somebody to wake, and None leaves it unconnected."""

    mac: str
    plug: Callable[[Wake], Backend | None] | None = None


@dataclass(frozen=True, slots=True)
class Plugs:
    """All that is plugged; *keys* are pressed on the keyboard, and *display* shows the screen."""

    nics: tuple[NicPlug, ...] = ()
    disks: tuple[DiskPlug, ...] = ()
    framebuffer: Framebuffer | None = None
    vga: bool = False
    rng: bool = False
    console: bool = False
    firmware: bool = False
    keys: KeySource | None = None
    display: Display | None = None


class Plugged:
    """*devices*, and the open *images* of the disks among them."""

    def __init__(self, devices: Devices, images: Sequence[BaseImage]) -> None:
        self.devices = devices
        self.images = tuple(images)

    @classmethod
    def of(cls, plugs: Plugs, progress: Progress | None = None) -> Self:
        """Open the images of *plugs* and take their digests.

        Raises GuestError or HostError if one cannot be read, UsageError if a machine cannot have all that.
        """
        images = [BaseImage.open(disk.path) for disk in plugs.disks]
        try:
            disks = [
                _disk(image, plug.overlay, image.digest(progress))
                for image, plug in zip(images, plugs.disks, strict=True)
            ]
            devices = Devices(
                nics=tuple(Nic(nic.mac) for nic in plugs.nics),
                disks=tuple(disks),
                framebuffer=plugs.framebuffer,
                vga=plugs.vga,
                rng=plugs.rng,
                console=plugs.console,
                firmware=plugs.firmware,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        return cls(devices, images)

    def sources(self, plugs: Plugs) -> list[Source]:
        """Return what gives to these devices, as *plugs* connect them."""
        sources: list[Source] = [DiskSource(number, image) for number, image in enumerate(self.images)]
        if self.devices.rng:
            sources.append(EntropySource())
        for number, nic in enumerate(plugs.nics[: len(self.devices.nics)]):
            if nic.plug is not None:
                sources.append(NetSource(number, nic.plug))
        if plugs.keys is not None:
            sources.append(plugs.keys)
        if plugs.display is not None:
            sources.append(plugs.display)
        return sources


NOTHING = Plugs()
_MAC = "52:54:00:12:34:56"
_PIXELS = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)


def of_guest(guest: Guest) -> Plugs:
    """Return what *guest* comes with; its network card is not connected to anything.

    Raises UsageError for a device that there is not.
    """
    plugs = Plugs(disks=tuple(DiskPlug(path) for path in guest.disks))
    for text in guest.devices:
        plugs = _with_device(plugs, text)
    return plugs


def framebuffer_of(text: str) -> Framebuffer:
    """Return the screen of pixels that *text*, ``WIDTHxHEIGHT``, describes; raises UsageError."""
    match = _PIXELS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not the size of a screen", hint="write WIDTHxHEIGHT, as 1024x768")
    try:
        return Framebuffer(int(match[1]), int(match[2]))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _with_device(plugs: Plugs, text: str) -> Plugs:
    name, _, value = text.partition("=")
    if text == "net":
        return replace(plugs, nics=(NicPlug(_MAC),))
    if text == "rng":
        return replace(plugs, rng=True)
    if text == "console":
        return replace(plugs, console=True)
    if text == "vga":
        return replace(plugs, vga=True)
    if name == "framebuffer" and value:
        return replace(plugs, framebuffer=framebuffer_of(value))
    raise UsageError(
        f"the guest wants a device {text!r}, which there is not",
        hint="there are net, rng, console, vga and framebuffer=WIDTHxHEIGHT",
    )


def _disk(image: BaseImage, overlay: int, digest: str) -> Disk:
    whole = Disk(image.size, digest, 0)
    return replace(whole, overlay=min(whole.blocks, overlay // BLOCK_SIZE))
