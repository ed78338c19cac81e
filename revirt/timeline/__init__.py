"""Time travel: every moment of a recording, forwards and backwards; see `Timeline`.

timeline     the machine that can be put on any position, and the searches
conditions   what is searched for, and why a move ended
finder       searches for several conditions, each in its own way
search       those for what the core can watch
scouts       processes that search ahead; worker is one of them
watch        what the core is to watch, and what its notes mean
console      text on the console, and who sent it
predicates   branch after branch
calls        the way out of a function
lookup       memory, read and searched
wording      conditions and stops as people write and read them
snapshots    moments to come back to, those of the recording and those taken on the way
line         marks on a straight line
memory       the contents of pages, each kept once for all snapshots
events       the log, at hand
points       going to points as people name them
"""

from revirt.timeline.conditions import (
    Access,
    AddressSpace,
    Condition,
    ConsoleText,
    EventKind,
    Execute,
    Interrupt,
    Privilege,
    Read,
    Stopped,
    StopReason,
    SystemCall,
    When,
    Write,
)
from revirt.timeline.points import seek_point
from revirt.timeline.timeline import Timeline

__all__ = [
    "Access",
    "AddressSpace",
    "Condition",
    "ConsoleText",
    "EventKind",
    "Execute",
    "Interrupt",
    "Privilege",
    "Read",
    "StopReason",
    "Stopped",
    "SystemCall",
    "Timeline",
    "When",
    "Write",
    "seek_point",
]
