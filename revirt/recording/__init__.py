"""A recording: a directory with a manifest, a log and checkpoints.  Never overwritten, only ever added to.

    manifest.json              what was recorded, how, and how it ended: see `manifest`
    log/<8 digits>.seg         events: see revirt.log.segment
    checkpoints/<8>.ckpt       machine states and page maps: see revirt.checkpoint.format
    pages/<8>.pages            the pages that each checkpoint adds
    seal/                      who vouches for all of it, if somebody does: see `sealer`
    lock                       locked (flock) for as long as the recorder lives
    disks/<n>                  what disk n held at first, which is no part of it: see `disks`
    index/                     what replays found, and no part of it: see revirt.index

States, as a reader sees them:

    recording     the manifest says so, and the lock is held
    complete      the recorder finished
    interrupted   it was stopped early, or died: its manifest says "recording", but the lock is free
"""

from revirt.checkpoint import CheckpointInfo, LoadedCheckpoint
from revirt.recording.cutting import CutReport, cut
from revirt.recording.manifest import FORMAT_VERSION, Manifest, RecordingState
from revirt.recording.packing import PackReport, pack, pack_to
from revirt.recording.proving import prove
from revirt.recording.reader import Recording
from revirt.recording.relocation import move, move_target
from revirt.recording.repair import Lost, Repair, repair
from revirt.recording.ring import RingLimits
from revirt.recording.seal import Seal
from revirt.recording.stats import CheckpointStats, KindStats, LogStats, checkpoint_stats, log_stats
from revirt.recording.store import (
    is_recording,
    latest,
    list_recordings,
    new_path,
    recordings_dir,
    remove,
    resolve,
)
from revirt.recording.symbols import find_symbols
from revirt.recording.unpacking import unpack, unpack_from
from revirt.recording.usage import Usage, disk_usage
from revirt.recording.verify import Finding, Verdict, Verification
from revirt.recording.writer import RecordingWriter

__all__ = [
    "FORMAT_VERSION",
    "CheckpointInfo",
    "CheckpointStats",
    "CutReport",
    "Finding",
    "KindStats",
    "LoadedCheckpoint",
    "LogStats",
    "Lost",
    "Manifest",
    "PackReport",
    "Recording",
    "RecordingState",
    "RecordingWriter",
    "Repair",
    "RingLimits",
    "Seal",
    "Usage",
    "Verdict",
    "Verification",
    "checkpoint_stats",
    "cut",
    "disk_usage",
    "find_symbols",
    "is_recording",
    "latest",
    "list_recordings",
    "log_stats",
    "move",
    "move_target",
    "new_path",
    "pack",
    "pack_to",
    "prove",
    "recordings_dir",
    "remove",
    "repair",
    "resolve",
    "unpack",
    "unpack_from",
]
