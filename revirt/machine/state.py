"""Device states as plain data: dataclasses of integers, booleans, bytes and lists, and how they become bytes.

A state that comes back from a file is hostile: every field is checked for its type and range before a device sees
it.  Ranges are declared once, in the annotation: ``irr: U8``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgpack


@dataclass(frozen=True, slots=True)
class Range:
    """Least and greatest value of an integer field, or least and greatest length of bytes and lists."""

    low: int
    high: int


U1 = Annotated[int, Range(0, 1)]
U2 = Annotated[int, Range(0, 3)]
U3 = Annotated[int, Range(0, 7)]
U4 = Annotated[int, Range(0, 15)]
U8 = Annotated[int, Range(0, 0xFF)]
U16 = Annotated[int, Range(0, 0xFFFF)]
U32 = Annotated[int, Range(0, 0xFFFF_FFFF)]
U64 = Annotated[int, Range(0, 0xFFFF_FFFF_FFFF_FFFF)]


class NewerVersionError(ValueError):
    """Only a newer revirt knows this version: ``what`` has it, which was ``found``, the newest ``known`` here."""

    def __init__(self, what: str, found: int, known: int) -> None:
        super().__init__(f"{what} version {found}; the newest known is {known}")
        self.what = what
        self.found = found
        self.known = known


def check_version(what: str, found: object, known: int) -> None:
    """Raise NewerVersionError if *what* has a version beyond *known*, ValueError if *found* is no version."""
    if type(found) is not int or found < 1:
        raise ValueError(f"no version of {what}: {found!r:.40}")
    if found > known:
        raise NewerVersionError(what, found, known)


class State:
    """Base of every state dataclass (fields: bool, int, bytes, list of those or of other states, or states).

    ``VERSION`` counts up with every change of fields or of what they mean; a saved state says which it has.
    """

    VERSION = 1


S = TypeVar("S", bound=State)


def to_plain(state: State) -> dict[str, Any]:
    """Return *state* as nested dicts, lists, integers and bytes, keyed by field name."""
    return dataclasses.asdict(state)  # type: ignore[call-overload, no-any-return]


def from_plain(cls: type[S], plain: object) -> S:
    """Return the state of class *cls* that `to_plain` described; raises ValueError naming the field at fault."""
    value = _checked(cls, plain, cls.__qualname__)
    assert isinstance(value, cls)
    return value


def encode(states: dict[str, State]) -> bytes:
    """Return *states*, keyed by device name, as bytes; equal states give equal bytes."""
    packed: bytes = msgpack.packb({name: to_plain(states[name]) for name in sorted(states)})
    return packed


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _checked(annotation: Any, plain: object, where: str) -> object:
    bounds: Range | None = None
    if get_origin(annotation) is Annotated:
        annotation, bounds = get_args(annotation)[:2]
    if dataclasses.is_dataclass(annotation):
        hints = _hints(annotation)  # type: ignore[arg-type]
        if not isinstance(plain, dict) or set(plain) != set(hints):
            raise ValueError(f"{where}: wrong set of fields")
        fields = {name: _checked(hint, plain[name], f"{where}.{name}") for name, hint in hints.items()}
        return annotation(**fields)  # type: ignore[operator]
    if get_origin(annotation) is list:
        if not isinstance(plain, list):
            raise ValueError(f"{where}: not a list")
        _check_range(len(plain), bounds, where)
        (item,) = get_args(annotation)
        return [_checked(item, value, f"{where}[{index}]") for index, value in enumerate(plain)]
    if type(plain) is not annotation:
        raise ValueError(f"{where}: {type(plain).__name__} where {annotation.__name__} belongs")
    if isinstance(plain, int) and not isinstance(plain, bool):
        _check_range(plain, bounds, where)
    elif isinstance(plain, bytes):
        _check_range(len(plain), bounds, where)
    return plain


def _check_range(value: int, bounds: Range | None, where: str) -> None:
    if bounds is not None and not bounds.low <= value <= bounds.high:
        raise ValueError(f"{where}: {value} is outside {bounds.low}..{bounds.high}")
