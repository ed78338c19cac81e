"""What the command line, and a guest's description, plug into a machine."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from revirt.errors import UsageError
from revirt.image import Guest, parse_size
from revirt.monitor.network import networks_of, open_network
from revirt.monitor.plugs import OVERLAY, DiskPlug, NicPlug, Plugs, framebuffer_of, of_guest


def plugs_of(arguments: argparse.Namespace, guest: Guest) -> Plugs:
    """Return what *guest* comes with and the options add; raises UsageError, naming what is wrong."""
    plugs = of_guest(guest)
    return replace(
        plugs,
        disks=plugs.disks + tuple(_disk(text) for text in arguments.disk),
        nics=nics_of(arguments) or plugs.nics,
        rng=plugs.rng or arguments.rng,
        console=plugs.console or arguments.virtio_console,
        vga=plugs.vga or arguments.vga,
        framebuffer=framebuffer_of(arguments.framebuffer) if arguments.framebuffer else plugs.framebuffer,
    )


def nics_of(arguments: argparse.Namespace) -> tuple[NicPlug, ...]:
    """Return the network cards that the options name, connected as they say; raises UsageError."""
    specs = networks_of(arguments.net, arguments.forward)
    return tuple(NicPlug(spec.mac.hex(":"), partial(open_network, spec)) for spec in specs)


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
