"""What a recording says: two that say the same are the same, whatever their files look like."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from revirt.checkpoint.format import PAGE_SIZE
from revirt.errors import RevirtError
from revirt.log import segment
from revirt.log.frame import read_file
from revirt.recording import Recording, layout
from revirt.seal import keys, leaves
from revirt.seal.dsse import ENVELOPE_LIMIT, Envelope
from revirt.seal.epochs import BATCH_TYPE, EpochSignature
from revirt.seal.fields import read_object
from revirt.seal.heads import END_TYPE, HEAD_TYPE

_TYPES = {"batch": BATCH_TYPE, "head": HEAD_TYPE, "end": END_TYPE}


def meaning_of(path: Path) -> dict[str, Any] | None:
    """Return what the recording in *path* says, by parts; None if it cannot be read."""
    try:
        recording = Recording.open(path)
        return {
            "manifest": asdict(recording.manifest),
            "events": [segment.read(each.path) for each in recording.segments],
            "checkpoints": list(_checkpoints(recording)),
            "seal": dict(_seal(path / layout.SEAL)) if (path / layout.SEAL).is_dir() else None,
        }
    except RevirtError:
        return None


def is_same(before: dict[str, Any], after: dict[str, Any] | None) -> bool:
    """Return whether a recording that said *before* still says so, but for where it is and what nothing refers to."""
    if after is None or after["seal"] is None:
        return False
    if before["manifest"] != after["manifest"] or before["checkpoints"] != after["checkpoints"]:
        return False
    if _events(before) != _events(after):
        return False
    return bool(before["seal"].items() <= after["seal"].items())


def _events(said: dict[str, Any]) -> list[Any]:
    return [(found.index, found.ordinal, events) for found, events in said["events"]]


def _checkpoints(recording: Recording) -> Any:
    # All of them, also one whose event was not written any more.
    for info in recording._store.infos:
        loaded = recording.load_checkpoint(info.number)
        pages = {}
        for numbers, contents in loaded.batches():
            for place in range(len(numbers) // 4):
                number = int.from_bytes(numbers[place * 4 : place * 4 + 4], "little")
                pages[number] = sha256(contents[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]).digest()
        yield info, loaded.state, sorted(pages.items())


def _seal(directory: Path) -> Any:
    """Yield what is in each file of a seal; of one that cannot be read, that."""
    for path in sorted(directory.iterdir()):
        found = layout.seal_number(path.name)
        try:
            if path.name == layout.SEAL_KEY:
                yield path.name, keys.load_public(path).raw
            elif found is not None and found[0] == "leaves":
                yield path.name, leaves.read(path, found[1])
            elif found is not None or path.name == layout.SEAL_END:
                kind = found[0] if found is not None else "end"
                yield path.name, _envelope(read_file(path, ENVELOPE_LIMIT), _TYPES[kind])
        except RevirtError as error:
            yield path.name, str(error)


def _envelope(data: bytes, payload_type: str) -> Any:
    envelope = Envelope.parse(data, payload_type)
    payload = read_object(data, "envelope", ENVELOPE_LIMIT)["payload"]
    signatures = [
        (each.value, each.key_id, EpochSignature.from_dsse(each) if each.extension is not None else None)
        for each in envelope.signatures
    ]
    return payload.translate(str.maketrans("-_", "+/")), signatures
