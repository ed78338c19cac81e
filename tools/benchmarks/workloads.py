"""What is typed into the Debian guest.

Every workload ends by switching the machine off, and prints something that it can only print if it did its work: that
is waited for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Step
from revirt.image.debian import PROMPT, READY
from revirt.render import escape

MIB = 1 << 20
_POWER_OFF = "poweroff -f\n"
_TIMEOUT_S = 800


@dataclass(frozen=True, slots=True)
class Workload:
    """A command for the guest's shell, and the *proof* that it prints; nothing but the boot if both are empty."""

    name: str
    summary: str
    command: str = ""
    proof: str = ""

    def steps(self) -> list[Step]:
        """Return the conversation that does the work; its first step is the shell's first sign of life."""
        steps = [Step(READY.encode())]
        if self.command:
            steps += [Step(PROMPT.encode(), f"{self.command}\n".encode()), Step(self.proof.encode())]
        return [*steps, Step(PROMPT.encode(), _POWER_OFF.encode())]

    def write_script(self, path: Path) -> Path:
        """Write the conversation to *path*, as a console script; return the path."""
        lines = [f"timeout {_TIMEOUT_S}"]
        for step in self.steps():
            lines.append(f'expect "{escape(step.expect)}"')
            if step.send:
                lines.append(f'send "{escape(step.send)}"')
        path.write_text("\n".join(lines) + "\n")
        return path


def _sha256_of_zeros(size: int) -> str:
    return hashlib.sha256(bytes(size)).hexdigest()


def _forks(count: int) -> str:
    # By its path: the shell runs its own "true" otherwise, without a process.
    return f"i=0; while [ $i -lt {count} ]; do /bin/true; i=$((i+1)); done; echo forks=$i"


_ALL = (
    Workload("boot", "from reset to a shell, and off"),
    Workload(
        "sha256",
        "SHA-256 of 64 MiB of zeros: computing",
        "dd if=/dev/zero bs=1M count=64 | sha256sum",
        _sha256_of_zeros(64 * MIB),
    ),
    Workload("forks", "2,000 processes: page tables, page faults", _forks(2000), "forks=2000"),
    Workload(
        "dd1",
        "600,000 system calls of one byte each",
        "dd if=/dev/zero of=/dev/null bs=1 count=300000",
        "300000+0 records out",
    ),
    Workload("console", "109 KB over the serial line: port I/O", "seq 1 20000", "\n19999\r\n20000"),
    Workload(
        "cpu",
        "sha256sum of 48 MiB, gzip -1 of 12 x 2 MB",
        "dd if=/dev/zero bs=1M count=48 | sha256sum; cat /bin/busybox > /tmp/f;"
        " i=0; while [ $i -lt 12 ]; do gzip -1 -c /tmp/f > /tmp/z; i=$((i+1)); done; echo zipped=$i",
        "zipped=12",
    ),
    Workload("fork", "2,000 x /bin/true", _forks(2000), "forks=2000"),
    Workload(
        "io",
        "dd of 96 MiB into RAM by 64k, half of it copied by 4k, read by 512",
        "dd if=/dev/zero of=/tmp/a bs=64k count=1536; dd if=/tmp/a of=/tmp/b bs=4k count=12288;"
        " rm /tmp/a; dd if=/tmp/b of=/dev/null bs=512",
        "98304+0 records out",
    ),
)

WORKLOADS = {workload.name: workload for workload in _ALL}
RECORDED = ("boot", "sha256", "forks", "dd1", "console")
"""The workloads of recorded against unrecorded, and of the log's size."""
AGAINST_QEMU = ("cpu", "fork", "io")
"""The workloads of the peers, beyond the boot."""
