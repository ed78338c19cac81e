"""What a run begins with: a guest's image, or (elsewhere) what another run was at some moment."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, Self

from revirt.checkpoint import LoadedCheckpoint
from revirt.errors import UsageError
from revirt.image import load
from revirt.image.boot import Boot
from revirt.image.guest import Guest
from revirt.machine.config import MAX_TRACKED, NS_PER_BRANCH, VIRTUAL_EPOCH, ClockMode, MachineConfig
from revirt.machine.machine import Machine
from revirt.monitor.plugs import NOTHING, Plugged, Plugs
from revirt.recording import Manifest
from revirt.recording.versions import current_versions

Pages = Iterator[tuple[bytes, bytes | memoryview]]
"""Batches of page numbers (32-bit little-endian, ascending) and the contents of these pages."""


class Beginning(Protocol):
    """What a run begins with."""

    @property
    def config(self) -> MachineConfig:
        """The machine."""
        ...

    @property
    def base(self) -> LoadedCheckpoint | None:
        """The checkpoint of another recording whose pages are shared; None if all pages are the run's own."""
        ...

    @property
    def plugged(self) -> Plugged:
        """The devices of the machine, and the images of its disks."""
        ...

    def describe(self, command: Sequence[str]) -> Manifest:
        """Return the manifest of a recording that begins so, made by the command line *command*."""
        ...

    def load(self, machine: Machine) -> None:
        """Put it into *machine*, which is new."""
        ...

    def take_pages(self) -> Pages:
        """Return, and keep no longer, the pages of memory that are neither zeros nor shared."""
        ...


class Booted:
    """A guest that is to start; made by `of`."""

    base = None

    def __init__(self, guest: Guest, config: MachineConfig, plugged: Plugged, boot: Boot) -> None:
        self.config = config
        self.plugged = plugged
        self._guest = guest
        self._boot: Boot | None = boot

    @classmethod
    def of(cls, guest: Guest, clock: ClockMode, plugs: Plugs = NOTHING) -> Self:
        """Load the image of *guest*, with *plugs* plugged into its machine.

        Raises GuestError if that cannot be done, UsageError if a machine cannot have all that.
        """
        if guest.format == "bios":
            plugs = replace(plugs, firmware=True)
        plugged = Plugged.of(plugs)
        try:
            config = MachineConfig(
                memory=guest.memory,
                clock=clock,
                epoch=int(time.time()) if clock == "host" else VIRTUAL_EPOCH,
                ns_per_branch=NS_PER_BRANCH,
                devices=plugged.devices,
            )
        except ValueError as error:
            is_full = guest.memory + plugged.devices.store_size > MAX_TRACKED
            hint = "let less be written with --disk FILE,overlay=SIZE" if is_full else ""
            raise UsageError(str(error), hint=hint) from error
        boot = load(guest.image_spec(), guest.memory, display=config.devices.display(config.memory))
        return cls(guest, config, plugged, boot)

    def describe(self, command: Sequence[str]) -> Manifest:
        """Return a manifest with the guest's digests."""
        guest = self._guest
        return Manifest(
            guest={
                "name": guest.name,
                "summary": guest.summary,
                "append": guest.append,
                "digests": guest.digests(),
            },
            machine=self.config.to_plain(),
            clock=self.config.clock,
            versions=current_versions(),
            command=list(command),
        )

    def load(self, machine: Machine) -> None:
        """Put the image into *machine*."""
        assert self._boot is not None
        machine.load(self._boot)

    def take_pages(self) -> Pages:
        """Return the pages of the image: what memory holds before the guest starts need not be copied from there."""
        # It holds a whole kernel, which the first checkpoint is the last to need.
        boot, self._boot = self._boot, None
        assert boot is not None
        return ((array("I", numbers).tobytes(), contents) for numbers, contents in boot.pages())
