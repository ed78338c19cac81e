"""Replays recordings: the same inputs at the same points, everything that can be checked compared.

replayer     answers the machine's questions from the log, and compares
session      a machine that replays from a checkpoint
run          a whole replay, and the report of it
divergence   where and in what a replay that differs differs
counting     instruction counts of events, by a replay that counts
auditor      what of a recording a replay confirms
points       the places in a recording that people name
"""

from revirt.replay.auditor import AuditReport, Verdict, audit
from revirt.replay.counting import count_instructions, total_instructions
from revirt.replay.points import branches_at, checkpoint_before
from revirt.replay.run import Divergence, ReplayReport, replay
from revirt.replay.session import ReplaySession

__all__ = [
    "AuditReport",
    "Divergence",
    "ReplayReport",
    "ReplaySession",
    "Verdict",
    "audit",
    "branches_at",
    "checkpoint_before",
    "count_instructions",
    "replay",
    "total_instructions",
]
