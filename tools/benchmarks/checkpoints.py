"""What a checkpoint costs: how long the guest stands still for it, and how long it takes to get back to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measure import Figure, Settings, figure, work
from benchmarks.recording import record
from benchmarks.workloads import Workload

PAUSE_NS_PER_PAGE = 10_000
PAUSE_NS = 5_000_000
"""A checkpoint may hold the guest up for so long, and for so long more per page written since the last."""
RESTORE_BAR_MS = 150.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A checkpoint taken: times in seconds, ``cpu_seconds`` of the thread that runs the guest."""

    seconds: float
    cpu_seconds: float
    pages: int

    @property
    def share(self) -> float:
        """What was used of the time allowed for so many written pages."""
        return self.seconds * 1e9 / (PAUSE_NS + self.pages * PAUSE_NS_PER_PAGE)


_ALLOWED = "(5 ms + 10 us a page)"
_PAUSE_QUANTITIES: tuple[tuple[str, str, Callable[[Sequence[Pause]], float], float | None], ...] = (
    ("median pause", "ms", lambda pauses: 1e3 * median(pause.seconds for pause in pauses), None),
    ("median CPU time", "ms", lambda pauses: 1e3 * median(pause.cpu_seconds for pause in pauses), None),
    ("pages written since the last", "", lambda pauses: median(pause.pages for pause in pauses), None),
    (f"median / {_ALLOWED}", "", lambda pauses: median(pause.share for pause in pauses), 1.0),
    (f"worst / {_ALLOWED}", "", lambda pauses: max(pause.share for pause in pauses), 1.0),
)


def measure_pauses(workload: Workload, settings: Settings) -> Iterator[Figure]:
    """Yield how long checkpoints hold up the guest while it does *workload*; a round is a recording with many.

    Of each recording the median checkpoint is taken, and the worst.
    """
    outcomes = []
    for number in range(settings.rounds):
        settings.note(f"pauses of {workload.name}: round {number + 1} of {settings.rounds}")
        pauses = work("pauses", workload.write_script(settings.scratch("script")))["pauses"]
        outcomes.append([Pause(**pause) for pause in pauses])
    subject = f"checkpoint of {workload.name}"
    for quantity, unit, value, bar in _PAUSE_QUANTITIES:
        yield figure("pause", subject, quantity, unit, [value(pauses) for pauses in outcomes], bar)


def measure_restore(workload: Workload, settings: Settings) -> Iterator[Figure]:
    """Yield how long it takes to restore the last checkpoint of a recording of *workload* into a new process."""
    path = settings.scratch("recording")
    settings.note(f"restoring {workload.name}: recording it")
    record(path, "--clock", "virtual", "--script", workload.write_script(settings.scratch("script")))
    outcomes = []
    for number in range(settings.rounds):
        settings.note(f"restoring {workload.name}: round {number + 1} of {settings.rounds}")
        outcomes.append(work("restore", path))
    subject = f"last checkpoint of {workload.name}"
    yield figure("restore", subject, "wall time", "ms", _in_ms(outcomes, "seconds"), RESTORE_BAR_MS)
    yield figure("restore", subject, "CPU time", "ms", _in_ms(outcomes, "cpu_seconds"))
    yield figure(
        "restore", subject, "with interpreter and imports", "ms", _in_ms(outcomes, "process_seconds")
    )
    yield figure(
        "restore", subject, "pages that are not zero", "", [outcome["pages"] for outcome in outcomes]
    )


def _in_ms(outcomes: Sequence[dict[str, float]], key: str) -> list[float]:
    return [outcome[key] * 1e3 for outcome in outcomes]
