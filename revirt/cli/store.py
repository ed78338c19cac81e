"""``revirt ls``, ``info``, ``repair``, ``mv`` and ``rm``: recordings as things on disk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from revirt.cli.rows import DiskFacts, RecordingRow, disk_facts, recording_facts, recording_rows
from revirt.errors import RecordingError, UsageError
from revirt.machine.devices import Devices
from revirt.recording import (
    Recording,
    list_recordings,
    move,
    move_target,
    recordings_dir,
    remove,
    repair,
    resolve,
)
from revirt.recording.notes import move_notes, remove_notes
from revirt.render import (
    Column,
    Format,
    duration,
    emit,
    emit_record,
    escape,
    grouped,
    is_terminal,
    printable,
    size,
    styled,
)


def _guest_time(seconds: float) -> str:
    return duration(round(seconds * 1e9))


_RECORDINGS = (
    Column("name", "NAME"),
    Column("guest", "GUEST"),
    Column("state", "STATE"),
    Column("clock", "CLOCK"),
    Column("guest_seconds", "GUEST TIME", right=True, text=_guest_time),
    Column("branches", "BRANCHES", right=True, text=grouped),
    Column("size", "SIZE", right=True, text=size),
    Column("created", "CREATED"),
)


def ls(arguments: argparse.Namespace) -> int:
    """Print the recordings in the recordings directory."""
    if not emit(recording_rows(list_recordings()), _RECORDINGS, arguments.form, sys.stdout):
        print(f"revirt: no recordings in {printable(str(recordings_dir()))}", file=sys.stderr)
    return 0


def info(arguments: argparse.Namespace) -> int:
    """Print everything about one recording as a whole."""
    recording = Recording.open(resolve(arguments.recording))
    facts = recording_facts(recording) | {"disks": disk_facts(recording)}
    emit_record(facts if arguments.form is not Format.TABLE else _in_words(facts), arguments.form, sys.stdout)
    return 0


def _in_words(facts: dict[str, Any]) -> dict[str, Any]:
    ended = facts["reason"]
    if facts["exit_code"] is not None:
        ended = f"{ended}, exit code {facts['exit_code']:#04x}"
    checkpoints = f"{facts['checkpoints']}, {size(facts['checkpoint_bytes'])}"
    return {
        "path": facts["path"],
        "state": facts["state"],
        "ended": ended,
        "created": facts["created"],
        "guest": facts["guest"].get("name"),
        "clock": facts["clock"],
        "guest time": _guest_time(facts["guest_seconds"]),
        "branches": grouped(facts["branches"]),
        "events": f"{grouped(facts['events'])}, {size(facts['log_bytes'])} of log",
        "checkpoints": checkpoints,
        **_ring_in_words(facts),
        **_origin_in_words(facts),
        **_fork_in_words(facts),
        "machine": _listed(
            {name: value for name, value in facts["machine"].items() if name not in ("cpuid", "devices")}
        ),
        **_devices_in_words(facts["machine"].get("devices")),
        **{f"disk {disk.number}": _disk_in_words(disk) for disk in facts["disks"]},
        "versions": _listed(facts["versions"]),
        "command": " ".join(facts["command"]),
        "uuid": facts["uuid"],
    }


def _ring_in_words(facts: dict[str, Any]) -> dict[str, Any]:
    """What a circular recording keeps, and where that begins."""
    ring, kept = facts["ring"], facts["kept"]
    if ring is None:
        return {}
    limits = []
    if ring.get("size") is not None:
        limits.append(size(ring["size"]))
    if ring.get("keep_ns") is not None:
        limits.append(f"{duration(ring['keep_ns'])} of guest time")
    return {"keeps": " and ".join(limits), "begins": _beginning_in_words(kept)}


def _origin_in_words(facts: dict[str, Any]) -> dict[str, Any]:
    """What a recording was cut out of, and where it begins."""
    if not facts["origins"]:
        return {}
    origin = facts["origins"][-1]
    cut_from = f"{origin['uuid']}, from {origin['from']} to {origin['to']}"
    return {"cut from": cut_from, "begins": _beginning_in_words(facts["kept"])}


def _fork_in_words(facts: dict[str, Any]) -> dict[str, Any]:
    """What a recording goes on from, and what is different in it."""
    forks = facts["guest"].get("forks")
    if not (isinstance(forks, list) and forks and isinstance(forks[-1], dict)):
        return {}
    try:
        words = {"forked from": f"{forks[-1]['uuid']}, at {forks[-1]['at']}"}
        changes = list(_changes_in_words(forks[-1]))
    except (AttributeError, KeyError, TypeError, ValueError):
        # What is inside of a manifest's guest is whatever somebody wrote there.
        return {"forked from": "not known"}
    return {**words, "changed": ", ".join(changes)} if changes else words


def _changes_in_words(fork: dict[str, Any]) -> Iterator[str]:
    for patch in fork["patches"]:
        where = f"physical {patch['address']:#x}" if patch["physical"] else f"{patch['address']:#x}"
        yield f"{patch['bytes']} at {where}"
    for number in fork["dropped"]:
        yield f"event {number} dropped"
    for number, data in fork["replaced"].items():
        yield f'event {number} replaced by "{escape(bytes.fromhex(data))}"'


def _devices_in_words(devices: Any) -> dict[str, Any]:
    """What is plugged beyond what every machine has, but disks."""
    if devices is None:
        return {}
    try:
        plugged = Devices.from_plain(devices)
    except (ValueError, TypeError, KeyError):
        # Of a newer revirt, or whatever somebody wrote there.
        return {"devices": "not known"}
    pixels = plugged.framebuffer
    present = [name for name in ("firmware", "vga", "rng", "console") if getattr(plugged, name)]
    if pixels is not None:
        present.append(f"framebuffer {pixels.width}x{pixels.height}")
    cards = {f"network card {number}": nic.mac for number, nic in enumerate(plugged.nics)}
    return {"devices": ", ".join(present), **cards}


def _disk_in_words(disk: DiskFacts) -> str:
    base = f"{disk.path} ({disk.problem})" if disk.problem else str(disk.path)
    room = f"{size(disk.overlay)} may be written" if disk.overlay else "read-only"
    wrote = (
        f"{size(disk.written)} written in {grouped(disk.writes)} writes" if disk.writes else "nothing written"
    )
    return f"{size(disk.size)}, {room}, {wrote}; at first {base}, SHA-256 {disk.sha256}"


def _beginning_in_words(kept: dict[str, int]) -> str:
    return f"{grouped(kept['branches'])}:0, checkpoint {kept['checkpoint']}"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def mend(arguments: argparse.Namespace) -> int:
    """Make an interrupted recording complete, and say what of it is lost."""
    path = resolve(arguments.recording)
    done = repair(path)
    if arguments.form is not Format.TABLE:
        lost = [{"path": each.path, "problem": each.problem} for each in done.lost]
        facts = {
            "path": path,
            "events": done.events,
            "branches": done.branches,
            "checkpoints": done.checkpoints,
        }
        emit_record({**facts, "lost": lost}, arguments.form, sys.stdout)
        return 0
    ends = f"{grouped(done.branches)} branches, {grouped(done.events)} events"
    print(f"{styled('repaired', 'green', sys.stdout)}: {printable(str(path))} now ends after {ends}")
    for each in done.lost:
        print(f"lost: {printable(str(each.path))}: {printable(each.problem)}")
    return 0


def mv(arguments: argparse.Namespace) -> int:
    """Rename or move a recording; print where it is now."""
    source = resolve(arguments.recording)
    target = move(source, move_target(source, arguments.target))
    move_notes(source, target)
    if arguments.form is Format.TABLE:
        print(printable(str(target)))
    else:
        emit_record({"from": source, "path": target}, arguments.form, sys.stdout)
    return 0


def rm(arguments: argparse.Namespace) -> int:
    """Delete recordings, after asking."""
    paths = [resolve(text) for text in arguments.recordings]
    if not arguments.force and not is_terminal(sys.stdin):
        raise UsageError(
            "rm asks before it deletes, but there is no terminal to ask at", hint="say -f to delete"
        )
    rows = list(recording_rows(dict.fromkeys(paths)))
    for row in rows:
        if row.state == "recording":
            raise RecordingError(f"{row.path} is being recorded", hint="stop its 'revirt record' first")
    for path in _agreed(rows, arguments.force):
        remove(path)
        remove_notes(path)
    return 0


def _agreed(rows: list[RecordingRow], force: bool) -> Iterator[Path]:
    for row in rows:
        if force or _ask(f"delete {row.path}" + (f" ({size(row.size)})" if row.size is not None else "")):
            yield row.path


def _ask(question: str) -> bool:
    print(f"{printable(question)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
