"""What the command line, and a guest's description, plug into a machine."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from revirt.errors import UsageError
from revirt.image import Guest, parse_size
from revirt.machine.devices import Framebuffer
from revirt.monitor.network import networks_of, open_network
from revirt.monitor.plugs import OVERLAY, DiskPlug, NicPlug, Plugs

_PIXELS = re.compile(r"(\d{3,4})x(\d{3,4})", re.ASCII)
_DEVICES = "net, rng, console, vga, framebuffer=WIDTHxHEIGHT"


def plugs_of(arguments: argparse.Namespace, guest: Guest) -> Plugs:
    """Return what *guest* comes with and the options add; raises UsageError, naming what is wrong."""
    plugs = Plugs(
        disks=tuple(DiskPlug(path) for path in guest.disks) + tuple(_disk(text) for text in arguments.disk),
        nics=_nics(arguments),
        rng=arguments.rng,
        console=arguments.virtio_console,
        vga=arguments.vga,
        framebuffer=_framebuffer(arguments.framebuffer) if arguments.framebuffer else None,
    )
    for text in guest.devices:
        plugs = _with_device(plugs, text)
    return plugs


def _with_device(plugs: Plugs, text: str) -> Plugs:
    name, _, value = text.partition("=")
    if text == "net":
        return plugs if plugs.nics else replace(plugs, nics=(NicPlug(_mac(0)),))
    if text == "rng":
        return replace(plugs, rng=True)
    if text == "console":
        return replace(plugs, console=True)
    if text == "vga":
        return replace(plugs, vga=True)
    if name == "framebuffer" and value:
        return replace(plugs, framebuffer=plugs.framebuffer or _framebuffer(value))
    raise UsageError(f"the guest wants a device {text!r}, which there is not", hint=f"there are {_DEVICES}")


def _nics(arguments: argparse.Namespace) -> tuple[NicPlug, ...]:
    specs = networks_of(arguments.net, arguments.forward)
    return tuple(NicPlug(spec.mac.hex(":"), partial(open_network, spec)) for spec in specs)


def _mac(number: int) -> str:
    return f"52:54:00:12:34:{0x56 + number:02x}"


def _disk(text: str) -> DiskPlug:
    """Return the disk that ``FILE[,readonly][,overlay=SIZE]`` describes; a comma in a name is written twice."""
    path, *options = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    overlay = OVERLAY
    for option in options:
        name, _, value = option.partition("=")
        if option == "readonly":
            overlay = 0
        elif name == "overlay" and value:
            overlay = parse_size(value)
        else:
            raise UsageError(
                f"--disk {text}: {option!r} is no option of a disk",
                hint="write --disk FILE[,readonly][,overlay=SIZE]",
            )
    if not path:
        raise UsageError("--disk wants the file of a disk image")
    return DiskPlug(Path(path), overlay)


def _framebuffer(text: str) -> Framebuffer:
    match = _PIXELS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not the size of a screen", hint="write WIDTHxHEIGHT, as 1024x768")
    try:
        return Framebuffer(int(match[1]), int(match[2]))
    except ValueError as error:
        raise UsageError(str(error)) from error
