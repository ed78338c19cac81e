from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from revirt.fork import Changes, Fork
from revirt.log.events import Kind
from revirt.monitor.console import Console, NullConsole
from revirt.monitor.session import RecordOptions
from revirt.position import Point
from revirt.recording import Recording


class ForkOf(Protocol):
    """Forks a recording, by default with its inputs to where it ended, and returns the recording of that."""

    def __call__(
        self,
        recording: Recording,
        at: Point | None,
        changes: Changes = ...,
        *,
        console: Console | None = ...,
        options: RecordOptions = ...,
        **more: Any,
    ) -> Recording: ...


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def fork_of(tmp_path: Path) -> ForkOf:
    """Return a function that makes a fork."""
    made: list[Path] = []

    def make(
        recording: Recording,
        at: Point | None,
        changes: Changes | None = None,
        *,
        console: Console | None = None,
        options: RecordOptions | None = None,
        **more: Any,
    ) -> Recording:
        path = tmp_path / f"fork-{len(made)}"
        made.append(path)
        more.setdefault("gives_inputs", console is None)
        fork = Fork.of(recording, at, changes=changes, **more)
        with NullConsole() as nobody:
            fork.record(console or nobody, options or RecordOptions(), path, ends=more["gives_inputs"])
        return Recording.open(path)

    return make


@pytest.fixture
def said() -> Callable[[Recording], bytes]:
    """Return a function that returns what the guest sent in a recording."""
    return lambda recording: b"".join(
        event.data for event in recording.events() if event.kind is Kind.TRANSMITTED
    )
