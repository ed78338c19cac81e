"""One recording under load, and what came of it."""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import environment, revirt_command

from loading import MEGABYTE, Load, Trial
from loading.ends import GUEST_PORT, make_end
from loading.guest import LoadedGuest, write_script
from loading.judge import judge_elsewhere
from loading.peers import Exchange, Peers
from loading.relay import Relay
from revirt.recording import RecordingState

SERVING = b"load: serving"
RECORDING = "recording"
KILLED_EVERY = 4
"""Every so many trials the recorder is killed."""
LEAST_S = 60.0
LEAST_RATE = 100_000
"""Bytes a second that a guest is at least waited for, once it has begun."""

_RIGHT = re.compile(rb"load: (serve|call|disk): (\d+) of (\d+) right")
_TCP = re.compile(rb"Tcp: (RtoAlgorithm[^\r\n]*)\r*\nTcp: ([^\r\n]*)")


class Recorder:
    """``revirt record`` with *words* in a process of its own, whose guest's output is read all the while."""

    def __init__(self, words: list[str], errors: Path, on_serving: Callable[[], None]) -> None:
        self.output = bytearray()
        self._on_serving = on_serving
        command = [os.fspath(word) for word in revirt_command("record", *words)]
        with errors.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment(),
            )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End it, if it has not, and read what is left."""
        self.process.kill()
        self.process.wait()
        self._thread.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        is_serving = False
        with self.process.stdout as stream:
            while data := os.read(stream.fileno(), 1 << 16):
                self.output += data
                if not is_serving and SERVING in self.output:
                    is_serving = True
                    self._on_serving()


def attempt(number: int, seed: int, load: Load, guest: LoadedGuest, root: Path, *, is_whole: bool) -> Trial:
    """Record under *load*, kill the recorder if it is this trial's turn, and judge what is there."""
    trial = Trial(name=f"trial {number}", files=root / f"trial-{number}")
    assert trial.files is not None
    trial.files.mkdir()
    chance = random.Random(f"{seed} {number}")
    kill_at = chance.uniform(0.05, 0.95) if number % KILLED_EVERY == KILLED_EVERY - 1 else None
    state = RecordingState.INTERRUPTED if kill_at is not None else RecordingState.COMPLETE
    started = time.monotonic()
    trial.problems += _record(trial, load, guest, chance, kill_at)
    trial.seconds["recording"] = time.monotonic() - started
    verdict = judge_elsewhere(trial.files / RECORDING, state, is_whole=is_whole)
    trial.problems += verdict["problems"]
    trial.counts |= verdict["counts"]
    trial.seconds["replay"] = verdict.get("seconds", 0.0)
    trial.seconds["all"] = time.monotonic() - started
    trial.outcome = state.value
    for name in ("frames_in", "frames_out", "writes", "checkpoints"):
        if not trial.counts.get(name):
            trial.problems.append(f"nothing to compare: {name}")
    return trial


def _record(
    trial: Trial, load: Load, guest: LoadedGuest, chance: random.Random, kill_at: float | None
) -> list[str]:
    """Let the guest be recorded under *load*; return what it, or the other end, has to complain of."""
    assert trial.files is not None
    count = max(2, load.connections)
    size = int(load.megabytes * MEGABYTE / count)
    exchanges = [Exchange(size, size, chance.randrange(1, 1 << 62)) for _ in range(count)]
    taken, made = exchanges[: count // 2], exchanges[count // 2 :]
    socket = trial.files / "socket"
    end = make_end(load.end)
    with Relay(socket, end.plug, load, str(chance.random())) as relay:
        with Peers(taken, made) as peers:

            def begin() -> None:
                relay.flood.start()
                peers.connect(end.guest)

            command = (
                f"load serve {GUEST_PORT} {len(made)} & load call {end.own} {peers.port} {len(taken)} &"
                f" load disk /root/file {load.operations} {chance.randrange(1, 1 << 62)} & wait"
            )
            words = guest.words(f"unix:{socket}", write_script(trial.files / "script", command))
            words += ["-o", str(trial.files / RECORDING)]
            recorder = Recorder(words, trial.files / "stderr", begin)
            try:
                has_ended = _watch(recorder, peers, kill_at)
            finally:
                recorder.end()
            trial.counts |= relay.counts
        (trial.files / "output").write_bytes(recorder.output)
        trial.counts["moved"] = peers.moved
        if kill_at is not None:
            return [] if has_ended else ["the guest hangs"]
        problems = peers.problems() if has_ended else ["the guest hangs"]
    status = recorder.process.returncode
    if status != 0:
        problems.append(
            f"the recorder ended with status {status}: {(trial.files / 'stderr').read_text()[-1000:]}"
        )
    return problems + heard(bytes(recorder.output), trial)


def _watch(recorder: Recorder, peers: Peers, kill_at: float | None) -> bool:
    """Wait for the recorder's end, which is now if so much of all bytes has moved; return False if it hangs."""
    whole = sum(exchange.size for exchange in peers.exchanges)
    deadline = time.monotonic() + LEAST_S + whole / LEAST_RATE
    while recorder.process.poll() is None:
        if kill_at is not None and peers.moved >= kill_at * whole:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def heard(output: bytes, trial: Trial) -> list[str]:
    """Return what the guest complains of; note how often its TCP sent something again."""
    right = {match[1]: match[2] == match[3] != b"0" for match in _RIGHT.finditer(output)}
    if (found := _TCP.search(output)) is not None:
        figures = dict(zip(found[1].split(), found[2].split(), strict=False))
        trial.counts["retransmitted"] = int(figures.get(b"RetransSegs", 0))
    return [
        f"the guest: {name}: not right" for name in ("serve", "call", "disk") if not right.get(name.encode())
    ]
