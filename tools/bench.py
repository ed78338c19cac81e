#!/usr/bin/env python3
"""Measures what revirt costs and compares it with what it should cost.

    python tools/bench.py                       every comparison but the slow ones with QEMU
    python tools/bench.py recording boot        these
    python tools/bench.py recording -w forks --clock virtual --rounds 9
    python tools/bench.py --qemu --json         everything, as JSON

Comparisons:
    recording    recorded / unrecorded and replay / record, per workload
    log          bytes of log per million instructions, per workload
    compute      machine / bare Unicorn
    checkpoints  how long taking one pauses the guest, and restoring one takes
    memory       what a recorder takes beyond its guest's RAM
    seal         sealed / recorded, and the proof of one event of a million
    timeline     making an index, going anywhere with it from a new process, and stepping back
    writers      who wrote a word last, for 50 of them, and whether that is true
    network      what a network card carries each way, against QEMU where it is installed; takes root
    disk         what a disk carries each way, likewise
    boot         boot to a shell against QEMU, plain, recorded and replayed, where QEMU is installed
    help         revirt --help

What runs against each other runs alternately, in fresh processes; docs/performance.md says how to read the figures.
The exit status is 0 whether or not a bar is met: other work on the host decides that, too.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import checkpoints, compute, memory, outside, qemu, recording, sealing, timeline
from benchmarks.measure import Figure, Settings
from benchmarks.workloads import AGAINST_QEMU, RECORDED, WORKLOADS, Workload

from revirt.errors import HostError, RevirtError
from revirt.image.guest import find
from revirt.render import Column, Format, emit, printable

COMPARISONS = (
    "recording",
    "log",
    "compute",
    "checkpoints",
    "memory",
    "seal",
    "timeline",
    "writers",
    "network",
    "disk",
    "boot",
    "help",
)
_NEED_DEBIAN = {"recording", "log", "checkpoints", "memory", "seal", "timeline", "writers", "boot"}
_COLUMNS = (
    Column("comparison", "comparison"),
    Column("subject", "subject"),
    Column("quantity", "quantity"),
    Column("value", "median", right=True, text=lambda value: f"{value:,.4g}"),
    Column("unit", "unit"),
    Column("least", "least", right=True, text=lambda value: f"{value:,.4g}"),
    Column("greatest", "greatest", right=True, text=lambda value: f"{value:,.4g}"),
    Column("rounds", "n", right=True),
    Column("first", "first s", right=True, text=lambda value: f"{value:.3f}"),
    Column("second", "second s", right=True, text=lambda value: f"{value:.3f}"),
    Column("bar", "bar", right=True, text=lambda value: f"{value:g}"),
    Column("is_met", "met", text=lambda is_met: "yes" if is_met else "NO"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line *argv* asks for; return the exit status."""
    arguments = _parse(argv)
    form = Format.JSON if arguments.json else Format.TABLE
    try:
        _check_guest(arguments)
        with tempfile.TemporaryDirectory(prefix="revirt-bench-", dir=arguments.directory) as directory:
            settings = Settings(arguments.rounds, arguments.clock, Path(directory), _note)
            emit(_told(_figures(arguments, settings)), _COLUMNS, form, sys.stdout)
    except RevirtError as error:
        print(f"bench: {printable(str(error))}", file=sys.stderr)
        if error.hint:
            print(f"       {printable(error.hint)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


def _told(figures: Iterable[Figure]) -> Iterator[Figure]:
    """Pass *figures* on, each noted as it comes: a table waits for the last, which may take an hour."""
    for figure in figures:
        bar = f", bar {figure.bar:g}" if figure.bar is not None else ""
        what = f"{figure.comparison}, {figure.subject}, {figure.quantity}"
        _note(f"{what}: {figure.value:,.4g} {figure.unit}".rstrip() + bar)
        yield figure


def _figures(arguments: argparse.Namespace, settings: Settings) -> Iterator[Figure]:
    """Yield what was asked for, as it is measured."""
    wanted = arguments.comparisons
    workloads = [WORKLOADS[name] for name in arguments.workload or RECORDED]
    if "recording" in wanted:
        for workload in workloads:
            yield from recording.compare_recording(workload, settings)
    if "log" in wanted:
        for workload in workloads:
            yield from recording.measure_log(workload, settings)
    if "compute" in wanted:
        for guest in compute.compute_guests():
            yield from compute.compare_compute(guest, settings)
    if "checkpoints" in wanted:
        for name in ("boot", "forks"):
            yield from checkpoints.measure_pauses(WORKLOADS[name], settings)
        yield from checkpoints.measure_restore(WORKLOADS["forks"], settings)
    if "memory" in wanted:
        yield from memory.measure_memory(settings)
    if "seal" in wanted:
        yield from sealing.measure_proofs(settings)
        for name in ("boot", "console"):
            yield from sealing.compare_sealing(WORKLOADS[name], settings)
    if {"timeline", "writers"} & set(wanted):
        subject, path = timeline.recording_to_look_into(arguments.recording, settings)
        if "timeline" in wanted:
            yield from timeline.measure_timeline(subject, path, settings)
        if "writers" in wanted:
            yield from timeline.measure_writers(subject, path, settings)
    if {"network", "disk"} & set(wanted):
        yield from outside.measure_outside(wanted, settings, arguments.megabytes, arguments.mtu or [1500])
    if "help" in wanted:
        yield from recording.measure_help(settings)
    for workload in _against_qemu(arguments):
        yield from qemu.compare_qemu(workload, settings)


def _against_qemu(arguments: argparse.Namespace) -> list[Workload]:
    names = ["boot"] if "boot" in arguments.comparisons else []
    names += AGAINST_QEMU if arguments.qemu else ()
    if names and not qemu.is_installed():
        if arguments.qemu:
            raise HostError("QEMU is not installed", hint="install qemu-system-x86, or leave --qemu away")
        _note("QEMU is not installed: boot is left out")
        return []
    return [WORKLOADS[name] for name in names]


def _check_guest(arguments: argparse.Namespace) -> None:
    needs_debian = arguments.qemu or not _NEED_DEBIAN.isdisjoint(arguments.comparisons)
    if needs_debian and not find(recording.GUEST).is_built:
        raise HostError("the Debian guest is not built", hint=f"revirt guest build {recording.GUEST}")


def _note(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"bench: {printable(text)}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "comparisons", nargs="*", metavar="COMPARISON", help="default: all of them, listed below"
    )
    parser.add_argument(
        "-w", "--workload", action="append", choices=RECORDED, help="only this; may be given again"
    )
    parser.add_argument(
        "--clock", choices=("host", "virtual"), default="host", help="of recorded runs (host)"
    )
    parser.add_argument(
        "--rounds", type=_rounds, default=5, metavar="N", help="rounds of each comparison (5)"
    )
    parser.add_argument(
        "--recording", type=Path, metavar="DIR", help="what timeline and writers look into (a new boot)"
    )
    parser.add_argument(
        "--megabytes", type=float, default=100.0, metavar="N", help="through the network each way (100)"
    )
    parser.add_argument(
        "--mtu", type=int, action="append", metavar="N", help="of the network (1500); may be given again"
    )
    parser.add_argument("--qemu", action="store_true", help="also cpu, fork and io against QEMU (slow)")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="record below this, not in the usual place"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    unknown = set(arguments.comparisons) - set(COMPARISONS)
    if unknown:
        parser.error(
            f"no comparison is called {', '.join(sorted(unknown))}; there are {', '.join(COMPARISONS)}"
        )
    # --qemu alone adds to the default; argparse cannot check choices where none need be given.
    arguments.comparisons = arguments.comparisons or list(COMPARISONS)
    return arguments


def _rounds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds from 1 to 1000")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
