"""What may be done to a board: by its guest, by the world outside, and by time."""

from __future__ import annotations

from dataclasses import dataclass

from revirt.machine.inputs import DiskDone, Entropy, Frame, Keys, Received


@dataclass(frozen=True, slots=True)
class In:
    """The guest reads a port."""

    port: int
    size: int


@dataclass(frozen=True, slots=True)
class Out:
    """The guest writes a port."""

    port: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class Load:
    """The guest reads an address where there is no RAM."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Store:
    """The guest writes there."""

    address: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class Poke:
    """The guest writes *data* to its RAM, as far as that goes."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Branch:
    """The guest takes a branch: devices act there, if they have asked for it."""


@dataclass(frozen=True, slots=True)
class Arrive:
    """Something comes from outside, at a taken branch."""

    arrival: Received | Frame | DiskDone | Entropy | Keys


@dataclass(frozen=True, slots=True)
class Answer:
    """The host answers all that devices wait for, requests to disks from the *backwards* end."""

    backwards: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes, in nanoseconds."""

    ns: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The CPU takes an interrupt, if there is one."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The state is saved, at a taken branch; what comes behind the first is done again from there."""


Act = In | Out | Load | Store | Poke | Branch | Arrive | Answer | Wait | Acknowledge | Mark
