"""Recorders that died between two steps of sealing: what they left was not tampered with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from busy import busy_in

from revirt.errors import HostError
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import Recording, RingLimits, Verdict
from revirt.recording.sealer import Sealer
from revirt.seal.keys import create


@pytest.fixture
def die_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recording]:
    """Return what records a sealed ring, by a recorder that dies behind its first call of a method of `Sealer`."""

    def recorded(name: str) -> Recording:
        method = getattr(Sealer, name)

        def die(self: Sealer, *arguments: object) -> None:
            method(self, *arguments)
            raise OSError(5, "Input/output error")

        key = tmp_path / "key"
        create(key)
        options = RecordOptions(
            clock="virtual",
            until=Position(60_000),
            checkpoint_every=1_000,
            limits=RingLimits(size=60_000),
            sign=key,
        )
        monkeypatch.setattr(Sealer, name, die)
        with NullConsole() as console, pytest.raises(HostError):
            record(busy_in(tmp_path), console, options, tmp_path / "sealed")
        monkeypatch.undo()
        return Recording.open(tmp_path / "sealed")

    return recorded


@pytest.mark.parametrize("name", ["add_checkpoint", "add_events", "permit", "evict"])
def test_what_it_left_is_called_interrupted(die_behind: Callable[[str], Recording], name: str) -> None:
    verification = die_behind(name).verify()

    assert not list(verification)
    assert verification.verdict is Verdict.INTERRUPTED
