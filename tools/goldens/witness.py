"""What a replay of a recording comes to, told without the forms in which the recording itself tells it.

A recording's own digests are hashes of revirt's making, of states in revirt's form.  The hashes here are SHA-256 of
plain things, so that they hold even if all of that is broken in the same way on both sides:

    cpu       the registers by name, as JSON
    ram       memory, byte by byte
    devices   the fields of every device by name, as JSON
    console   what the guest sent since the replay began
"""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from typing import Any

from revirt.log.events import Kind
from revirt.machine.machine import Machine
from revirt.machine.state import to_plain
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession, audit

Facts = dict[str, Any]

_PARTS = 4
"""A recording is looked at where it is divided into so many parts, and at its end."""


def facts_of(recording: Recording) -> Facts:
    """Return what is to be noted down of *recording*."""
    events = list(recording.events())
    said = b"".join(event.data for event in events if event.is_serial_output)
    counts = Counter(event.kind for event in events)
    oldest = recording.checkpoints[0]
    return {
        "uuid": recording.manifest.uuid,
        "state": str(recording.state),
        "clock": recording.manifest.clock,
        "begins": oldest.branches,
        "checkpoints": [info.number for info in recording.checkpoints],
        "events": {kind.label: counts[kind] for kind in Kind if counts[kind]},
        "console": _hash(said),
        "audit": str(audit(recording).verdict),
        "end": state_at(recording, None),
        "positions": {
            str(position): state_at(recording, position)
            for position in _positions(recording, oldest.branches, events[-1].branches)
        },
    }


def state_at(recording: Recording, position: Position | None, *, checkpoint: int | None = None) -> Facts:
    """Return what a replay of *recording* is at *position* (None: at its end), from a checkpoint (None: the oldest)."""
    said = bytearray()
    session = ReplaySession(recording, checkpoint=checkpoint, until=position, output=said.extend)
    session.run()
    if position is not None:
        session.machine.step(position.steps)
    return {**machine_facts(session.machine), "console": _hash(said)}


def machine_facts(machine: Machine) -> Facts:
    """Return what *machine* is at this moment."""
    machine.board.catch_up()
    devices = {name: to_plain(state) for name, state in machine.board.save().items()}
    return {
        "branches": machine.core.branches,
        "guest_ns": machine.clock.now_ns,
        "cpu": _hash(_json(machine.core.registers())),
        "ram": _hash(machine.core.ram),
        "devices": _hash(_json(devices)),
    }


def _positions(recording: Recording, begin: int, end: int) -> list[Position]:
    """Return where to look: on branches, and an instruction behind those that do not end there."""
    branches = sorted({begin + (end - begin) * part // _PARTS for part in range(1, _PARTS)})
    return [_step_from(recording, Position(each)) for each in branches]


def _step_from(recording: Recording, position: Position) -> Position:
    session = ReplaySession(recording, until=position)
    session.run()
    machine = session.machine
    if machine.halted or session.replayer.is_interrupted_at(machine.moment()):
        return position
    is_straight = machine.step(1) == 1 and machine.core.branches == position.branches
    return Position(position.branches, 1) if is_straight else position


def _json(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, default=bytes.hex).encode()


def _hash(data: bytes | bytearray | memoryview) -> str:
    return sha256(data).hexdigest()
