"""Checkpoints: the state of a machine at a moment, each distinct page of memory stored once.

format     what the files look like
writer     stores checkpoints, packing pages that no earlier one had
reader     loads them
sharing    gives the pages of one recording to another
"""

from revirt.checkpoint.format import CheckpointInfo
from revirt.checkpoint.reader import CheckpointReader, LoadedCheckpoint
from revirt.checkpoint.writer import Base, CheckpointWriter

__all__ = ["Base", "CheckpointInfo", "CheckpointReader", "CheckpointWriter", "LoadedCheckpoint"]
