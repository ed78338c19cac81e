"""Whether a verification says of a tampering what it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import CorruptError, FormatVersionError, RevirtError
from revirt.recording import Finding, Recording, Verdict
from revirt.seal.keys import PublicKey
from tampering.tampering import Change, Due


@dataclass(frozen=True, slots=True)
class Said:
    """What a verification came to: its verdict, None where the recording was refused, and the places that it named."""

    verdict: Verdict | None
    findings: tuple[Finding, ...]
    unsealed: int = 0


def verify(path: Path, key: PublicKey) -> Said:
    """Verify the recording in *path*, which *key* has to have sealed; what is no clear error is raised."""
    try:
        verification = Recording.open(path).verify(key)
        findings = tuple(verification)
    except RevirtError as error:
        named = error.path if isinstance(error, (CorruptError, FormatVersionError)) else path
        return Said(None, (Finding(named, None, str(error)),))
    return Said(verification.verdict, findings, verification.unsealed)


def complaint(change: Change, said: Said, path: Path) -> str | None:
    """Return what is wrong about what was *said* of *change*, which was done to the recording in *path*."""
    is_reported = said.verdict in (None, Verdict.TAMPERED)
    if change.due is Due.NOTHING:
        return None
    if change.due is Due.NOT_INTACT:
        return None if is_reported or said.verdict is Verdict.INTERRUPTED else f"called {said.verdict}"
    if not is_reported:
        return f"called {said.verdict}"
    named = _named(said.findings, path)
    if change.places.isdisjoint(named):
        return f"found at {', '.join(sorted(named))}; not at {', '.join(sorted(change.places))}"
    return None


def _named(findings: Sequence[Finding], path: Path) -> set[str]:
    return {str(each.path.relative_to(path)) for each in findings if each.path.is_relative_to(path)}
