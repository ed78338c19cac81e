"""What a device is, and the rules for writing one.

- Read the time only from the clock given to the constructor.
- Keep everything that the guest can see or change in one dataclass, the device's *state*; `save` returns a copy of
  it and `restore` takes one.  Restoring touches no other device: lines are driven again by the machine.
- What a device shows must be a function of its state and the machine's time, however often it is asked.
- A device does not know where it sits in the address space: offsets start at 0.
- A guest may read and write anything at any time; nothing it does raises an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from revirt.machine.state import State

Line = Callable[[bool], None]
"""A wire: called with the level it should have.  Calling it again with the same level changes nothing."""


class Clock(Protocol):
    """The machine's time."""

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the guest started; never decreases."""
        ...


class Registers(Protocol):
    """What answers on a bus."""

    def read(self, offset: int, size: int) -> int:
        """Return *size* bytes (1, 2 or 4), little-endian, from register *offset*."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Write *size* bytes (1, 2 or 4) of *value* to register *offset*."""
        ...


class Named(Registers, Protocol):
    """What answers where the board has put it; errors call it by its ``name``."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


class Part(Protocol):
    """A part of the board that remembers something, under a ``name`` of its own."""

    @property
    def name(self) -> str:
        """What its state is saved under."""
        ...

    def save(self) -> State:
        """Return a copy of the device's state."""
        ...

    def restore(self, state: Any) -> None:
        """Replace the device's state by *state* (of the class that `save` returns)."""
        ...


class Device(Registers, Part, Protocol):
    """A device on a bus.  Every device class has a ``name`` and a ``State`` dataclass."""


class Timed(Protocol):
    """A device whose outputs change as time passes."""

    def deadline_ns(self) -> int | None:
        """Return the machine time at which `catch_up` next has something to do, or None if never."""
        ...

    def catch_up(self) -> None:
        """Bring outputs up to the clock's present time; idempotent at one time."""
        ...
