"""Goes on live from a position of a recording: another life from there, with a recording of its own.

changes     what is to be different: memory, and what reaches the guest
inputs      what reached the guest behind the position, to be given again
fork        the moment from which a fork goes on, and the run
"""

from revirt.fork.changes import Changes, Patch, received_between
from revirt.fork.fork import Fork

__all__ = ["Changes", "Fork", "Patch", "received_between"]
