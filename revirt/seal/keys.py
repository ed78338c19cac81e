"""Ed25519 keys (RFC 8032), and the files they are kept in.

::

    FILE       private key, PKCS#8 in PEM (RFC 5958, RFC 8410), no passphrase; mode 0600
    FILE.pub   public key, SubjectPublicKeyInfo in PEM (RFC 5280, RFC 8410)
    key id     SHA-256, in hex, of the DER SubjectPublicKeyInfo, which are 44 bytes

Other programs read and make the same files, ``openssl genpkey -algorithm ed25519`` for one.

Rules:
- A key file is never overwritten, and is there whole or not at all.
- A private key that others can read is refused: it may not be private any more.
- The library that computes is loaded when the first key is: a run that signs nothing does not wait for it.
"""

from __future__ import annotations

import os
import secrets
import stat
from base64 import b64encode
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Self

from revirt.errors import KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_SIZE = 32
"""Bytes of a public key, and of a private one."""
SIGNATURE_SIZE = 64
"""Bytes of a signature."""
PUBLIC_SUFFIX = ".pub"

_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What stands before the key in a SubjectPublicKeyInfo: RFC 8410, section 4."""
_FILE_LIMIT = 64 << 10
_PRIVATE, _PUBLIC = b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN PUBLIC KEY-----"


class PublicKey:
    """A key to check signatures with; equal if the bytes are."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_SIZE:
            raise ValueError(f"a public key of {len(raw)} bytes")
        self.raw = raw

    @cached_property
    def key_id(self) -> str:
        """SHA-256, in hex, of the DER SubjectPublicKeyInfo."""
        return sha256(_SPKI_PREFIX + self.raw).hexdigest()

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Return whether *signature* over *message* is of this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def to_pem(self) -> bytes:
        """Return the key as the contents of a file."""
        text = b64encode(_SPKI_PREFIX + self.raw)
        return b"%s\n%s\n-----END PUBLIC KEY-----\n" % (_PUBLIC, text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)


class PrivateKey:
    """A key to sign with."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls.from_raw(secrets.token_bytes(KEY_SIZE))

    @classmethod
    def from_raw(cls, raw: bytes) -> Self:
        """Return the key with those 32 private bytes (the seed of RFC 8032, section 5.1.5); raises ValueError."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def key_id(self) -> str:
        """The id of the public key."""
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the signature over *message*, 64 bytes."""
        return self._key.sign(message)

    def to_pem(self) -> bytes:
        """Return the key as the contents of a file, not encrypted."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def create(path: Path) -> PublicKey:
    """Make a new key in *path*, its public half in ``<path>.pub``, and return that.

    Raises KeyFileError if one of the two exists already or cannot be written; then neither is left.
    """
    if not path.name:
        raise KeyFileError(path, "not a name for a file")
    key = PrivateKey.generate()
    public = public_path(path)
    if os.path.lexists(public):
        raise _exists(public)
    _write_new(path, key.to_pem(), 0o600)
    try:
        _write_new(public, key.public.to_pem(), 0o644)
    except KeyFileError:
        with suppress(OSError):
            path.unlink()
        raise
    return key.public


def public_path(path: Path) -> Path:
    """Return where the public half of the private key in *path* is kept."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def load(path: Path) -> PrivateKey | PublicKey:
    """Return the key in *path*; raises KeyFileError if there is none, or a private one that others can read."""
    data, mode = _read(path)
    if _PRIVATE in data:
        if mode & 0o077:
            problem = f"a private key that others can reach (mode {mode:04o})"
            raise KeyFileError(path, problem, hint=f"if nobody has read it: chmod 600 {path}")
        return _parse_private(path, data)
    if _PUBLIC in data:
        return _parse_public(path, data)
    for label, problem, hint in _FOREIGN:
        if label in data:
            raise KeyFileError(path, problem, hint=hint)
    raise KeyFileError(path, "holds no key in PEM", hint="'revirt key new FILE' makes one")


def load_private(path: Path) -> PrivateKey:
    """Return the private key in *path*; raises KeyFileError as `load`, and if it is a public one."""
    key = load(path)
    if isinstance(key, PublicKey):
        raise KeyFileError(path, "a public key, which cannot sign", hint="name the file without .pub")
    return key


def load_public(path: Path) -> PublicKey:
    """Return the public key in *path*; raises KeyFileError as `load`, and if it is a private one."""
    key = load(path)
    if isinstance(key, PrivateKey):
        raise KeyFileError(path, "a private key", hint=f"its public half is kept in {public_path(path)}")
    return key


_FOREIGN = (
    (b"ENCRYPTED", "a key with a passphrase, which revirt cannot ask for", "'revirt key new FILE' makes one"),
    (
        b"OPENSSH PRIVATE KEY",
        "a key of OpenSSH, not PKCS#8",
        "'revirt key new FILE' makes one of the right form",
    ),
)


def _parse_private(path: Path, data: bytes) -> PrivateKey:
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    # The last is what the library makes of an X448 key that is too short.
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise KeyFileError(path, "malformed: no private key could be read from it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(path, "a key, but not of Ed25519", hint="'revirt key new FILE' makes one")
    return PrivateKey(key)


def _parse_public(path: Path, data: bytes) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, "malformed: no public key could be read from it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(path, "a key, but not of Ed25519")
    return PublicKey(key.public_bytes_raw())


def _read(path: Path) -> tuple[bytes, int]:
    """Return the contents and the permissions of the regular file *path*."""
    try:
        # A FIFO would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Of the open file, not of the path: that may be another one by now.
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise KeyFileError(path, "not a regular file")
            data = os.read(descriptor, _FILE_LIMIT + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise KeyFileError(path, "no such file", hint="'revirt key new FILE' makes a key") from error
    except OSError as error:
        raise KeyFileError(path, error.strerror or str(error)) from error
    if len(data) > _FILE_LIMIT:
        raise KeyFileError(path, f"more than {_FILE_LIMIT} bytes; no key has so many")
    return data, stat.S_IMODE(mode)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write *data* to the new file *path*, synced; raises KeyFileError if there is one already."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            # Unlike a rename, a link never takes the place of a file that is there.
            os.link(temporary, path)
        finally:
            temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise KeyFileError(path, f"cannot be written: {error.strerror or error}") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(path: Path) -> KeyFileError:
    return KeyFileError(
        path, "exists already; a key is never overwritten", hint="choose another name, or remove it yourself"
    )
