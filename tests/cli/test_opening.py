"""Opening circular recordings while their recorder lets go of the beginning."""

from __future__ import annotations

import pytest
from library import RecordingOf

from revirt.cli import main
from revirt.cli.opening import opened
from revirt.debugger import Session
from revirt.errors import EvictedError
from revirt.recording import Recording


def test_what_goes_meanwhile_is_looked_for_again(recording_of: RecordingOf) -> None:
    tries = []

    def look(recording: Recording) -> str:
        tries.append(recording)
        if len(tries) < 3:
            raise EvictedError("gone")
        return recording.manifest.uuid

    recording = recording_of("vuln")

    assert opened(recording.path, look) == recording.manifest.uuid
    assert len(tries) == len(set(map(id, tries))) == 3


def test_what_goes_all_the_time_is_not_waited_for(recording_of: RecordingOf) -> None:
    def look(_: Recording) -> None:
        raise EvictedError("gone")

    with pytest.raises(EvictedError):
        opened(recording_of("vuln").path, look)


def test_the_debugger_tries_again(recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch) -> None:
    make, tries = Session.__init__, []

    def fail_once(session: Session, *arguments: object) -> None:
        tries.append(session)
        if len(tries) == 1:
            raise EvictedError("gone")
        make(session, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "__init__", fail_once)

    assert main(["debug", str(recording_of("vuln").path), "--plain", "-e", "where"]) == 0
