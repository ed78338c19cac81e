"""The machine that a manifest describes."""

from __future__ import annotations

from pathlib import Path

from revirt.errors import CorruptError, FormatVersionError
from revirt.machine.config import MachineConfig
from revirt.machine.state import NewerVersionError
from revirt.recording.manifest import NAME, Manifest


def machine_of(path: Path, contents: Manifest) -> MachineConfig:
    """Return the configuration of the machine that *contents*, the manifest of the recording *path*, describes.

    Raises FormatVersionError if only a newer revirt knows its model, CorruptError if there is no such machine.
    """
    try:
        return MachineConfig.from_plain(contents.machine)
    except NewerVersionError as error:
        raise FormatVersionError(path / NAME, error.found, error.known, what=error.what) from error
    except (ValueError, TypeError) as error:
        raise CorruptError(path / NAME, f"not a machine: {error}") from error
