"""Recorders that can be looked into: their keys and epochs are given, and they die when they are told to."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from revirt.log.frame import write_whole
from revirt.recording import sealer
from revirt.seal.keys import PrivateKey
from revirt.seal.schedule import Schedule

EPOCHS = 4
"""Epochs in a batch: few, so that there are many batches."""

_CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.truncate"})


@contextmanager
def watched(
    seed: bytes,
    is_due: Callable[[], bool],
    seen: Callable[[str, bytes], None] | None = None,
    *,
    epochs: int = EPOCHS,
) -> Iterator[None]:
    """While this lasts, recordings are sealed with the keys that *seed* gives, in batches of so many *epochs*.

    An epoch ends when *is_due* says so, which is asked whenever a recorder looks; *seen* is told of every file of a
    seal that is written, by its name.
    """

    class Known(Schedule):
        @classmethod
        def begin(cls, key: PrivateKey, recording: str, **_: Any) -> Known:
            return super().begin(key, recording, epochs=epochs, seed=seed)

    def write(path: Path, *parts: bytes) -> int:
        if seen is not None:
            seen(path.name, b"".join(parts))
        return write_whole(path, *parts)

    with (
        patch.object(sealer, "Schedule", Known),
        patch.object(sealer, "epoch_is_due", lambda _started, _age: is_due()),
        patch.object(sealer, "write_whole", write),
    ):
        yield


def in_child(act: Callable[[], None], *, kill_at: int | None = None, below: Path | None = None) -> bool:
    """Do *act* in a process of its own, killed before its change number *kill_at* (from 0) to files below *below*.

    Return whether it came to its end; raises RuntimeError if it failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if kill_at is not None and below is not None:
                _die_before(kill_at, os.fspath(below))
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a recorder ended with status {code}")
    return code == 0


def _die_before(number: int, below: str) -> None:
    """Kill this process before it changes files below the directory *below* for the *number*-th time, from 0."""
    left = number

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in _CHANGES and not (event == "open" and _writes(arguments[2])):
            return
        path = arguments[0]
        if not isinstance(path, (str, bytes, os.PathLike)) or not os.fsdecode(path).startswith(below):
            return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(look)


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
