"""What a seal costs while a guest is recorded, and how large a proof is and how long it takes to check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.measure import (
    Figure,
    Sample,
    Settings,
    alternate,
    cpus,
    figure,
    ratio,
    revirt_command,
    run,
    walls,
    work,
)
from benchmarks.recording import GUEST
from benchmarks.workloads import Workload

SEALED_BAR = 1.02
PROOF_BAR = 4096
CHECK_BAR_MS = 50.0


def compare_sealing(workload: Workload, settings: Settings) -> Iterator[Figure]:
    """Yield sealed / recorded for *workload*."""
    script = workload.write_script(settings.scratch("script"))
    key = settings.scratch("key")
    run(revirt_command("key", "new", key))
    common: list[str | Path] = ["record", GUEST, "--clock", settings.clock, "--script", script, "--json"]

    def recorded() -> Mapping[str, Sample]:
        return {"recorded": run(revirt_command(*common, "-o", settings.scratch("recording")))}

    def sealed() -> Mapping[str, Sample]:
        path = settings.scratch("recording")
        return {"sealed": run(revirt_command(*common, "--sign", key, "-o", path))}

    samples = alternate([recorded, sealed], settings, f"sealing {workload.name}, {settings.clock} clock")
    first, second = samples["sealed"], samples["recorded"]
    subject = f"{workload.name}, {settings.clock}"
    yield ratio("sealed / recorded", subject, "CPU time", cpus(first), cpus(second), SEALED_BAR)
    yield ratio("sealed / recorded", subject, "wall time", walls(first), walls(second))


def measure_proofs(settings: Settings) -> Iterator[Figure]:
    """Yield how large proofs of events are in a sealed log of a million, and how long making and checking one takes.

    A round is a recording of its own, with proofs of events throughout; of each the largest and slowest counts.
    """
    outcomes = []
    for number in range(settings.rounds):
        settings.note(f"proofs: round {number + 1} of {settings.rounds}")
        outcomes.append(work("proofs", settings.scratch("recording")))
    subject = f"an event of {outcomes[0]['events']:,}"
    yield figure("proof", subject, "size", "bytes", [each["size"] for each in outcomes], PROOF_BAR)
    yield figure(
        "proof", subject, "checked in", "ms", [1e3 * each["checked"] for each in outcomes], CHECK_BAR_MS
    )
    yield figure("proof", subject, "made in", "ms", [1e3 * each["made"] for each in outcomes])
