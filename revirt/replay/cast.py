"""The serial line of a recording as a film that asciinema plays: its format "asciicast v2".

    {"version": 2, "width": 80, "height": 24, "timestamp": 1700000000, "title": "login"}
    [1.25, "o", "text that the guest sent"]
    [2.5, "i", "text that was typed"]

The first line describes the film, each further one an event at a time in seconds since the film began.  Times are
the guest's, from a replay: the log alone does not know when, between two of its events, the guest spoke.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any

from revirt.log.events import Event, Kind
from revirt.position import Position
from revirt.recording import Recording
from revirt.render import Progress
from revirt.replay.session import ReplaySession, show_progress

WIDTH, HEIGHT = 80, 24
_TOGETHER_NS = 10_000_000
"""What the guest sends within 10 ms is one event: no screen is redrawn more often."""
_SERIAL = 0
_NS = 1_000_000_000


class _Film:
    """Events as they come, each text whole characters of UTF-8; other bytes become U+FFFD."""

    def __init__(self, start_ns: int) -> None:
        self.lines: list[str] = []
        self._start_ns = start_ns
        self._begun_ns = 0
        self._sent = bytearray()
        self._decoders = {code: codecs.getincrementaldecoder("utf-8")("replace") for code in "io"}

    def send(self, now_ns: int, data: bytes) -> None:
        """Add what the guest sends."""
        if self._sent and now_ns - self._begun_ns > _TOGETHER_NS:
            self.flush()
        if not self._sent:
            self._begun_ns = now_ns
        self._sent += data

    def type(self, now_ns: int, data: bytes) -> None:
        """Add what is typed."""
        self.flush()
        self._add(now_ns, "i", data)

    def flush(self, *, final: bool = False) -> None:
        """Write what was sent; the beginning of a character waits for the rest of it, unless *final*."""
        data = bytes(self._sent)
        self._sent.clear()
        self._add(self._begun_ns, "o", data, final=final)

    def _add(self, now_ns: int, code: str, data: bytes, *, final: bool = False) -> None:
        text = self._decoders[code].decode(data, final)
        if text:
            seconds = round((now_ns - self._start_ns) / _NS, 6)
            self.lines.append(json.dumps([seconds, code, text], ensure_ascii=False))


def cast(
    recording: Recording,
    *,
    until: Position | None = None,
    progress: Progress | None = None,
    on_start: Callable[[Callable[[str], None]], None] | None = None,
) -> str:
    """Replay *recording* up to *until*, or its end, and return what was said as a film.

    *on_start* is given a function that ends the replay in order.  Raises DivergenceError where it is not the same, and
    otherwise as a replay does.
    """
    session: ReplaySession | None = None

    def send(data: bytes) -> None:
        assert session is not None
        film.send(session.machine.clock.now_ns, data)

    def pass_event(event: Event) -> None:
        assert session is not None
        if event.kind is Kind.RECEIVED and event.number == _SERIAL:
            film.type(session.machine.clock.now_ns, event.data)

    session = ReplaySession(recording, until=until, output=send, on_event=pass_event)
    start_ns = session.machine.clock.now_ns
    film = _Film(start_ns)
    show_progress(session, progress, until.branches if until is not None else recording.end_branches)
    if on_start is not None:
        on_start(session.replayer.stop)
    session.run()
    if until is not None and until.steps:
        session.machine.step(until.steps)
    film.flush(final=True)
    header: dict[str, Any] = {
        "version": 2,
        "width": WIDTH,
        "height": HEIGHT,
        "timestamp": session.machine.config.epoch + start_ns // _NS,
        "title": recording.path.name,
    }
    return "".join(line + "\n" for line in (json.dumps(header, ensure_ascii=False), *film.lines))
