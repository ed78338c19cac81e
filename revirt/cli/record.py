"""``revirt record``: run a guest, write down what it could not have computed itself."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

from revirt.cli.display import desk_of
from revirt.cli.plugs import plugs_of
from revirt.cli.running import console_of, options_of, run_live
from revirt.errors import UsageError
from revirt.image import Guest, find, from_bios, from_command_line, parse_size
from revirt.machine.config import ClockMode
from revirt.monitor.session import record

DEFAULT_MEMORY = "256M"


def run(arguments: argparse.Namespace) -> int:
    """Record (or just run) a guest; return the exit status."""
    guest = _guest(arguments)
    clock: ClockMode = "virtual" if (arguments.clock or guest.clock) == "virtual" else "host"
    plugs = plugs_of(arguments, guest)
    has_screen = plugs.vga or plugs.framebuffer is not None
    with desk_of(arguments, guest.name, has_screen=has_screen) as desk:
        plugs = desk.plug(plugs) if desk is not None else plugs
        options = replace(options_of(arguments, clock), plugs=plugs)
        console = console_of(arguments, guest.script, desk=desk)
        return run_live(arguments, guest.name, console, options, partial(record, guest))


def _guest(arguments: argparse.Namespace) -> Guest:
    if (arguments.guest is not None) + (arguments.kernel is not None) + arguments.bios > 1:
        raise UsageError("give one of a GUEST, a --kernel and --bios")
    memory = parse_size(arguments.memory or DEFAULT_MEMORY)
    if arguments.bios:
        _refuse(arguments, ("initrd", "append"), "goes with --kernel")
        return from_bios(memory)
    if arguments.kernel is not None:
        return from_command_line(arguments.kernel, arguments.initrd, arguments.append or "", memory)
    if arguments.guest is None:
        raise UsageError(
            "there is nothing to run", hint="name a GUEST ('revirt guest list'), or give a --kernel or --bios"
        )
    _refuse(arguments, ("initrd", "append"), "goes with --kernel; a GUEST brings its own")
    _refuse(arguments, ("memory",), "goes with --kernel and --bios; a GUEST brings its own")
    return find(arguments.guest)


def _refuse(arguments: argparse.Namespace, flags: tuple[str, ...], why: str) -> None:
    for flag in flags:
        if getattr(arguments, flag) is not None:
            raise UsageError(f"--{flag} {why}")
