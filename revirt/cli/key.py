"""``revirt key``: keys to sign recordings with, and to check them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import KeyFileError
from revirt.render import emit_record
from revirt.seal.keys import PrivateKey, create, load, load_public, public_path

_LABELS = {"key_id": "key id", "kind": "kind", "path": "file", "public": "public key"}


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key in a file; ``public`` is the file with its public half, None if that is not beside it."""

    key_id: str
    kind: str
    path: Path
    public: Path | None


def new(arguments: argparse.Namespace) -> int:
    """Make a key and print which."""
    path: Path = arguments.file
    key = create(path)
    row = KeyRow(key.key_id, "private", path, public_path(path))
    emit_record(row, arguments.form, sys.stdout, _LABELS)
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print which key is in a file."""
    emit_record(key_row(arguments.file), arguments.form, sys.stdout, _LABELS)
    return 0


def key_row(path: Path) -> KeyRow:
    """Return the row of the key in *path*.

    Raises KeyFileError if there is none, or if the file beside a private key has the public half of another.
    """
    key = load(path)
    if not isinstance(key, PrivateKey):
        return KeyRow(key.key_id, "public", path, path)
    public = public_path(path)
    if not public.exists():
        return KeyRow(key.key_id, "private", path, None)
    if load_public(public) != key.public:
        raise KeyFileError(public, f"not the public half of {path}")
    return KeyRow(key.key_id, "private", path, public)
