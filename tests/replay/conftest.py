from __future__ import annotations

from collections.abc import Callable

import pytest

from revirt.log.events import Kind
from revirt.recording import Recording
from revirt.replay import ReplaySession


@pytest.fixture
def finish() -> Callable[[ReplaySession], None]:
    """Return a function that runs a session to the end of its log and makes sure that all of it came again."""

    def run(session: ReplaySession) -> None:
        session.run()
        events = list(session.recording.events(after=session.info.event - 1))
        assert session.replayer.is_exhausted
        assert session.replayer.digests_checked == sum(event.kind == Kind.DIGEST for event in events)

    return run


@pytest.fixture
def digest_count() -> Callable[[Recording], int]:
    """Return a function that counts the digests in a recording."""
    return lambda recording: sum(event.kind == Kind.DIGEST for event in recording.events())
