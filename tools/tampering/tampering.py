"""What a tampering is, and where it has to be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random

from tampering.samples import Sample


class Due(Enum):
    """What a verification owes."""

    REPORT = "reported"
    """It has to be called tampered, at one of the places."""
    NOT_INTACT = "not told from a recorder that died"
    """Nobody can tell it from the recording of a recorder that died; so it must not be called intact."""
    NOTHING = "within a thief's reach"
    """Who stole the recorder's state may do so, from the epoch of the theft on."""


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a recording; the *places*, relative to it, of which a finding has to name one."""

    what: str
    places: frozenset[str]
    due: Due = Due.REPORT


Tampering = Callable[[Sample, Path, Random], Change | None]
"""Changes the copy of a sample in a directory; None if that kind of sample does not lend itself to it."""


def change(what: str, *places: str, due: Due = Due.REPORT) -> Change:
    """Return the change *what*, to be found at one of *places*."""
    return Change(what, frozenset(places), due)
