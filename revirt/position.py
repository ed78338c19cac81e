"""Points in the life of a guest.

A position is ``branches:steps``: the number of control transfers taken since the guest started, then the number of
instructions executed since the last of them.  Between two taken branches code is a straight line, so the pair
names one point and pairs are totally ordered.

People also name points by other things, which only a recording turns into positions: see `Point`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

NANOSECONDS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
"""Units of time as people write them."""

_TEXT = re.compile(r"(\d{1,18})(?::(\d{1,18}))?")
_TIME = re.compile(rf"(\d{{1,9}})(?:\.(\d{{1,9}}))?({'|'.join(NANOSECONDS)})", re.ASCII)
_NUMBERED = re.compile(r"(checkpoint|event|icount):(\d{1,18})", re.ASCII)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)%", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A point in the life of a guest; prints and parses as ``branches:steps``."""

    branches: int
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.branches}:{self.steps}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position written as ``BRANCHES`` or ``BRANCHES:STEPS``.

        Raises ValueError for anything else.
        """
        match = _TEXT.fullmatch(text.replace(",", "").replace("_", "").strip())
        if match is None:
            raise ValueError(f"{text!r} is not a position; write BRANCHES or BRANCHES:STEPS")
        return cls(int(match[1]), int(match[2] or 0))


@dataclass(frozen=True, slots=True, order=True)
class GuestTime:
    """A point by the guest's clock, ``ns`` nanoseconds after it started; prints as seconds."""

    ns: int

    def __str__(self) -> str:
        seconds, rest = divmod(self.ns, 10**9)
        return f"{seconds}.{rest:09}".rstrip("0").removesuffix(".") + "s"


@dataclass(frozen=True, slots=True, order=True)
class CheckpointNumber:
    """The point at which that checkpoint was taken."""

    number: int

    def __str__(self) -> str:
        return f"checkpoint:{self.number}"


@dataclass(frozen=True, slots=True, order=True)
class EventNumber:
    """The point of that event of the log, counted from 0."""

    number: int

    def __str__(self) -> str:
        return f"event:{self.number}"


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """The point at *percent* of the way, in branches, from where what is recorded begins to where it ends."""

    percent: float

    def __str__(self) -> str:
        return f"{self.percent:.12g}%"

    def between(self, first: int, last: int) -> int:
        """Return the branch count at that share of the way from *first* to *last*."""
        return first + round((last - first) * self.percent / 100)


@dataclass(frozen=True, slots=True, order=True)
class InstructionCount:
    """The point before the instruction of that number, counted from 0."""

    number: int

    def __str__(self) -> str:
        return f"icount:{self.number}"


class Edge(StrEnum):
    """Where what is recorded begins or ends."""

    START = "start"
    END = "end"


Point = Position | GuestTime | CheckpointNumber | EventNumber | Share | Edge
"""A point as people name it, and as the recording alone knows it."""

_NUMBERS: dict[str, Callable[[int], CheckpointNumber | EventNumber | InstructionCount]] = {
    "checkpoint": CheckpointNumber,
    "event": EventNumber,
    "icount": InstructionCount,
}


def parse_point(text: str) -> Point | InstructionCount:
    """Return the point that *text* names.

    That is ``BRANCHES[:STEPS]``, a time, a percentage, ``checkpoint:N``, ``event:N``, ``icount:N``, ``start`` or
    ``end``.  A time is a decimal number and ``ms``, ``s``, ``m``, ``h`` or ``d``.  Raises ValueError for anything else.
    """
    text = text.strip()
    if text in list(Edge):
        return Edge(text)
    if (time := _TIME.fullmatch(text)) is not None:
        whole, fraction, unit = int(time[1]), time[2] or "0", NANOSECONDS[time[3]]
        return GuestTime(whole * unit + int(fraction) * unit // 10 ** len(fraction))
    if (share := _SHARE.fullmatch(text)) is not None and float(share[1]) <= 100:
        return Share(float(share[1]))
    if (numbered := _NUMBERED.fullmatch(text)) is not None:
        return _NUMBERS[numbered[1]](int(numbered[2]))
    try:
        return Position.parse(text)
    except ValueError:
        known = "BRANCHES, 12.5s, 50%, checkpoint:N, event:N, icount:N, start or end"
        raise ValueError(f"{text!r} names no point of a recording; write {known}") from None
