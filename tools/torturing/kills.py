"""Recorders that are killed at a random moment."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from random import Random

from revirt.recording import RecordingState
from torturing import Options, Trial
from torturing.judge import NO_RECORDING, NOTHING, judge_elsewhere
from torturing.onlooker import Onlooker, Sight
from torturing.recorder import BAR_S, HOST_S, RECORDING, Run, record
from torturing.subjects import Subject

CLOCKS = ("host", "virtual")
_LEAST_S = 0.001
_START_S = 0.4
"""The interpreter, the guest's image, the directory: much happens before there is a recording, so one kill in eight
is counted from the recorder's start.  The others are counted from when it began to record, on a busy host, too."""


def kill(number: int, seed: int, subjects: Sequence[Subject], root: Path, options: Options) -> Trial:
    """Do kill *number* of *seed*, with one of *subjects* in turn and both clocks in turn, recorded with *options*.

    Its files are in a directory of its own below *root*.
    """
    rng = Random(f"{seed}/{number}")
    subject = subjects[number // len(CLOCKS) % len(subjects)]
    clock = CLOCKS[number % len(CLOCKS)]
    is_early = rng.random() < 0.125
    moment_s = rng.uniform(_LEAST_S, _START_S if is_early else subject.life_s)
    words = [*subject.words, "--clock", clock, *options.words]
    spacing = rng.choice(subject.ring_spacings if options.is_ring else subject.spacings)
    if spacing is not None:
        words += ["--checkpoint-every", str(spacing)]
    directory = root / f"kill-{number}"
    (directory / "recordings").mkdir(parents=True)
    with Onlooker(directory / "recordings" / RECORDING, options.public_key) as onlooker:
        run = record(
            words, directory / "recordings", kill_after_s=moment_s, is_early=is_early, timeout_s=moment_s
        )
        sight = onlooker.finish()
    trial = _judge(run, sight, f"{seed}/{number}", options)
    since = "its start" if is_early else "it began to record"
    trial.name = f"kill {number}: {subject.name}, {clock} clock, {moment_s:.3f} s after {since}"
    trial.files = directory
    return trial


def _judge(run: Run, sight: Sight, seed: str, options: Options) -> Trial:
    verdict = judge_elsewhere(run.path, seed, run.path.parents[1], options.public_key)
    trial = Trial(outcome=verdict.outcome, problems=[*sight.problems, *verdict.problems])
    trial.has_turned = verdict.begins > 0
    if verdict.limit and sight.most > verdict.limit:
        trial.problems.append(f"at a moment it took {sight.most} bytes, more than {verdict.limit}")
    if run.status == 0 and verdict.outcome != RecordingState.COMPLETE:
        trial.problems.append(f"it came to its end, but left: {verdict.outcome}")
    elif run.status not in (0, -signal.SIGKILL):
        trial.problems.append(f"ended with status {run.status} before it was killed: {run.said}")
    if verdict.outcome in (NOTHING, NO_RECORDING) and run.output:
        trial.problems.append(f"the guest ran, but left: {verdict.outcome}")
    try:
        trial.lost_s = run.lost_s(verdict.printed.encode("latin-1"), is_cut=trial.has_turned)
    except ValueError as error:
        trial.problems.append(str(error))
    if trial.lost_s > BAR_S + HOST_S:
        trial.problems.append(f"{trial.lost_s:.2f} s are lost")
    return trial
