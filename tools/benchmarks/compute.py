"""The machine, recording, against bare Unicorn, on guests that compute and do nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import (
    Figure,
    Sample,
    Settings,
    alternate,
    cpus,
    ratio,
    revirt_command,
    run,
    walls,
    work,
)
from revirt.errors import HostError

BAR = 1.25

_SOURCE = Path(__file__).with_name("compute.c")
_PASSES = 4
_ITERATIONS = 200_000_000
_GOOD = 0x10
_FLAGS = (
    *(
        "-O2",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-ffreestanding",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-fno-pic",
    ),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-mno-red-zone"),
    # Without SSE: a guest has to switch that on, and what is measured should not depend on it.
    *("-mgeneral-regs-only", "-Wl,-Ttext=0x100000,--build-id=none,-z,noexecstack"),
)


@dataclass(frozen=True, slots=True)
class ComputeGuest:
    """A guest made of `compute.c` with *definitions*; a bar is for the ratio of CPU times."""

    name: str
    definitions: tuple[str, ...]
    bar: float | None


def compute_guests(passes: int = _PASSES, iterations: int = _ITERATIONS) -> list[ComputeGuest]:
    """Return the guests that are measured: *passes* over a megabyte, *iterations* of the tight loop."""
    mixed = (f"-DPASSES={passes}", f"-DEXPECTED={_expected(passes):#x}")
    return [
        ComputeGuest("compute", mixed, BAR),
        ComputeGuest("tight loop of 5 instructions", (f"-DTIGHT={iterations}",), None),
    ]


def build(guest: ComputeGuest, path: Path) -> Path:
    """Compile *guest* to an ELF image at *path*; return the path.  Raises HostError without a working gcc."""
    run(["gcc", *_FLAGS, *guest.definitions, "-o", path, _SOURCE])
    return path


def compare_compute(guest: ComputeGuest, settings: Settings) -> Iterator[Figure]:
    """Yield machine / bare Unicorn for *guest*, from the first instruction to the last."""
    image = build(guest, settings.scratch("compute.elf"))

    def bare() -> Mapping[str, Sample]:
        return {"bare": _sample(work("bare", image))}

    def machine() -> Mapping[str, Sample]:
        path = settings.scratch("recording")
        kernel: list[str | Path] = [
            "record",
            "--kernel",
            image,
            "--memory",
            "64M",
            "--batch",
            "--clock",
            settings.clock,
        ]
        return {"machine": _sample(json.loads(run(revirt_command(*kernel, "--json", "-o", path)).output))}

    samples = alternate([bare, machine], settings, guest.name)
    ours, theirs = samples["machine"], samples["bare"]
    yield ratio("machine / bare Unicorn", guest.name, "CPU time", cpus(ours), cpus(theirs), guest.bar)
    yield ratio("machine / bare Unicorn", guest.name, "wall time", walls(ours), walls(theirs))


def _sample(outcome: Mapping[str, float]) -> Sample:
    if outcome["exit_code"] != _GOOD:
        raise HostError(f"the guest computed something else: exit code {outcome['exit_code']}")
    return Sample(outcome["seconds"], outcome["cpu_seconds"])


def _expected(passes: int) -> int:
    """Return the first word of the digest that the guest should come to."""
    buffer = bytes((index * 167 + 13) & 0xFF for index in range(1 << 20))
    return int.from_bytes(hashlib.sha256(buffer * passes).digest()[:4], "big")
