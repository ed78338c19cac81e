"""Devices as a target: what a hostile guest does to a board, told by the bytes of a case.

A case runs up to a mark, where all is saved, and on.  Then the same board takes up what was saved, and does the rest
again; and so does a new one, which stops at every branch, and twice.  What is seen, and what all of it comes to, has to
be the same each time: that is what a replay lives on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random

from fuzzing import FuzzError
from fuzzing.acts import Act, Mark
from fuzzing.bench import Bench, Saved, run
from fuzzing.chances import Chances
from fuzzing.changes import Change
from fuzzing.mischief import Mischief
from fuzzing.targets import Commands, Scene, Target
from fuzzing.watch import Watch
from revirt.errors import RevirtError
from revirt.screen import read_screen

SAMPLES = 64
CASE_SIZE = 3000
"""Bytes of chance of a case: some hundred acts."""
FORGING = 256
"""Bytes of chance at the end of a case that say what is changed of a state, where something is."""
_MINIMISING_S = 15.0
LAST = (Mark(),)
"""Devices act at the end, too, or not all have had their turn."""

Life = tuple[list[object], Saved]
"""What was seen of a board, and what became of it."""


class Boards(Target):
    """Cases of devices.  At even places disks are done at once, at odd ones when the host says so."""

    kind = "board"
    acts = ()

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._bench = Bench(at_once=True)

    def samples(self) -> Sequence[bytes]:
        found = [Random(f"board/{number}").randbytes(CASE_SIZE) for number in range(SAMPLES)]
        # The zeros at its end change no state, so one of these is accepted.
        return [found[0][:-FORGING] + bytes(FORGING), *found[1:]]

    def forge(self, _data: bytes, rng: Random, _change: Change) -> bytes:
        return rng.randbytes(rng.choice((200, CASE_SIZE, 2 * CASE_SIZE)))

    def run(self, place: int, data: bytes, _act: str | None) -> list[RevirtError]:
        refused: list[RevirtError] = []
        made = Mischief(Chances(data), self._bench).acts()
        at_once = place % 2 == 0
        try:
            with self.reading(refused):
                self.judge(made, data[-FORGING:], at_once=at_once)
        except Exception as error:
            kind = type(error)
            few = minimised(made, lambda acts: self._fails_alike(acts, data[-FORGING:], at_once, kind))
            raise FuzzError(f"{error!r:.500}\n{told_of(few, at_once=at_once)}") from error
        return refused

    def judge(self, acts: Sequence[Act], _forging: bytes, *, at_once: bool) -> None:
        """Do *acts* with boards as the module says; what they do wrong is raised."""
        acts = [*acts, Mark()]
        split = next(number for number, act in enumerate(acts) if isinstance(act, Mark))
        board = Bench(at_once=at_once)
        run(board, acts[: split + 1])
        begun = board.save()
        rest = acts[split + 1 :]
        first = lived(board, rest)
        board.restore(begun)
        again = lived(board, rest)
        compare(first, again, "the same board, restored")
        other = Bench(at_once=at_once, eager=True)
        other.restore(begun)
        compare(first, lived(other, rest), "another board, which stops more often")

    def _fails_alike(self, acts: Sequence[Act], forging: bytes, at_once: bool, kind: type[Exception]) -> bool:
        try:
            self.judge(acts, forging, at_once=at_once)
        except Exception as found:
            return type(found) is kind
        return False


def told_of(acts: Sequence[Act], *, at_once: bool) -> str:
    """Return *acts* in words, as Python has them."""
    lines = "\n".join(f"    {act}," for act in acts)
    return f"with at_once={at_once}, {len(acts)} acts are enough:\n[\n{lines}\n]"


def minimised(acts: Sequence[Act], fails: Callable[[Sequence[Act]], bool]) -> list[Act]:
    """Return few of *acts* that still fail, found within some seconds.

    Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
    """
    left, size = list(acts), max(1, len(acts) // 2)
    end = time.monotonic() + _MINIMISING_S
    while time.monotonic() < end:
        start, before = 0, len(left)
        while start < len(left) and time.monotonic() < end:
            fewer = left[:start] + left[start + size :]
            if fails(fewer):
                left = fewer
            else:
                start += size
        if size == 1 and len(left) == before:
            break
        size = max(1, size // 2)
    return left


def lived(bench: Bench, acts: Sequence[Act]) -> Life:
    """Return what is seen of *bench* that does *acts*, and what it comes to."""
    bench.told.clear()
    run(bench, acts)
    run(bench, LAST)
    bench.check()
    state = bench.board.vga.save() if bench.board.vga is not None else None
    read_screen(bench.core.ram, state)
    return list(bench.told), bench.save()


def compare(first: Life, second: Life, who: str) -> None:
    """Raise FuzzError if two lives are not the same."""
    for number, (told, again) in enumerate(zip(first[0], second[0], strict=False)):
        if told != again:
            raise FuzzError(f"{who}: where {told} was seen, {again} is (number {number})")
    if first != second:
        raise FuzzError(f"{who}: it comes to something else")
