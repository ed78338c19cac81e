"""Time travel: every moment of a recording, forwards and backwards; see `Timeline`.

timeline     the machine that can be put on any position, and the searches
conditions   what is searched for, and why a move ended
search       what a search tells the core to note, and what that means
snapshots    moments to come back to, those of the recording and those taken on the way
memory       the contents of pages, each kept once for all snapshots
events       the log, at hand
points       going to points as people name them
"""

from revirt.timeline.conditions import (
    Access,
    Condition,
    EventKind,
    Execute,
    Read,
    Stopped,
    StopReason,
    Write,
)
from revirt.timeline.points import seek_point
from revirt.timeline.timeline import Timeline

__all__ = [
    "Access",
    "Condition",
    "EventKind",
    "Execute",
    "Read",
    "StopReason",
    "Stopped",
    "Timeline",
    "Write",
    "seek_point",
]
