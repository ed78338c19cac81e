"""The index of a recording: what a replay of it can be asked often, and need not be made for each time.

How many instructions were executed up to where, which pages of memory are written when, and checkpoints that lie
closer than those of the recording.  All of it follows from the recording: it is made when it is wanted, kept beside it
and never part of the evidence.

format      files and their layout
stretches   the parts that have an index each
counting    the replay that makes one
building    the index as a whole, in several processes
worker      one of these
reader      what it tells
"""

from revirt.index.building import IndexReport, build_index
from revirt.index.reader import Count, Index, IndexCheckpoint, Interval, LoadedMoment

__all__ = [
    "Count",
    "Index",
    "IndexCheckpoint",
    "IndexReport",
    "Interval",
    "LoadedMoment",
    "build_index",
]
