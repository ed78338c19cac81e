"""``revirt demo --network``: an attack over a real TCP connection, replayed, and undone in a fork.

A Debian with a daemon that has holes runs live, with passt between its network card and this host.  An ordinary
program takes it over, leaves a file on its disk and hangs up.  The recording is replayed in a new process; then the
machine goes on once more from before the packet that carried the attack, is given everything but that packet, and is
not taken over.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revirt.cli.demo import placed, replay_report, revirt_process, run_revirt
from revirt.errors import DivergenceError, RevirtError
from revirt.image import find
from revirt.log.events import Kind
from revirt.recording import Recording
from revirt.render import Format, emit_record, grouped, printable, size, styled

GUEST = "debian-vuln"
_PORT = 4444
_ATTACK_TIMEOUT_S = 180
_END_TIMEOUT_S = 60
_EXPLOIT = b"/bin/sh"
"""What only the packet has that carries the attack: the path in its machine code."""
_LOOT = b"a stranger was here"
"""What the attacker writes to the disk, and reads again."""


@dataclass(frozen=True, slots=True)
class NetworkDemo:
    """What came of it; ``packet`` is the number of the event that carried the attack, sizes are in bytes."""

    attack: Path
    taken_over: bool
    branches: int
    frames: int
    log_bytes: int
    exact: bool
    replay_seconds: float
    packet: int
    fork: Path
    fork_taken_over: bool
    fork_exact: bool
    part_at: int | None

    @property
    def is_good(self) -> bool:
        """Whether all came out as it should."""
        return self.taken_over and self.exact and not self.fork_taken_over and self.fork_exact


def run(arguments: argparse.Namespace) -> int:
    """Record, replay and fork the attack; return 0 if all came out as it should."""
    with placed(arguments.output) as place:
        if not find(GUEST).is_built:
            _say(arguments.form, f"building {GUEST}, from Debian's packages")
            run_revirt("guest", "build", GUEST)
        demo = _demonstrate(place.path, arguments.form)
        place.is_kept |= not demo.is_good
        if arguments.form is not Format.TABLE:
            emit_record(demo, arguments.form, sys.stdout)
        if place.is_kept:
            _say(arguments.form, f"the recordings are in {printable(str(place.path))}")
    return 0 if demo.is_good else 1


def _demonstrate(directory: Path, form: Format) -> NetworkDemo:
    attack, fork = directory / "attack", directory / "fork"
    said = _record(attack, form)
    recording = Recording.open(attack)
    kinds = [event.kind for event in recording.events()]
    frames = kinds.count(Kind.FRAME_IN) + kinds.count(Kind.FRAME_OUT)
    log_bytes = sum(path.stat().st_size for path in (attack / "log").iterdir())
    _say(form, f"  recorded  {grouped(frames)} frames and all else that came in, in {size(log_bytes)} of log")
    for line in said.splitlines():
        _say(form, f"  attacker  {printable(line)}")
    report = replay_report(attack)
    _say(form, f"  replayed  {_verdict(report['exact'])}, {report['seconds']:.2f} s in a new process")

    packet = _attacking_packet(recording)
    _say(
        form,
        f"{styled('fork', 'bold', sys.stdout)}: the same without event {packet}, which carried the attack",
    )
    run_revirt("fork", str(attack), "--drop", str(packet), "--inputs", "--batch", "-o", str(fork), "--json")
    parting = json.loads(
        run_revirt("diff", str(attack), str(fork), "--json", status=DivergenceError.exit_status)
    )
    fork_report = replay_report(fork)
    demo = NetworkDemo(
        attack=attack,
        taken_over=_has_sent(recording, _LOOT),
        branches=recording.end_branches,
        frames=frames,
        log_bytes=log_bytes,
        exact=report["exact"],
        replay_seconds=report["seconds"],
        packet=packet,
        fork=fork,
        fork_taken_over=_has_sent(Recording.open(fork), _LOOT),
        fork_exact=fork_report["exact"],
        part_at=(parting["parting"] or {}).get("branches"),
    )
    fate = "taken over" if demo.fork_taken_over else "not taken over"
    _say(form, f"  ended     {fate}; it parts from the attack at branch {grouped(demo.part_at or 0)}")
    _say(form, f"  replayed  {_verdict(demo.fork_exact)}")
    return demo


def _record(path: Path, form: Format) -> str:
    """Record the guest in *path* while it is attacked; return what the attacker printed."""
    guest = find(GUEST)
    assert guest.daemon is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _say(form, f"{styled(GUEST, 'bold', sys.stdout)}: {printable(guest.summary)}")
    command = ("record", GUEST, "--batch", "--clock", "host", "--net", "passt", "-o", str(path), "--json")
    with revirt_process(*command, "--forward", f"tcp:127.0.0.1:{port}:{_PORT}") as recorder:
        try:
            attack = subprocess.run(
                [sys.executable, str(guest.daemon.with_name("attack.py")), "127.0.0.1", str(port)],
                capture_output=True,
                text=True,
                timeout=_ATTACK_TIMEOUT_S,
                check=False,
            )
        finally:
            is_running = recorder.poll() is None
            recorder.send_signal(signal.SIGTERM)
            _, problem = recorder.communicate(timeout=_END_TIMEOUT_S)
    if not is_running:
        raise RevirtError(f"the recorder ended by itself: {problem.strip()[-500:]}")
    if attack.returncode:
        raise RevirtError(f"the attack did not work: {attack.stderr.strip()[-500:]}")
    return attack.stdout


def _attacking_packet(recording: Recording) -> int:
    start = recording.manifest.start.event
    for ordinal, event in enumerate(recording.events(), start):
        if event.kind is Kind.FRAME_IN and _EXPLOIT in event.data:
            return ordinal
    raise RevirtError(f"no frame of {recording.path} carries the attack")


def _has_sent(recording: Recording, text: bytes) -> bool:
    return any(event.kind is Kind.FRAME_OUT and text in event.data for event in recording.events())


def _verdict(is_exact: Any) -> str:
    return styled("exact", "green", sys.stdout) if is_exact else styled("NOT EXACT", "red", sys.stdout)


def _say(form: Format, text: str) -> None:
    if form is Format.TABLE:
        print(text, flush=True)
