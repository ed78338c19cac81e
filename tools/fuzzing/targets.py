"""What reads hostile files: a target for each kind of them, run in this process.

A target takes the bytes of one file, puts it where it belongs, and reads it in all the ways that there are: by the
module that knows the format, then (not every time) by a command, as the command line would.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from random import Random

from fuzzing import FuzzError
from fuzzing.changes import Change
from fuzzing.watch import Watch
from revirt.cli.parser import make_parser
from revirt.errors import RevirtError

SECONDS = 20.0
"""How long a case may take before it counts as one that hangs; bombs take a second or two."""


class Target(ABC):
    """A kind of hostile files, and what reads them."""

    kind: str
    acts: Sequence[str] = ()
    """Names of what `run` can do with a file, besides reading it."""
    acting = 0.25
    """Which part of the cases do: commands take ten times as long as reading."""
    patience = 1.0
    """How many times `SECONDS` a case may take."""

    def __init__(self, scene: Scene, watch: Watch, _commands: Commands) -> None:
        self.scene = scene
        self.directory = scene.directory
        self.watch = watch

    @abstractmethod
    def samples(self) -> Sequence[bytes]:
        """Return files that are as they should be: what there is at each of the places to put one."""

    @abstractmethod
    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        """Return *data* with something changed and its checks made right again; raises NotForgedError."""

    @abstractmethod
    def run(self, place: int, data: bytes, act: str | None) -> list[RevirtError]:
        """Read *data* at *place*, and do *act*; return what it was refused with.

        What is not a RevirtError is passed on, WatchError among it.
        """

    def reseal(self, data: bytes) -> bytes:
        """Return *data*, changed blindly, with the checks made right that it has; here it has none."""
        return data

    @contextmanager
    def reading(self, refused: list[RevirtError], *, may_write: bool = False) -> Iterator[None]:
        """Watch the block; a RevirtError in it goes to *refused*."""
        with self.watch.over(may_write=may_write, seconds=SECONDS * self.patience):
            try:
                yield
            except RevirtError as error:
                _ = f"{error} {error.hint}"
                refused.append(error)


class Commands:
    """The commands of revirt, called in this process; what they print goes nowhere."""

    def __init__(self) -> None:
        self._nowhere = _Nowhere()

    def prepare(self, *words: str) -> Callable[[], None]:
        """Return a function that does what ``revirt`` with *words* does.

        It raises FuzzError for an exit status that docs/cli.md does not list.
        """
        arguments = make_parser().parse_args(words)
        arguments.command = ["revirt", *words]
        function = getattr(import_module(f"revirt.cli.{arguments.module}"), arguments.function)

        def call() -> None:
            with self._nowhere:
                status = function(arguments)
            if status not in range(5):
                raise FuzzError(f"revirt {' '.join(words)} ended with status {status}")

        return call

    def silently(self, act: Callable[[], object]) -> Callable[[], None]:
        """Return a function that does *act* and lets nothing be seen of it."""

        def call() -> None:
            with self._nowhere:
                act()

        return call


class _Discard(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]


class _Nowhere:
    """Takes what is printed inside its ``with`` block, encodes it as a pipe would have it, and forgets it."""

    def __enter__(self) -> None:
        self._streams = sys.stdout, sys.stderr
        stream = io.TextIOWrapper(io.BufferedWriter(_Discard()), encoding="utf-8", errors="strict")
        sys.stdout = sys.stderr = stream

    def __exit__(self, *_: object) -> None:
        printed = sys.stdout
        sys.stdout, sys.stderr = self._streams
        printed.flush()


class Scene:
    """Recordings to damage, in ``directory``: copied from *samples*, and made whole again.

    In ``outside`` are the same ones, with a file called bait: for links to lead to.
    """

    def __init__(self, samples: Path, directory: Path, names: Sequence[str]) -> None:
        self.samples = samples
        self.names = names
        self.directory, self.outside = directory / "scene", directory / "outside"
        for each in (self.directory, self.outside):
            each.mkdir()
            for name in names:
                shutil.copytree(samples / name, each / name)
        (self.outside / "bait").write_text("nobody should read this")
        self._before = set(os.listdir(self.directory))

    def restore_file(self, path: Path) -> None:
        """Put a single file back as it was."""
        path.write_bytes((self.samples / path.relative_to(self.directory)).read_bytes())

    def restore(self, name: str) -> None:
        """Put the recording *name* back as it was, and remove what else there is now."""
        for each in (*(set(os.listdir(self.directory)) - self._before), name):
            path = self.directory / each
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        shutil.copytree(self.samples / name, self.directory / name)
