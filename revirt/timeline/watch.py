"""What conditions mean to the core: what it is to watch, and what it has noted.

The core watches memory in one of two ways.  With hooks it tells every access, and everything that the guest stores
or loads is slower.  With traps it tells the line, at full speed; but it may name lines that have no such access, and
each access costs some 20 us.  So lines are found with traps, as long as they are few, and looked at with hooks.  An
access that goes on into another page is shown to hooks by its first one; traps tell where it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from revirt.core import (
    WATCH_ADDRESS_SPACE,
    WATCH_EXECUTE,
    WATCH_INTERRUPT,
    WATCH_PRIVILEGE,
    WATCH_READ,
    WATCH_SYSTEM_CALL,
    WATCH_WRITE,
    Core,
)
from revirt.errors import UsageError
from revirt.position import Position
from revirt.timeline.conditions import (
    Access,
    AddressSpace,
    Condition,
    ConsoleText,
    EventKind,
    Execute,
    Interrupt,
    Privilege,
    Read,
    SystemCall,
    Watched,
    When,
    Write,
)

PAGE_SIZE = 4096
MOST_BYTES = 1 << 16
"""Most bytes in a range that is watched, as `revirt.core` has it."""
TRAPS = 2000
"""Traps that are taken before it is asked whether hooks would do better: 40 ms."""
WORTH = 350
"""Branches that take as much longer with hooks as one trap takes."""

_SYSTEM: Final = WATCH_INTERRUPT | WATCH_SYSTEM_CALL | WATCH_ADDRESS_SPACE | WATCH_PRIVILEGE

_ACCESS: Final = WATCH_READ | WATCH_WRITE

Noted = tuple[int, int, int, int, int, int, int]
"""What the core noted: see `revirt.core.Core.take_hits`."""
Entered = tuple[int, int, int]
"""An access at the beginning of a page: the instruction of its line, ``WATCH_READ`` or ``WATCH_WRITE``, the page."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was watched, at the instruction ``steps`` of the line that begins at ``branches``."""

    branches: int
    steps: int
    condition: Condition
    address: int | None = None
    value: int | None = None

    @property
    def position(self) -> Position:
        """Before the instruction."""
        return Position(self.branches, self.steps)


@dataclass(frozen=True, slots=True)
class _Range:
    """Watched physical memory, in one page; ``offset`` makes addresses of it those of the condition."""

    kinds: int
    start: int
    end: int
    offset: int
    condition: Condition


class Watch:
    """What to tell the core for *conditions*, and what its notes mean; *translate* gives physical addresses.

    Conditions that the core does not look for are left out.  Raises UsageError if a linear address is not mapped,
    or a range is none.
    """

    def __init__(self, conditions: Sequence[Condition], translate: Callable[[int], int | None]) -> None:
        self._has_predicates = any(isinstance(each, When) for each in conditions)
        self._code: dict[int, list[Condition]] = {}
        self._memory: list[_Range] = []
        self._system: list[tuple[int, int | None, Condition]] = []
        # What is watched twice would be noted twice, or not, depending on how the guest is run.
        for condition in dict.fromkeys(conditions):
            watched = condition.at if isinstance(condition, When) else condition
            if watched is not None and not isinstance(watched, EventKind | ConsoleText):
                self._add(watched, condition, translate)

    def __bool__(self) -> bool:
        return bool(self._code or self._memory or self._system)

    @property
    def pages(self) -> frozenset[int] | None:
        """The numbers of the pages of which one is written where there is a hit; None if not all hits are writes."""
        if self._code or self._system or any(each.kinds != WATCH_WRITE for each in self._memory):
            return None
        return frozenset(each.start // PAGE_SIZE for each in self._memory)

    @property
    def has_predicates(self) -> bool:
        """Whether somebody has to be asked about a hit."""
        return self._has_predicates

    def put_on(self, core: Core, *, stops: bool, traps: bool = False) -> None:
        """Have *core* watch this, and nothing else; it *stops* at a hit, or only notes it."""
        vectors = [value for kind, value, _ in self._system if kind == WATCH_INTERRUPT]
        try:
            core.set_watches(
                list(self._code),
                [(each.start, each.end - each.start) for each in self._memory if each.kinds & WATCH_WRITE],
                [(each.start, each.end - each.start) for each in self._memory if each.kinds & WATCH_READ],
                system=_union(kind for kind, _, _ in self._system),
                vectors=None if None in vectors else [value for value in vectors if value is not None],
                traps=TRAPS if traps and self._memory else 0,
            )
        except ValueError as error:
            raise UsageError(f"too much to look for at once: {error}") from error
        core.stop_at_hits = stops

    def hits(self, noted: Noted, steps: int = 0, entered: Container[Entered] | None = None) -> list[Hit]:
        """Return what the core *noted*, as the instruction *steps* of its line: a hit for each condition it is for.

        *entered* tells of the accesses that go on into the next page which they get to.  Without that they may get to
        any, and make hits that are none.
        """
        kind, branches, _, _, address, size, value = noted
        if kind & WATCH_EXECUTE:
            return [Hit(branches, steps, each, address) for each in self._code.get(address, ())]
        if kind & _SYSTEM:
            return [
                Hit(branches, steps, condition, value=value)
                for of, wanted, condition in self._system
                if of == kind and wanted in (None, value)
            ]
        return [
            Hit(branches, steps, each.condition, max(address, each.start) + each.offset)
            for each in self._memory
            if each.kinds & kind and _reaches(address, max(size, 1), each, entered, (steps, kind & _ACCESS))
        ]

    def lines(self, noted: Iterable[Noted], *, trapped: bool) -> list[int]:
        """Return the lines, in order, that may have a hit by what the core *noted*, *trapped* or by hooks."""
        return sorted({each[1] for each in noted if trapped or self.hits(each)})

    # -- details -----------------------------------------------------------------------------------------------

    def _add(self, watched: Watched, condition: Condition, translate: Callable[[int], int | None]) -> None:
        match watched:
            case Execute(address):
                self._code.setdefault(address, []).append(condition)
            case Write():
                self._add_range(watched, WATCH_WRITE, condition, translate)
            case Read():
                self._add_range(watched, WATCH_READ, condition, translate)
            case Access():
                self._add_range(watched, WATCH_READ | WATCH_WRITE, condition, translate)
            case Interrupt(vector):
                if vector is not None and not 0 <= vector <= 255:
                    raise UsageError(f"there is no interrupt vector {vector}")
                self._system.append((WATCH_INTERRUPT, vector, condition))
            case SystemCall(number):
                self._system.append((WATCH_SYSTEM_CALL, number, condition))
            case AddressSpace(root):
                self._system.append((WATCH_ADDRESS_SPACE, root, condition))
            case Privilege(level):
                self._system.append((WATCH_PRIVILEGE, level, condition))

    def _add_range(
        self,
        watched: Write | Read | Access,
        kinds: int,
        condition: Condition,
        translate: Callable[[int], int | None],
    ) -> None:
        if not 1 <= watched.size <= MOST_BYTES or watched.address < 0:
            raise UsageError(
                f"{watched.size} bytes at {watched.address:#x} cannot be watched",
                hint=f"watch 1 to {MOST_BYTES}",
            )
        address, left = watched.address, watched.size
        while left > 0:
            piece = min(left, PAGE_SIZE - address % PAGE_SIZE)
            physical = address if watched.physical else translate(address)
            if physical is None:
                raise UsageError(
                    f"{address:#x} is not mapped here",
                    hint="go where it is, or watch a physical address",
                )
            self._memory.append(_Range(kinds, physical, physical + piece, address - physical, condition))
            address, left = address + piece, left - piece


def entered_pages(noted: Iterable[tuple[Noted, int]]) -> frozenset[Entered]:
    """Return what was entered by what was *noted* by traps, each with its instruction."""
    return frozenset(
        (steps, each[0] & _ACCESS, each[4] // PAGE_SIZE) for each, steps in noted if each[4] % PAGE_SIZE == 0
    )


def _reaches(
    address: int, size: int, watched: _Range, entered: Container[Entered] | None, access: tuple[int, int]
) -> bool:
    """Return whether an *access* to *size* bytes from physical *address* on reaches what is *watched*."""
    in_page = min(size, PAGE_SIZE - address % PAGE_SIZE)
    if address < watched.end and watched.start < address + in_page:
        return True
    page, offset = divmod(watched.start, PAGE_SIZE)
    return offset < size - in_page and (entered is None or (*access, page) in entered)


def _union(kinds: Iterable[int]) -> int:
    union = 0
    for kind in kinds:
        union |= kind
    return union
