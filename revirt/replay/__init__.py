"""Replays recordings: the same inputs at the same points, everything that can be checked compared.

replayer     answers the machine's questions from the log, and compares
session      a replay from a checkpoint to a position or the end
divergence   where and in what a replay that differs differs
counting     instruction counts of events, by a replay under an instruction hook
"""

from revirt.replay.counting import count_instructions
from revirt.replay.session import ReplayReport, ReplaySession, replay

__all__ = ["ReplayReport", "ReplaySession", "count_instructions", "replay"]
