"""Files that coverage leads to: atheris (libFuzzer for Python) changes what reached something new.

    python -m fuzzing.guided KIND ROOT SECONDS [INPUT ...]

Run by `tools/fuzz.py --guided`, which has filled ROOT/samples.  An input is two bytes that say where a file belongs and
what to do with it, and the file.  The corpus begins with the files of real recordings, and is kept in ROOT/corpus; an
input that fails ends the run and is left in ROOT.  Most changes are made behind the checks.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    sys.exit("fuzz: --guided needs atheris (pip install '.[fuzz]')")

with atheris.instrument_imports(include=["revirt"]):
    from fuzzing import FuzzError
    from fuzzing.changes import Change, change
    from fuzzing.files import MEMORY_LIMIT, make_targets
    from fuzzing.forgery import NotForgedError
    from fuzzing.targets import Target
    from fuzzing.watch import Memory

_HEAD = 2
_MOST_ADDED = 256


class Guided:
    """What libFuzzer calls: `run` for every input, `mutate` to make one of another."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._places = len(target.samples())
        self._memory = Memory()

    def run(self, data: bytes) -> None:
        """Read the file in *data*; whatever it raises is a failure."""
        if len(data) < _HEAD:
            return
        place, choice = data[0] % self._places, data[1]
        acts = self._target.acts
        self._memory.restart()
        self._target.run(place, data[_HEAD:], acts[choice] if choice < len(acts) else None)
        peak = self._memory.peak()
        if peak > MEMORY_LIMIT:
            raise FuzzError(f"took {peak >> 20} MiB of memory")

    def mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Return *data*, changed: the file in it by libFuzzer, mostly with its checks made right again."""
        rng = Random(seed)
        head, body = data[:_HEAD], data[_HEAD:]
        if len(head) < _HEAD or rng.random() < 0.1:
            head = bytes((head[0] if head else 0, rng.randrange(256)))

        def by_fuzzer(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, len(part) + _MOST_ADDED))

        changer = by_fuzzer if rng.random() < 0.7 else lambda part: change(rng, part)
        try:
            body = self._changed(body, rng, changer)
        except Exception:
            # libFuzzer would not get over it, and wait for ever.
            traceback.print_exc()
            os._exit(1)
        return (head + body)[:max_size]

    def _changed(self, body: bytes, rng: Random, change: Change) -> bytes:
        way = rng.random()
        if way < 0.6:
            with suppress(NotForgedError):
                return self._target.forge(body, rng, change)
        body = change(body)
        return self._target.reseal(body) if way < 0.85 else body

    def seeds(self) -> list[bytes]:
        """Return inputs that do each of the acts with a sound file, and each place once."""
        samples = self._target.samples()
        acts = range(len(self._target.acts) + 1)
        return [
            *(bytes((0, act)) + samples[0] for act in acts),
            *(bytes((place, 255)) + each for place, each in enumerate(samples[:256])),
        ]


def main() -> None:
    """Fuzz until the time is over or something fails; libFuzzer ends the process."""
    kind, root, seconds, *inputs = sys.argv[1:]
    directory, corpus = Path(root) / "guided", Path(root) / "corpus"
    inputs = [os.path.abspath(each) for each in inputs]
    for each in (directory, corpus):
        each.mkdir()
    guided = Guided(make_targets([kind], Path(root) / "samples", directory)[kind])
    for number, seed in enumerate(guided.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    # SIGALRM is ours, so libFuzzer must not use it; memory is looked at after every input.
    options = [
        f"-max_total_time={float(seconds):.0f}",
        f"-artifact_prefix={root}/",
        "-timeout=0",
        "-rss_limit_mb=0",
    ]
    options += ["-print_final_stats=1", "-max_len=262144", "-len_control=0"]
    atheris.Setup(
        [sys.argv[0], *options, *(inputs or [str(corpus)])], guided.run, custom_mutator=guided.mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
