"""What a checkpoint costs: how long the guest stands still for it, and how long it takes to get back to it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.measure import Figure, Settings, figure, work
from benchmarks.recording import record
from benchmarks.workloads import Workload

PAUSE_NS_PER_PAGE = 10_000
PAUSE_NS = 5_000_000
"""A checkpoint may hold the guest up for so long, and for so long more per page written since the last."""
RESTORE_BAR_MS = 150.0


def measure_pauses(workload: Workload, settings: Settings) -> Iterator[Figure]:
    """Yield how long checkpoints hold up the guest while it does *workload*; a round is a recording with many.

    Of each recording the median checkpoint is taken, and the worst.
    """
    medians, worst, rates = list[float](), list[float](), list[float]()
    pages = list[float]()
    for number in range(settings.rounds):
        settings.note(f"pauses of {workload.name}: round {number + 1} of {settings.rounds}")
        taken = work("pauses", workload.write_script(settings.scratch("script")))["pauses"]
        shares = [pause["seconds"] * 1e9 / allowed_ns(pause["pages"]) for pause in taken]
        medians.append(statistics.median(shares))
        worst.append(max(shares))
        pages.append(statistics.median(pause["pages"] for pause in taken))
        rates.append(statistics.median(pause["seconds"] for pause in taken) * 1e3)
    subject = f"checkpoint of {workload.name}"
    yield figure("pause", subject, "median pause", "ms", rates)
    yield figure("pause", subject, "pages written since the last", "", pages)
    yield figure("pause", subject, "median / (5 ms + 10 us a page)", "", medians, 1.0)
    yield figure("pause", subject, "worst / (5 ms + 10 us a page)", "", worst, 1.0)


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
    yield figure(
        "restore", subject, "with interpreter and imports", "ms", _in_ms(outcomes, "process_seconds")
    )
    yield figure(
        "restore", subject, "pages that are not zero", "", [outcome["pages"] for outcome in outcomes]
    )


def allowed_ns(pages: float) -> float:
    """Return how long a checkpoint with *pages* written pages may hold up the guest."""
    return PAUSE_NS + pages * PAUSE_NS_PER_PAGE


def _in_ms(outcomes: Sequence[dict[str, float]], key: str) -> list[float]:
    return [outcome[key] * 1e3 for outcome in outcomes]
