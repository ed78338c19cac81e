"""What a machine is built from: the part of a recording's manifest that replay must build again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

ClockMode = Literal["host", "virtual"]

NS_PER_BRANCH = 10
"""Machine time per taken branch, for ever in virtual clock mode and at first in host clock mode: about what an
emulator of this kind needs."""

VIRTUAL_EPOCH = 1_700_000_000
"""What the real-time clock shows at the start in virtual clock mode (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """A virtual PC.

    ``memory`` is in bytes; ``epoch`` is what the real-time clock shows at the start, in Unix seconds;
    ``ns_per_branch`` is how fast the machine's clock runs at first.
    """

    memory: int
    clock: ClockMode
    epoch: int
    ns_per_branch: int

    def __post_init__(self) -> None:
        if not 0x10000 <= self.memory <= 3 << 30 or self.memory % 0x1000:
            raise ValueError(f"memory must be 64 KiB to 3 GiB, in pages of 4 KiB; not {self.memory}")
        if self.clock not in ("host", "virtual"):
            raise ValueError(f"no clock mode is called {self.clock!r}")
        if not 1 <= self.ns_per_branch <= 1_000 or not 0 <= self.epoch < 1 << 40:
            raise ValueError("clock settings out of range")

    def to_plain(self) -> dict[str, Any]:
        """Return the configuration as a dict of plain values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: object) -> MachineConfig:
        """Return the configuration that `to_plain` described; raises ValueError naming what is wrong."""
        names = set(cls.__slots__)
        if not isinstance(plain, dict) or set(plain) != names:
            raise ValueError(f"a machine configuration has exactly {', '.join(sorted(names))}")
        for name in ("memory", "epoch", "ns_per_branch"):
            if type(plain[name]) is not int:
                raise ValueError(f"{name} must be an integer")
        return cls(**plain)
