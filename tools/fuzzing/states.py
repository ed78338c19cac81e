"""Hostile states of devices: what a board saved, with fields changed behind all checks, and taken up again.

Either it is refused, or the board that has it keeps all the rules that others keep, and may be saved and restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.acts import Act
from fuzzing.bench import Bench, Saved, run
from fuzzing.boards import LAST, Boards, compare, lived
from fuzzing.chances import Chances
from fuzzing.changes import change, number
from fuzzing.forgery import STRANGE
from revirt.errors import CorruptError


class States(Boards):
    """Cases of states; in what comes before and behind them, as those of boards."""

    kind = "state"

    def judge(self, acts: Sequence[Act], forging: bytes, *, at_once: bool) -> None:
        half = len(acts) // 2
        before = Bench(at_once=at_once)
        run(before, acts[:half])
        run(before, LAST)
        forged = forge(before.save(), Chances(forging))
        board = Bench(at_once=at_once, trusts_store=False)
        try:
            board.restore(forged)
        except ValueError as error:
            raise CorruptError(Path("state"), str(error)) from error
        begun = board.save()
        first = lived(board, acts[half:])
        other = Bench(at_once=at_once, trusts_store=False, eager=True)
        other.restore(begun)
        compare(first, lived(other, acts[half:]), "a board that took up its state")


def forge(saved: Saved, chance: Random) -> Saved:
    """Return *saved* with something changed in states, or in what disks and firmware have behind RAM."""
    states: dict[str, Any] = saved.states
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        if chance.random() < 0.1:
            store = bytearray(saved.store)
            place = chance.choice((chance.randrange(len(store)), len(store) - chance.randrange(1 << 17), 0))
            part = chance.randbytes(chance.choice((1, 4, 64)))
            store[place : place + len(part)] = part
            saved = saved._replace(store=bytes(store[: len(saved.store)]))
            continue
        places = [*_places(states[chance.choice(sorted(states))])]
        if places:
            holder, key = chance.choice(places)
            holder[key] = _changed(holder[key], chance)
    return saved


def _places(value: Any) -> Sequence[tuple[Any, Any]]:
    """Return every place in *value* that holds something: its container, and the key."""
    if isinstance(value, dict):
        items: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return ()
    found = [(value, key) for key, _ in items]
    for _, each in items:
        found += _places(each)
    return found


def _changed(value: Any, chance: Random) -> Any:
    if chance.random() < 0.03:
        return chance.choice(STRANGE)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return number(chance, value, chance.choice((1, 2, 3, 4, 8, 8, 16, 32, 64)))
    if isinstance(value, bytes):
        if chance.random() < 0.2:
            return change(chance, value)
        place = chance.randrange(len(value) + 1)
        part = chance.randbytes(chance.choice((1, 2, 4)))
        return (value[:place] + part + value[place + len(part) :])[: len(value)]
    if isinstance(value, list) and value:
        return chance.choice((value[:-1], value + value[:1], value[::-1], value * 20))
    return value
