"""What golden recordings there are to make of the present format, and how.

A golden recording is made by commands that are run one after the other in an empty directory, in which `DIRECTORY` and
the guests of `BUILT` and `WRITTEN` are.  The recording has to be called by its name there.  To add one, add it here and
run `python tools/golden.py make`: what is there already is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DIRECTORY = "logs/v1"
"""Where those of the present format are, from the top of the source tree."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run ``revirt`` with *words*; it has to end with *status*."""

    words: str
    status: int = 0

    def __str__(self) -> str:
        return f"revirt {self.words}"


@dataclass(frozen=True, slots=True)
class Kill:
    """Run ``revirt`` with *words*, and kill it after so many seconds."""

    words: str
    after_s: float

    def __str__(self) -> str:
        return f"timeout -s KILL {self.after_s} revirt {self.words}"


@dataclass(frozen=True, slots=True)
class Tear:
    """Cut the last segment of the log of *recording* in the middle, and leave half a checkpoint behind it.

    That is what a host leaves that loses its power.
    """

    recording: str

    def __str__(self) -> str:
        return f"cut the last segment of {self.recording} in half, leave a checkpoint that was being written"


Step = Run | Kill | Tear


@dataclass(frozen=True, slots=True)
class Golden:
    """A golden recording: its *name*, *what* it is there for, and the *steps* that make it.

    It is kept as a pack, or as the directory that it was made as: those that show more than a pack holds.  With
    *has_disks* the images of its disks are in the pack.  *beside* are other files to keep, by the name that they have
    where the steps are run, to the name that they get.
    """

    name: str
    what: str
    steps: tuple[Step, ...]
    form: Literal["pack", "directory"] = "pack"
    has_disks: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)


BUILT = {
    "devices.elf": ("devices.c", ()),
    "pages.elf": ("pages.c", ()),
    "sleeper.elf": ("pages.c", ("-DSLEEPS",)),
}
"""Guests that are compiled beside the recordings: file to source and options."""

WRITTEN = {
    "frames.pcap": (Path(__file__).parents[2] / "guests" / "plugged" / "frames.pcap").read_bytes(),
    "name.script": b'expect "your name: "\nsend "Ada\\n"\n',
    # lidt [0x600], where nothing is; int3
    "faulty/faulty.bin": bytes.fromhex("fa0f011e0006ccf4"),
    "faulty/guest.toml": b'name = "faulty"\nsummary = "cannot deliver an exception"\n[image]\nfile = "faulty.bin"\n'
    b'format = "flat"\naddress = 0x7c00\n[machine]\nmemory = "1M"\n',
}
"""Files that are written beside the recordings."""

_SLEEPER = "--kernel sleeper.elf --memory 4M --clock host --checkpoint-every 4000 --batch"
_FRAMES = "--net pcap:frames.pcap"
_PAGES = "--kernel pages.elf --memory 4M --clock virtual --checkpoint-every 10000 --batch"

TABLE = (
    Golden(
        "hello",
        "16-bit, virtual clock: the smallest there is",
        (Run("record hello --clock virtual --batch -o hello"),),
    ),
    Golden(
        "packer",
        "16-bit, virtual clock: code that changes its own straight line",
        (Run("record packer --clock virtual --batch --checkpoint-every 25000 -o packer"),),
    ),
    Golden(
        "idle",
        "16-bit, host clock: sleeps that timer interrupts and a received byte end",
        (Run("record idle --clock host --batch -o idle"),),
    ),
    Golden(
        "echo-virtual",
        "32-bit, virtual clock: serial input by interrupts, digests between checkpoints",
        (
            Run(
                "record echo --clock virtual --batch --checkpoint-every 1000 --digest-every 400 -o echo-virtual"
            ),
        ),
    ),
    Golden(
        "echo-host",
        "32-bit, host clock: serial input by interrupts",
        (Run("record echo --clock host --batch -o echo-host"),),
    ),
    Golden(
        "race",
        "32-bit, host clock: a thousand timer interrupts a second, a changing rate; ended from outside",
        (
            Run(
                "record race --clock host --batch --until 1,500,000"
                " --checkpoint-every 600000 --digest-every 250000 -o race"
            ),
        ),
    ),
    Golden(
        "timer",
        "32-bit, virtual clock: timer interrupts; ended from outside",
        (Run("record timer --clock virtual --batch --until 700,000 -o timer"),),
    ),
    Golden(
        "paging",
        "64-bit long mode, virtual clock: rings, page faults, SYSCALL",
        (Run("record paging --clock virtual --batch --checkpoint-every 125000 -o paging"),),
        form="directory",
    ),
    Golden(
        "paging32",
        "32-bit protected mode, host clock: rings, page faults, SYSENTER, gates, port permissions",
        (Run("record paging32 --clock host --batch --checkpoint-every 125000 -o paging32"),),
    ),
    Golden(
        "vuln",
        "32-bit, host clock: a service taken over through its serial line",
        (Run("record vuln --clock host --batch --checkpoint-every 1000 -o vuln"),),
        form="directory",
    ),
    Golden(
        "devices-virtual",
        "every device, CPUID, model-specific registers, x87 and SSE; virtual clock, reset at the end",
        (
            Run(
                "record --kernel devices.elf --memory 4M --clock virtual --script name.script"
                " --checkpoint-every 1500 -o devices-virtual"
            ),
        ),
        form="directory",
    ),
    Golden(
        "devices-host",
        "the same, host clock",
        (Run("record --kernel devices.elf --memory 4M --clock host --script name.script -o devices-host"),),
    ),
    Golden(
        "plugged-virtual",
        "disk, network card, entropy, console, keyboard and screen; virtual clock, which goes on to a frame",
        (
            Run(
                f"record plugged {_FRAMES} --clock virtual --batch --checkpoint-every 1500 -o plugged-virtual"
            ),
        ),
        has_disks=True,
    ),
    Golden(
        "plugged-host",
        "the same, host clock: requests to the disk wait for the host",
        (Run(f"record plugged {_FRAMES} --clock host --batch --checkpoint-every 1500 -o plugged-host"),),
        has_disks=True,
    ),
    Golden(
        "crash",
        "16-bit, virtual clock: ends by a triple fault",
        (Run("record ./faulty --clock virtual --batch -o crash", status=1),),
    ),
    Golden(
        "circular",
        "circular: the beginning was evicted, a file of pages was written anew without those that went",
        (Run(f"record {_PAGES} --log-size 24K -o circular"),),
    ),
    Golden(
        "triggered",
        "circular, until a trigger fired; ended a moment later",
        (
            Run(
                "record --kernel sleeper.elf --memory 4M --clock host --checkpoint-every 2500 --batch"
                " --log-size 12K --trigger 'console:round 70' --after 1s -o triggered"
            ),
        ),
        form="directory",
    ),
    Golden(
        "interrupted",
        "its recorder was killed",
        (Kill(f"record {_SLEEPER} -o interrupted", 2.5),),
        form="directory",
    ),
    Golden(
        "repaired",
        "its recorder was killed and its last segment torn, then it was repaired: with what was put aside",
        (Kill(f"record {_SLEEPER} -o repaired", 2.5), Tear("repaired"), Run("repair repaired")),
        form="directory",
    ),
    Golden(
        "cut",
        "a stretch out of another recording",
        (
            Run("record vuln --clock virtual --batch --checkpoint-every 500 -o whole"),
            Run("cut whole 900 1800 -o cut"),
        ),
    ),
    Golden(
        "fork",
        "goes on from another recording with its inputs, one of them changed, and shares its pages",
        (
            Run("record vuln --clock virtual --batch --checkpoint-every 500 -o parent"),
            Run(
                "fork parent --at 400 --replace '17=echo forked\\n' --patch 0x200000=00ff --batch"
                " --checkpoint-every 500 -o fork"
            ),
        ),
    ),
    Golden(
        "sealed",
        "sealed while it was made; beside it the public key",
        (
            Run("key new sealed.key"),
            Run(
                "record vuln --clock host --batch --checkpoint-every 1000 --sign sealed.key -o sealed",
            ),
        ),
        beside={"sealed.key.pub": "sealed.pub"},
    ),
    Golden(
        "sealed-circular",
        "circular and sealed: the receipt of its evictions is in the newest head",
        (
            Run("key new circular.key"),
            Run(
                "record --kernel sleeper.elf --memory 4M --clock host --checkpoint-every 2500 --batch"
                " --log-size 12K --trigger 'console:round 70' --after 1s --sign circular.key -o sealed-circular"
            ),
        ),
        beside={"circular.key.pub": "sealed-circular.pub"},
    ),
)
