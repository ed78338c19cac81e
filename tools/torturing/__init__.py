"""What `tools/torture.py` does to recorders, and how it looks at what they leave behind.

subjects   the guests, and how they are recorded
recorder   a recorder in a process of its own, and what its guest was seen to print
kills      SIGKILL at a random moment
faults     a system call that fails (see `faults.c`, which is loaded into the recorder)
judge      whether what is on the disk can be trusted: run in a process of its own
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Trial:
    """A recorder that was tortured: what it was, what came of it, and what is wrong about that.

    ``lost_s`` is how old the oldest output was that is lost, ``ended_s`` how long it took a recorder to end after a
    fault; ``hit`` is false if there was no fault any more.  ``files`` is the directory that holds what is left.
    """

    name: str = ""
    outcome: str
    problems: list[str] = field(default_factory=list)
    lost_s: float = 0.0
    ended_s: float = 0.0
    hit: bool = True
    files: Path | None = None
