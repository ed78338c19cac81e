"""The events of a recording, at hand: segments are decoded once and kept for a while."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator

from revirt.log import segment
from revirt.log.events import Event
from revirt.recording import Recording

_KEPT = 8
"""Segments kept: a megabyte of log each, at most, is tens of megabytes of events."""


class Events:
    """The events of *recording* by their ordinal.  Everything raises CorruptError where the log is damaged."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._segments = recording.segments
        self._decoded: OrderedDict[int, list[Event]] = OrderedDict()
        self.first = recording.manifest.start.event
        """Ordinal of the first that is kept."""
        self.end = recording.event_end
        """Ordinal behind that of the last."""

    def __getitem__(self, ordinal: int) -> Event:
        if not self.first <= ordinal < self.end:
            raise IndexError(ordinal)
        position = self._position(ordinal)
        return self._events(position)[ordinal - self._segments[position].ordinal]

    def after(self, ordinal: int) -> Iterator[Event]:
        """Yield the events from *ordinal* on."""
        for position in range(self._position(ordinal), len(self._segments)):
            yield from self._events(position)[max(0, ordinal - self._segments[position].ordinal) :]

    def before(self, ordinal: int) -> Iterator[tuple[int, Event]]:
        """Yield the events before *ordinal* with their ordinals, the newest first."""
        for position in range(min(self._position(ordinal), len(self._segments) - 1), -1, -1):
            first = self._segments[position].ordinal
            events = self._events(position)
            for index in range(min(len(events), ordinal - first) - 1, -1, -1):
                yield first + index, events[index]

    def at_branches(self, branches: int) -> int:
        """Return the ordinal of the first event that does not stand before *branches*."""
        position = bisect_right(self._segments, branches - 1, key=lambda each: each.last_branches)
        if position == len(self._segments):
            return self.end
        events = self._events(position)
        start = bisect_right(events, branches - 1, key=lambda event: event.branches)
        return self._segments[position].ordinal + start

    def _position(self, ordinal: int) -> int:
        return bisect_right(self._segments, ordinal, key=lambda each: each.ordinal + each.count)

    def _events(self, position: int) -> list[Event]:
        events = self._decoded.get(position)
        if events is None:
            known = self._segments[position]
            # The last segment may have grown since.
            with self._recording.reading():
                _, events = segment.read(known.path)
            events = self._decoded[position] = events[: known.count]
            if len(self._decoded) > _KEPT:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(position)
        return events
