"""``revirt verify``, ``head`` and ``prove``: what can be said of a recording to somebody who was not there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from revirt.cli.outputs import write_new
from revirt.errors import CorruptError, RecordingError, SealError, UsageError
from revirt.log.frame import read_file
from revirt.log.wording import payload
from revirt.recording import Finding, Recording, Seal, Verdict, prove, resolve
from revirt.recording.disks import FoundBase, check_bases
from revirt.recording.machine import machine_of
from revirt.recording.progress import no_progress
from revirt.recording.seal import is_sealed
from revirt.render import (
    Column,
    Format,
    byte_progress,
    emit,
    emit_record,
    grouped,
    print_warnings,
    printable,
    styled,
)
from revirt.seal.keys import PublicKey, load_public
from revirt.seal.proofs import PROOF_LIMIT, EventProof, ProvenEvent

_FINDINGS = (
    Column("path", "FILE"),
    Column("offset", "BYTE", right=True),
    Column("problem", "PROBLEM"),
)
_MEANING = {
    Verdict.INTACT: ("green", ""),
    Verdict.INTERRUPTED: ("bold", ", intact up to there"),
    Verdict.RECORDING: ("bold", ", intact so far"),
    Verdict.DAMAGED: ("red", ""),
    Verdict.TAMPERED: ("red", ""),
}
"""The colour of a verdict, and what is to be said with it."""


def verify(arguments: argparse.Namespace) -> int:
    """Check a recording, or a proof; return 4 if anything is wrong."""
    key = _key(arguments)
    path = Path(arguments.recording)
    if path.is_file():
        return _verify_proof(path, key, arguments.form)
    directory = resolve(arguments.recording)
    try:
        recording = Recording.open(directory)
    except CorruptError as error:
        return _report_unreadable(directory, error, key, arguments.form)
    with byte_progress(recording.path.name) as line:
        verification = recording.verify(key, line.update if line is not None else no_progress)
        findings = iter(verification)
        # The line goes with the first one: from there on the terminal belongs to what is wrong.
        first = list(islice(findings, 1))
    listed: list[Finding] = []
    if arguments.form is Format.TABLE:
        emit(chain(first, findings), _FINDINGS, Format.TABLE, sys.stdout)
    else:
        listed = [*first, *findings]
    verdict = verification.verdict
    disks = list(_bases(recording))
    facts: dict[str, Any] = {
        "path": recording.path,
        "uuid": recording.manifest.uuid,
        "state": recording.state,
        "verdict": verdict,
        "findings": listed,
        "seal": _seal_facts(verification.seal, verification.unsealed, key),
        "disks": [
            {"number": each.number, "sha256": each.disk.sha256, "path": each.path, "problem": each.problem}
            for each in disks
        ],
    }
    if arguments.form is not Format.TABLE:
        emit_record(facts, arguments.form, sys.stdout)
    else:
        _print_verdict(verdict, recording.path)
        emit_record(dict(_seal_in_words(facts["seal"])), Format.TABLE, sys.stdout)
    # Not a finding: an image is no part of the recording, and may be brought.
    print_warnings(
        f"disk {each.number} cannot be replayed: {each.problem}; if you have the image that it was recorded with: "
        f"revirt disk {recording.path.name} --number {each.number} --base FILE"
        for each in disks
        if each.problem is not None
    )
    return RecordingError.exit_status if verdict in (Verdict.DAMAGED, Verdict.TAMPERED) else 0


def _report_unreadable(path: Path, error: CorruptError, key: PublicKey | None, form: Format) -> int:
    """Report on the recording in *path*, whose manifest cannot be read, which *error* says why; return the status."""
    found = Finding(error.path, error.offset, error.problem)
    verdict = Verdict.TAMPERED if key or is_sealed(path) else Verdict.DAMAGED
    if form is Format.TABLE:
        emit([found], _FINDINGS, form, sys.stdout)
        _print_verdict(verdict, path)
    else:
        unknown = dict.fromkeys(("uuid", "state"))
        facts = {"path": path, **unknown, "verdict": verdict, "findings": [found], "seal": None, "disks": []}
        emit_record(facts, form, sys.stdout)
    return error.exit_status


def _bases(recording: Recording) -> Iterator[FoundBase]:
    """Yield the images of the disks of *recording*, read as a whole; none if its machine is not known."""
    try:
        disks = machine_of(recording.path, recording.manifest).devices.disks
    except RecordingError:
        return
    with byte_progress(recording.path.name) as line:
        shown = line.update if line is not None else no_progress
        yield from check_bases(
            recording.path, disks, lambda done, total: shown("checking disks", done, total)
        )


def _print_verdict(verdict: Verdict, path: Path) -> None:
    colour, more = _MEANING[verdict]
    print(f"{styled(verdict, colour, sys.stdout)}{more}: {printable(str(path))}")


def head(arguments: argparse.Namespace) -> int:
    """Print the newest head of a recording's seal."""
    recording = Recording.open(resolve(arguments.recording))
    seal = Seal.open(recording.path, recording.manifest, _key(arguments))
    newest = seal.heads[-1]
    facts = {
        "recording": newest.head.recording,
        "leaves": newest.head.leaves,
        "root": newest.head.root,
        "events": newest.head.events,
        "time": newest.head.time,
        "epoch": newest.epoch,
        "key_id": seal.key.key_id,
        "ended": seal.end is not None,
    }
    if arguments.form is Format.TABLE:
        facts |= {"root": newest.head.root.hex(), "ended": "yes" if seal.end else "no"}
    emit_record(facts, arguments.form, sys.stdout, _HEAD_LABELS)
    return 0


_HEAD_LABELS = {
    "recording": "recording",
    "leaves": "leaves",
    "root": "root",
    "events": "events",
    "time": "signed",
    "epoch": "epoch",
    "key_id": "key id",
    "ended": "ended",
}


def prove_event(arguments: argparse.Namespace) -> int:
    """Print the proof that an event is in a recording."""
    recording = Recording.open(resolve(arguments.recording))
    proof = prove(recording, arguments.event, _key(arguments)).to_json() + b"\n"
    if arguments.output is not None:
        write_new(arguments.output, proof)
        return 0
    sys.stdout.buffer.write(proof)
    sys.stdout.buffer.flush()
    return 0


def _key(arguments: argparse.Namespace) -> PublicKey | None:
    return load_public(arguments.key) if arguments.key is not None else None


def _verify_proof(path: Path, key: PublicKey | None, form: Format) -> int:
    if key is None:
        raise UsageError(
            f"{path} is a file, so a proof, which is checked with --key", hint="name the public key"
        )
    try:
        proven = EventProof.from_json(read_file(path.resolve(), PROOF_LIMIT)).verify(key)
    except SealError as error:
        raise SealError(f"{path}: {error}", hint=error.hint) from error
    facts = {
        "path": path,
        "verdict": "proven",
        "recording": proven.recording,
        "event": proven.ordinal,
        "kind": proven.event.kind.label,
        "branches": proven.event.branches,
        "halted": proven.event.halted,
        "pc": f"{proven.event.pc:#x}",
        "number": proven.event.number,
        "size": proven.size,
        "data": proven.data,
        "time": proven.head.time,
        "epoch": proven.epoch,
        "key_id": key.key_id,
    }
    if form is not Format.TABLE:
        emit_record(facts, form, sys.stdout)
        return 0
    print(f"{styled('proven', 'green', sys.stdout)}: {printable(str(path))}")
    emit_record(dict(_event_in_words(proven)), Format.TABLE, sys.stdout)
    return 0


def _event_in_words(proven: ProvenEvent) -> Iterator[tuple[str, str]]:
    event = proven.event
    shown = payload(event) if proven.data is not None else f"{grouped(proven.size)} bytes, not shown"
    yield "recording", proven.recording
    yield "event", f"number {grouped(proven.ordinal)}: {event.kind.label} {shown}"
    yield "at", f"{grouped(event.branches)} branches, pc {event.pc:#x}"
    yield "signed", f"{proven.head.time}, in epoch {proven.epoch}"


def _seal_facts(seal: Seal | None, unsealed: int, key: PublicKey | None) -> dict[str, Any] | None:
    if seal is None:
        return None
    return {
        "key_id": seal.key.key_id,
        "key_given": key is not None,
        "epochs": len(seal.heads),
        "leaves": seal.head.leaves,
        "events": seal.head.events,
        "time": seal.head.time,
        "ended": seal.end is not None,
        "unsealed_events": unsealed,
        "evicted": seal.head.evicted,
    }


def _seal_in_words(seal: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if seal is None:
        return
    yield (
        "sealed by",
        f"key {seal['key_id']}" + ("" if seal["key_given"] else ", which you have to know: --key"),
    )
    epochs = "1 epoch" if seal["epochs"] == 1 else f"{grouped(seal['epochs'])} epochs"
    yield "sealed", f"{grouped(seal['events'])} events, {epochs}, until {seal['time']}"
    if seal["unsealed_events"]:
        yield "not sealed", f"{grouped(seal['unsealed_events'])} events behind that"
    evicted = seal["evicted"]
    if evicted is not None:
        yield "evicted", f"{grouped(evicted.event)} events, {grouped(evicted.branches)} branches; by receipt"
