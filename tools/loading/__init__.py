"""What `tools/load.py` puts a recorded guest under, and how it judges what came of it.

load.c   the program in the guest: connections, and a file that is written all over
guest    a Debian with that program on its disk, and how it is recorded
relay    the cable at the guest's network card, a bad one
ends     what is at its far end: this host's own TCP, or passt
peers    the other ends of the guest's connections
trial    one recording under load, from its start to its end or its recorder's
judge    whether that replays exactly, from its beginning and from every checkpoint

What the guest says of itself counts as much as what the replay does: data that was mixed up on its way through a
device, the same in every replay, would be no less wrong.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """How much is done to a guest.

    ``megabytes`` go each way, over ``connections`` of which half are the guest's own; ``operations`` are done on a
    file; ``flood_s`` seconds long it is pinged as fast as it answers.  At the far ``end`` is a TAP or passt.
    ``drop``, ``duplicate`` and ``reorder`` are how many of a million frames that happens to, each way.
    """

    megabytes: float = 50.0
    connections: int = 6
    operations: int = 1500
    flood_s: float = 3.0
    end: str = "tap"
    drop: int = 1000
    duplicate: int = 1000
    reorder: int = 2000


@dataclass(slots=True, kw_only=True)
class Trial:
    """A recording under load: what came of it, counts of all kinds, and what is wrong."""

    name: str
    outcome: str = ""
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    files: Path | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return {**asdict(self), "files": str(self.files) if self.files else None}
