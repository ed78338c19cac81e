"""``revirt fork``: go on live from a position of a recording."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from functools import partial

from revirt.cli.display import desk_of
from revirt.cli.plugs import nics_of
from revirt.cli.points import point_of
from revirt.cli.running import console_of, options_of, run_live
from revirt.cli.signals import UnwindingStop
from revirt.errors import RecordingExistsError, UsageError
from revirt.fork import Changes, Fork, Patch, received_between
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.plugs import Plugs
from revirt.monitor.script import ESCAPES_HINT, unescape
from revirt.monitor.session import RecordOptions
from revirt.recording import Recording, resolve
from revirt.recording.machine import machine_of
from revirt.render import Format, duration, grouped, printable, progress


def run(arguments: argparse.Namespace) -> int:
    """Fork a recording; return the exit status."""
    recording = Recording.open(resolve(arguments.recording))
    clock: ClockMode = "virtual" if (arguments.clock or recording.manifest.clock) == "virtual" else "host"
    options = options_of(arguments, clock)
    changes = _changes(arguments, recording)
    is_changed = bool(changes.patches or changes.events)
    gives_inputs = is_changed if arguments.inputs is None else arguments.inputs
    # What cannot be done is said before the replay, which may take long.
    devices = machine_of(recording.path, recording.manifest).devices
    plugs = Plugs(nics=nics_of(arguments))
    if len(plugs.nics) > len(devices.nics):
        raise UsageError(
            f"{recording.path.name} has {len(devices.nics)} network cards to connect, not {len(plugs.nics)}"
        )
    has_screen = devices.vga or devices.framebuffer is not None
    with desk_of(arguments, recording.path.name, has_screen=has_screen) as desk:
        console = console_of(arguments, None, is_alone=gives_inputs, desk=desk)
        options = replace(options, plugs=desk.plug(plugs) if desk is not None else plugs)
        return _run(arguments, recording, changes, console, options, gives_inputs=gives_inputs)


def _run(
    arguments: argparse.Namespace,
    recording: Recording,
    changes: Changes,
    console: NullConsole,
    options: RecordOptions,
    *,
    gives_inputs: bool,
) -> int:
    """Go to where the fork begins, and on from there; return the exit status."""
    clock = options.clock
    if arguments.output is not None and os.path.lexists(arguments.output):
        raise RecordingExistsError(arguments.output)
    with UnwindingStop() as unwound, progress(recording.path.name) as shown:
        at = point_of(recording, arguments.at) if arguments.at is not None else None
        fork = Fork.of(recording, at, changes=changes, gives_inputs=gives_inputs, clock=clock, progress=shown)
    if unwound.exit_status is not None:
        return unwound.exit_status
    if arguments.form is Format.TABLE:
        where = f"{grouped(fork.branches)} branches, {duration(fork.guest_ns)} of guest time"
        print(f"revirt: {printable(recording.path.name)} goes on from {where}", file=sys.stderr)
    # Who is there to type goes on when the inputs are over; else there is nothing more to come.
    ends = gives_inputs and type(console) is NullConsole
    facts = {
        "parent": recording.manifest.uuid,
        "from_branches": fork.branches,
        "from_guest_seconds": fork.guest_ns / 1e9,
    }
    name = f"{recording.path.resolve().name}-fork"
    return run_live(arguments, name, console, options, partial(fork.record, ends=ends), facts)


def _changes(arguments: argparse.Namespace, recording: Recording) -> Changes:
    drops = {number for first, last in arguments.drop for number in received_between(recording, first, last)}
    replacements: dict[int, bytes] = {}
    for number, text in arguments.replace:
        if number in replacements:
            raise UsageError(f"event {number} cannot be replaced twice")
        try:
            replacements[number] = unescape(text)
        except ValueError as error:
            raise UsageError(f"--replace {number}: {error}", hint=ESCAPES_HINT) from error
        if not replacements[number]:
            raise UsageError(f"event {number} cannot be replaced by nothing", hint=f"say --drop {number}")
    return Changes(tuple(Patch(*each) for each in arguments.patch), frozenset(drops), replacements)
