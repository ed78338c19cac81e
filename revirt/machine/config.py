"""What a machine is built from: the part of a recording's manifest that replay must build again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from revirt.machine.cpuid import CpuidTable, check_table, cpuid_leaves, table_from_plain, table_to_plain
from revirt.machine.devices import Devices
from revirt.machine.model import MODEL, WITHOUT_DEVICES
from revirt.machine.state import check_version

ClockMode = Literal["host", "virtual"]

NS_PER_BRANCH = 10
"""Machine time per taken branch, for ever in virtual clock mode and at first in host clock mode: about what an
emulator of this kind needs."""

PAGE_SIZE = 4096

MAX_TRACKED = 1 << 32
"""Most bytes of RAM, and of what devices keep behind it, that a machine has in all."""

_MODEL = "machine model"

VIRTUAL_EPOCH = 1_700_000_000
"""What the real-time clock shows at the start in virtual clock mode (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """A virtual PC.

    ``memory`` is in bytes; ``epoch`` is what the real-time clock shows at the start, in Unix seconds;
    ``ns_per_branch`` is how fast the machine's clock runs at first.  ``model`` stands for all that a configuration
    does not say (`revirt.machine.model`); ``cpuid`` is what CPUID answers; ``devices`` are those that not
    every machine has.
    """

    memory: int
    clock: ClockMode
    epoch: int
    ns_per_branch: int
    model: int = MODEL
    cpuid: CpuidTable = field(default_factory=cpuid_leaves, hash=False)
    devices: Devices = field(default_factory=Devices)

    def __post_init__(self) -> None:
        if not 0x10000 <= self.memory <= 3 << 30 or self.memory % 0x1000:
            raise ValueError(f"memory must be 64 KiB to 3 GiB, in pages of 4 KiB; not {self.memory}")
        if self.clock not in ("host", "virtual"):
            raise ValueError(f"no clock mode is called {self.clock!r}")
        if not 1 <= self.ns_per_branch <= 1_000 or not 0 <= self.epoch < 1 << 40:
            raise ValueError("clock settings out of range")
        check_version(_MODEL, self.model, MODEL)
        check_table(self.cpuid)
        if self.devices and self.model <= WITHOUT_DEVICES:
            raise ValueError(f"a machine of model {self.model} has no devices of its own")
        if self.memory + self.devices.store_size > MAX_TRACKED:
            raise ValueError("memory and what is written to disks take at most 4 GiB together")
        self.devices.display(self.memory)  # raises if there is no room for it

    @property
    def page_count(self) -> int:
        """How many pages of memory the machine has: RAM, and what its devices keep behind it."""
        return (self.memory + self.devices.store_size) // PAGE_SIZE

    def to_plain(self) -> dict[str, Any]:
        """Return the configuration as a dict of plain values."""
        plain = {**asdict(self), "cpuid": table_to_plain(self.cpuid), "devices": self.devices.to_plain()}
        if self.model <= WITHOUT_DEVICES:
            del plain["devices"]
        return plain

    @classmethod
    def from_plain(cls, plain: object) -> MachineConfig:
        """Return the configuration that `to_plain` described.

        Raises ValueError naming what is wrong, and NewerVersionError if only a newer revirt knows the model: then
        nothing else is looked at.
        """
        names = {each.name for each in fields(cls)}
        if isinstance(plain, dict) and "model" in plain:
            check_version(_MODEL, plain["model"], MODEL)
            if plain["model"] <= WITHOUT_DEVICES:
                names.remove("devices")
        if not isinstance(plain, dict) or set(plain) != names:
            raise ValueError(f"a machine configuration has exactly {', '.join(sorted(names))}")
        for name in ("memory", "epoch", "ns_per_branch"):
            if type(plain[name]) is not int:
                raise ValueError(f"{name} must be an integer")
        taken = {**plain, "cpuid": table_from_plain(plain["cpuid"])}
        if "devices" in plain:
            taken["devices"] = Devices.from_plain(plain["devices"])
        return cls(**taken)
