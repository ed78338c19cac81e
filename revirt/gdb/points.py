"""Breakpoints and watchpoints that a client has set: packets Z and z.

    Z0 Z1    stop before the instruction at an address is executed
    Z2       stop when something in a range is written
    Z3       ... is read
    Z4       ... is read or written

Each is a condition of a search: nothing is patched into the guest, so there is no difference between 0 and 1.
"""

from __future__ import annotations

import re

from revirt.timeline import Access, Condition, Execute, Read, Write
from revirt.timeline.watch import MOST_BYTES

MOST_BREAKPOINTS, MOST_WATCHPOINTS = 1024, 32
"""Most points at a time: as many as `revirt.core` watches, if each range lies in two pages at most."""

_POINT = re.compile(rb"([0-4]),([0-9a-fA-F]{1,16}),([0-9a-fA-F]{1,16})")
_TOP = 1 << 64

Point = tuple[int, int, int]
"""Type as in the packet, address, and size in bytes."""


class Points:
    """The points that are set, each with its condition."""

    def __init__(self) -> None:
        self._conditions: dict[Point, Condition] = {}

    @property
    def all(self) -> list[Condition]:
        """The conditions of all points, each once."""
        return list(dict.fromkeys(self._conditions.values()))

    @property
    def watches(self) -> list[Condition]:
        """The conditions of all watchpoints, each once."""
        return [each for each in self.all if not isinstance(each, Execute)]

    def insert(self, text: bytes) -> bool:
        """Set the point that ``TYPE,ADDRESS,SIZE`` describes; return whether there can be such a one."""
        point = _parse(text)
        if point is None:
            return False
        if point not in self._conditions:
            most = MOST_WATCHPOINTS if _watches(point) else MOST_BREAKPOINTS
            if sum(_watches(each) == _watches(point) for each in self._conditions) >= most:
                return False
        self._conditions[point] = _condition(point)
        return True

    def remove(self, text: bytes) -> bool:
        """Take the point away again, if it is set; return whether there can be such a one."""
        point = _parse(text)
        if point is not None:
            self._conditions.pop(point, None)
        return point is not None

    def is_software(self, condition: Condition | None) -> bool:
        """Return whether *condition* is that of a breakpoint that the client thinks of as patched in."""
        return any(point[0] == 0 for point, each in self._conditions.items() if each == condition)


def _parse(text: bytes) -> Point | None:
    match = _POINT.fullmatch(text)
    if match is None:
        return None
    kind, address, size = int(match[1]), int(match[2], 16), int(match[3], 16)
    if _watches((kind, address, size)) and not 1 <= size <= min(MOST_BYTES, _TOP - address):
        return None
    return kind, address, size


def _watches(point: Point) -> bool:
    return point[0] >= 2


def _condition(point: Point) -> Condition:
    kind, address, size = point
    match kind:
        case 2:
            return Write(address, size)
        case 3:
            return Read(address, size)
        case 4:
            return Access(address, size)
    return Execute(address)
