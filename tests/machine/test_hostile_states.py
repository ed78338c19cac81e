"""States that a file may hold, though no board ever came to them: every field at the ends of its range."""

from __future__ import annotations

import dataclasses
from typing import Annotated, get_args, get_origin, get_type_hints

import msgpack
import pytest
from fuzzing.bench import Bench
from fuzzing.mischief import PORTS

from revirt.machine.inputs import DiskDone, Entropy, Frame, Keys, Received
from revirt.machine.state import Range

ARRIVALS = (
    *(Received(b"typed", 0), Received(b"typed", 1), Keys(b"\x1c\xf0\x1c"), Entropy(bytes(64))),
    *(Frame(0, bytes(60)), DiskDone(0, 0)),
)


def ends(cls, where=()):
    """Yield the path of every field of *cls* that has a range, and the values at the ends of that."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        yield from _ends(hint, (*where, name))


def _ends(hint, where):
    bounds = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)[:2]
    if dataclasses.is_dataclass(hint):
        yield from ends(hint, where)
    elif get_origin(hint) is list:
        yield from _ends(get_args(hint)[0], (*where, -1))
    elif hint is bool:
        yield from ((where, value) for value in (False, True))
    elif hint is int and isinstance(bounds, Range):
        yield from ((where, value) for value in (bounds.low, bounds.high))
    elif hint is bytes and bounds is not None and bounds.low == bounds.high:
        yield where, b"\xff" * bounds.high


def put(plain, where, value):
    """Set what is at *where*; return whether there is such a place, and *value* is another."""
    for key in where[:-1]:
        if isinstance(plain, list) and not plain:
            return False
        plain = plain[key]
    if isinstance(plain, list) and not plain:
        return False
    is_other = plain[where[-1]] != value
    plain[where[-1]] = value
    return is_other


@pytest.fixture
def bench():
    return Bench(at_once=False, trusts_store=False)


NAMES = sorted(Bench(at_once=True).board.save())


@pytest.mark.parametrize("name", NAMES)
def test_every_field_may_be_at_an_end_of_its_range(bench, name):
    sound = msgpack.packb(bench.save().states)
    tried = 0
    for where, value in ends(type(bench.board.save()[name])):
        plain = msgpack.unpackb(sound)
        if put(plain[name], where, value):
            tried += 1
            use(bench, plain)
    assert tried


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [min, max])
def test_all_fields_may_be_there_at_once(bench, name, end):
    plain = bench.save().states
    found = list(ends(type(bench.board.save()[name])))
    for where, _ in found:
        put(plain[name], where, end(value for place, value in found if place == where))

    use(bench, plain)


def use(bench, plain):
    """Let *bench* take up the states *plain*, if it does, and do something with every device."""
    try:
        bench.board.restore(plain)
    except ValueError:
        return
    for size in (1, 2, 4):
        for port in PORTS:
            assert 0 <= bench.board.ports.read(port, size) < 1 << 8 * size
    bench.memory.is_open = True
    bench.board.service()
    for arrival in ARRIVALS:
        bench.board.has_room_for(arrival)
        bench.board.accept(arrival)
    bench.memory.is_open = False
    for port in PORTS:
        bench.board.ports.write(port, 1, 0xFF)
    bench.clock.now_ns += 1_000_000
    bench.board.catch_up()
    bench.board.deadline_ns()
    bench.save()
    bench.core.check()
