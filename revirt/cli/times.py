"""The guest's time at events, for rows: from the log, or else by a replay that goes no further than it has to."""

from __future__ import annotations

from collections.abc import Iterator

from revirt.position import EventNumber
from revirt.recording import Recording


class Times:
    """The guest's time at events of *recording*, which have to be asked for in their order.

    With *log_only* nothing is replayed.
    """

    def __init__(self, recording: Recording, *, log_only: bool = False) -> None:
        self._recording = recording
        self._log_only = log_only
        self._replayed: Iterator[tuple[int, int]] | None = None

    def at(self, ordinal: int, known_ns: int | None) -> int | None:
        """Return the time at event number *ordinal*, *known_ns* if that is not None.

        None is what the log does not tell, and nobody is to replay.  Raises what a replay raises.
        """
        if known_ns is not None or self._log_only:
            return known_ns
        if self._replayed is None:
            # Imported here: listing what is on disk needs no CPU core.
            from revirt.replay.timing import event_times

            self._replayed = event_times(self._recording, EventNumber(ordinal))
        return next((ns for number, ns in self._replayed if number == ordinal), None)
