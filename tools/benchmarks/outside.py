"""What a network card and a disk carry: in revirt, recorded and not, in its replay, and in QEMU's emulator.

All run the same kernel from the same disk image with virtio devices, one CPU, and the same far end of a cable: this
host's TCP behind a TAP and a UNIX socket, in a network of this process's own, which takes root.  The time of a transfer
is that between two lines which the guest prints; CPU time is that of the whole process, the boot included.

QEMU records with ``rr=record``, a filter-replay for the card and a blkreplay for the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loading import MEGABYTE, Load
from loading.ends import TapEnd
from loading.guest import LoadedGuest, build_guest
from loading.peers import Exchange, Peers
from loading.relay import Relay

from benchmarks.measure import (
    Figure,
    Sample,
    Settings,
    Step,
    alternate,
    cpus,
    figure,
    ratio,
    revirt_command,
    run,
)
from benchmarks.qemu import by_character, is_installed
from revirt.errors import HostError
from revirt.image.debian import PROMPT, READY
from revirt.render import escape

RECORD_BAR = 1.10
LOG_BARS = {"network in": 1.05, "disk read": 0.01, "disk written": 0.01}

_CLEAN = Load(drop=0, duplicate=0, reorder=0)
_BEGIN, _END = b"load: begun", b"load: done"
_POWER_OFF = "poweroff -f\n"
_TIMEOUT_S = 800
_READ_MB, _WRITTEN_MB = 67.108864, 16.777216
_TIMES = 4
_QEMU_S = 200.0


@dataclass(frozen=True, slots=True)
class Carried:
    """*megabytes* that the guest carries by *command*, in which ``{port}`` is that of this host's end.

    ``to_guest`` and ``from_guest`` are bytes for that end; none if it has nothing to do with it.
    """

    name: str
    megabytes: float
    command: str
    to_guest: int = 0
    from_guest: int = 0


def carried(megabytes: float) -> list[Carried]:
    """Return what is measured, with so much through the network each way."""
    size, call = int(megabytes * MEGABYTE), "load call 10.0.2.2 {port} 1"
    again = f"i=0; while [ $i -lt {_TIMES} ]; do %s; i=$((i+1)); done"
    read = "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k"
    write = "dd if=/dev/zero of=/root/f bs=64k count=256 conv=fsync"
    return [
        Carried("network in", megabytes, call, to_guest=size),
        Carried("network out", megabytes, call, from_guest=size),
        Carried("disk read", _READ_MB * _TIMES, again % read),
        Carried("disk written", _WRITTEN_MB * _TIMES, again % write),
    ]


def conversation(command: str, mtu: int) -> list[Step]:
    """Return the conversation that has a guest do *command*; its third and fourth step are the lines that count."""
    # Quotes inside the words: what is typed is echoed, and must not look like what it prints.
    typed = f"ip link set eth0 mtu {mtu}; echo load: be''gun; {command}; echo load: do''ne"
    return [
        Step(READY.encode()),
        Step(PROMPT.encode(), f"{typed}\n".encode()),
        Step(_BEGIN),
        Step(_END),
        Step(PROMPT.encode(), _POWER_OFF.encode()),
    ]


class Bench:
    """Runs a guest in every way; *settings* say where scratch files go."""

    def __init__(self, settings: Settings, mtu: int) -> None:
        self._settings = settings
        self._guest: LoadedGuest = build_guest()
        self._end = TapEnd(mtu)
        self._mtu = mtu
        self._left_out: set[tuple[str, str | None]] = set()

    def compare(self, what: Carried) -> Iterator[Figure]:
        """Yield MB/s, costs and the log's growth for *what*."""
        settings = self._settings
        logs: list[float] = []
        variants = [lambda: self._unrecorded(what), lambda: self._recorded(what, logs)]
        if is_installed():
            variants += [lambda: self._qemu(what, None), lambda: self._qemu(what, "record")]
        samples = alternate(variants, settings, what.name)
        subject = f"{what.name}, MTU {self._mtu}" if what.name.startswith("net") else what.name
        for name in samples:
            if name != "replay":
                yield figure(
                    name, subject, "rate", "MB/s", [what.megabytes / took(each) for each in samples[name]]
                )
        ours, bare, again = samples["recorded"], samples["unrecorded"], samples["replay"]
        yield ratio("recorded / unrecorded", subject, "CPU time", cpus(ours), cpus(bare), RECORD_BAR)
        yield ratio("replay / recorded", subject, "CPU time", cpus(again), cpus(ours))
        yield figure("log", subject, "size", "bytes/byte", logs, LOG_BARS.get(what.name))
        for name in ("QEMU", "QEMU recorded"):
            if len(others := samples.get(name, ())) == len(ours):
                yield ratio(f"revirt recorded / {name}", subject, "transfer", _tooks(ours), _tooks(others))
                yield ratio(f"revirt recorded / {name}", subject, "CPU time", cpus(ours), cpus(others))

    def _unrecorded(self, what: Carried) -> Mapping[str, Sample]:
        return {"unrecorded": self._ours(what, ["--no-record"])}

    def _recorded(self, what: Carried, logs: list[float]) -> Mapping[str, Sample]:
        path = self._settings.scratch("recording")
        sample = self._ours(what, ["-o", str(path)])
        logs.append(
            sum(file.stat().st_size for file in (path / "log").iterdir()) / (what.megabytes * MEGABYTE)
        )
        replayed = run(revirt_command("replay", path, "--json"))
        if not json.loads(replayed.output)["exact"]:
            raise AssertionError(f"{path} does not replay exactly")
        shutil.rmtree(path)
        return {"recorded": sample, "replay": replayed}

    def _ours(self, what: Carried, words: Sequence[str]) -> Sample:
        with ExitStack() as stack:
            socket, steps = self._far_end(what, stack)
            lines = [f"timeout {_TIMEOUT_S}"]
            for step in steps:
                lines.append(f'expect "{escape(step.expect)}"')
                if step.send:
                    lines.append(f'send "{escape(step.send)}"')
            script = self._settings.scratch("script")
            script.write_text("\n".join(lines) + "\n")
            # The script types; here is only looked for what the guest prints.
            watched = [Step(step.expect) for step in steps]
            return run(
                revirt_command("record", *self._guest.words(f"unix:{socket}", script), *words), watched
            )

    def _qemu(self, what: Carried, mode: str | None) -> Mapping[str, Sample]:
        if (what.name, mode) in self._left_out:
            return {}
        with ExitStack() as stack:
            socket, steps = self._far_end(what, stack)
            log = self._settings.scratch("replay.bin")
            try:
                sample = run(self._qemu_command(socket, mode, log), by_character(steps), timeout_s=_QEMU_S)
            except HostError as error:
                # It stands still when it records a disk that is read, and another round would wait as long for nothing.
                self._settings.note(f"left out: {error}")
                self._left_out.add((what.name, mode))
                return {}
            finally:
                log.unlink(missing_ok=True)
            # What was typed by the character has more steps; the lines that count are the same.
            seen = [
                sample.seen[index]
                for index, step in enumerate(by_character(steps))
                if step.expect in (_BEGIN, _END)
            ]
            sample = Sample(sample.wall, sample.cpu, sample.output, (*sample.seen[:2], *seen))
            return {"QEMU recorded" if mode else "QEMU": sample}

    def _far_end(self, what: Carried, stack: ExitStack) -> tuple[Path, list[Step]]:
        """Open the far end; return its socket, and the conversation that has *what* carried."""
        port = 0
        socket = self._settings.scratch("socket")
        stack.enter_context(Relay(socket, self._end.plug, _CLEAN, "clean"))
        if what.to_guest or what.from_guest:
            peers = stack.enter_context(Peers([Exchange(what.to_guest, what.from_guest, 0)], []))
            port = peers.port
        return socket, conversation(what.command.format(port=port), self._mtu)

    def _qemu_command(self, socket: Path, mode: str | None, log: Path) -> list[str | Path]:
        guest = self._guest
        command: list[str | Path] = [
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=single",
            "-no-reboot",
            "-nic",
            "none",
        ]
        command += [
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
            "-m",
            str(int(guest.memory) >> 20),
        ]
        command += ["-kernel", guest.kernel, "-initrd", guest.initrd, "-append", guest.append]
        command += ["-netdev", f"stream,id=net,server=off,addr.type=unix,addr.path={socket}"]
        command += ["-device", "virtio-net-pci,netdev=net,romfile=,csum=off,guest_csum=off,gso=off"]
        if mode is None:
            return [*command, "-drive", f"file={guest.disk},format=raw,if=virtio,snapshot=on"]
        command += [
            "-icount",
            f"shift=auto,rr={mode},rrfile={log}",
            "-object",
            "filter-replay,id=rr,netdev=net",
        ]
        command += ["-drive", f"file={guest.disk},format=raw,if=none,snapshot=on,id=image"]
        command += ["-drive", "driver=blkreplay,if=none,image=image,id=disk"]
        return [*command, "-device", "virtio-blk-pci,drive=disk"]


def measure_outside(
    names: Sequence[str], settings: Settings, megabytes: float, mtus: Sequence[int]
) -> Iterator[Figure]:
    """Yield the figures of what begins with one of *names* (network, disk); raises HostError without root."""
    for mtu in mtus:
        bench = Bench(settings, mtu)
        for what in carried(megabytes):
            kind = what.name.partition(" ")[0]
            if kind in names and (kind == "network" or mtu == mtus[0]):
                yield from bench.compare(what)


def took(sample: Sample) -> float:
    """Return the seconds between the two lines that count: the third and the fourth that are waited for."""
    return sample.seen[3] - sample.seen[2]


def _tooks(samples: Sequence[Sample]) -> list[float]:
    return [took(sample) for sample in samples]
