"""Inputs of a machine that is alone in the world."""

from __future__ import annotations

from collections.abc import Sequence

from revirt.machine.inputs import Arrival, Moment


class Nobody:
    """Inputs of a machine that nothing reaches from outside."""

    def horizon(self, branches: int) -> int:
        return branches + 1_000_000

    def arrivals(self, moment: Moment) -> Sequence[Arrival]:
        return ()

    def idle(self, moment: Moment, wake_ns: int | None) -> Sequence[Arrival]:
        return ()

    def interrupted(self, moment: Moment, vector: int) -> None:
        pass

    def transmitted(self, character: bytes) -> None:
        pass

    def printed(self, moment: Moment, port: int, data: bytes) -> None:
        pass

    def sent(self, moment: Moment, nic: int, frame: bytes) -> None:
        pass

    def stored(self, moment: Moment, disk: int, sector: int, data: bytes) -> None:
        pass
