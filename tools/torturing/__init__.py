"""What `tools/torture.py` does to recorders, and how it looks at what they leave behind.

subjects   the guests, and how they are recorded
recorder   a recorder in a process of its own, and what its guest was seen to print
onlooker   who reads a recording while it is made: run in a process of its own
kills      SIGKILL at a random moment
faults     a system call that fails (see `faults.c`, which is loaded into the recorder)
disks      a file system that fills up, breaks or becomes read-only
judge      whether what is on the disk can be trusted: run in a process of its own
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """How recordings are made, in the words of ``revirt record``; None: without.

    ``sign`` is a private key; the public one has to lie beside it, as ``revirt key new`` leaves it.
    """

    log_size: str | None = None
    keep: str | None = None
    sign: Path | None = None

    @property
    def is_ring(self) -> bool:
        """Whether recordings forget their beginning."""
        return self.log_size is not None or self.keep is not None

    @property
    def words(self) -> list[str]:
        """Return these options, as `torture.py` takes them, too."""
        given = {"--log-size": self.log_size, "--keep": self.keep, "--sign": self.sign}
        return [word for name, value in given.items() if value is not None for word in (name, str(value))]

    @property
    def public_key(self) -> Path | None:
        """The key to verify recordings with."""
        return self.sign.with_name(self.sign.name + ".pub") if self.sign is not None else None


@dataclass(slots=True, kw_only=True)
class Trial:
    """A recorder that was tortured: what it was, what came of it, and what is wrong about that.

    ``lost_s`` is how old the oldest output was that is lost, ``ended_s`` how long it took a recorder to end after a
    fault; ``hit`` is false if there was no fault any more.  ``has_turned`` tells a circular recording that has let go
    of something.  ``files`` is the directory that holds what is left.
    """

    name: str = ""
    outcome: str
    problems: list[str] = field(default_factory=list)
    lost_s: float = 0.0
    ended_s: float = 0.0
    hit: bool = True
    has_turned: bool = False
    files: Path | None = None
