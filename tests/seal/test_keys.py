from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from revirt.errors import KeyFileError
from revirt.seal import keys
from revirt.seal.keys import PrivateKey, PublicKey, create, load_private, load_public

# RFC 8410, sections 10.1 and 10.3.
PUBLIC_PEM = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
PRIVATE_PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_keys_sign_as_the_standard_has_it() -> None:
    # RFC 8032, section 7.1, test 2.
    key = PrivateKey.from_raw(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )

    assert key.public.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_a_signature_holds_for_its_message_and_key_only() -> None:
    key = PrivateKey.generate()
    signature = key.sign(b"message")

    assert key.public.verify(b"message", signature)
    assert not key.public.verify(b"massage", signature)
    assert not key.public.verify(b"message", signature[:-1])
    assert not key.public.verify(b"message", bytes(64))
    assert not PrivateKey.generate().public.verify(b"message", signature)


def test_keys_made_by_others_are_read(tmp_path: Path) -> None:
    private = load_private(write(tmp_path / "key", PRIVATE_PEM))
    public = load_public(write(tmp_path / "key.pub", PUBLIC_PEM, 0o644))

    assert private.public == public
    assert private.to_pem() == PRIVATE_PEM
    assert public.to_pem() == PUBLIC_PEM


def test_the_key_id_is_the_hash_of_the_public_key_as_others_compute_it(tmp_path: Path) -> None:
    public = load_public(write(tmp_path / "key.pub", PUBLIC_PEM))

    # base64 -d of the text between the lines | sha256sum
    assert public.key_id == "a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f"


def test_a_new_key_is_two_files_that_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "evidence.key"

    made = create(path)

    assert load_private(path).public == load_public(tmp_path / "evidence.key.pub") == made
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["evidence.key", "evidence.key.pub"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_private_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create(tmp_path / "open")
        os.umask(0o777)
        create(tmp_path / "shut")
    finally:
        os.umask(before)

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "shut")]
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize("name", ["key", "key.pub"])
def test_a_key_file_is_never_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"precious")

    with pytest.raises(KeyFileError, match=f"{name}: exists already"):
        create(tmp_path / "key")

    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [(name, b"precious")]


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(KeyFileError, match="exists already"):
        create(tmp_path / "key")

    assert not (tmp_path / "elsewhere").exists()


def test_a_key_whose_public_half_cannot_be_written_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if target.name.endswith(".pub"):
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(keys.os, "link", refuse)

    with pytest.raises(KeyFileError, match=r"key\.pub: cannot be written: No space left on device"):
        create(tmp_path / "key")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/key", "."])
def test_a_key_that_cannot_be_made_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"missing/key: cannot be written|not a name for a file"):
        create(tmp_path / name if name != "." else Path("."))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_private_key_that_others_can_reach_is_refused(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path / "key", PRIVATE_PEM, mode)

    with pytest.raises(KeyFileError, match=f"others can reach \\(mode {mode:04o}\\)") as caught:
        load_private(path)

    assert caught.value.path == path
    assert caught.value.hint.endswith(f"chmod 600 {path}")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "holds no key in PEM"),
        (bytes(100), "holds no key in PEM"),
        (b"x" * 70_000, "more than 65536 bytes"),
        (PUBLIC_PEM, "a public key, which cannot sign"),
        (PRIVATE_PEM.replace(b"MC4C", b"MC5C"), "malformed: no private key"),
        (PRIVATE_PEM[:60], "malformed: no private key"),
        # The OID says X448, whose keys have 56 bytes; what was seen was an error of the library's own.
        (PRIVATE_PEM.replace(b"AwBQYDK2Vw", b"AwBQYDK2Vv"), "malformed: no private key"),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "a key with a passphrase"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "a key of OpenSSH"),
    ],
)
def test_a_file_that_is_no_private_key_is_refused_with_what_it_is(
    data: bytes, problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "key", data)

    with pytest.raises(KeyFileError, match=problem) as caught:
        load_private(path)

    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (PRIVATE_PEM, "a private key"),
        (PUBLIC_PEM.replace(b"MCow", b"MCox"), "malformed: no public key"),
    ],
)
def test_a_file_that_is_no_public_key_is_refused_with_what_it_is(
    data: bytes, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyFileError, match=problem):
        load_public(write(tmp_path / "key", data))


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    key = X25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    with pytest.raises(KeyFileError, match="a key, but not of Ed25519"):
        load_private(write(tmp_path / "key", private))
    with pytest.raises(KeyFileError, match="a key, but not of Ed25519"):
        load_public(write(tmp_path / "key.pub", public))


def test_what_is_not_there_or_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(KeyFileError, match="no such file"):
        load_private(tmp_path / "none")
    with pytest.raises(KeyFileError, match="not a regular file"):
        load_private(tmp_path)
    with pytest.raises(KeyFileError, match="not a regular file"):
        load_private(tmp_path / "fifo")


def test_a_public_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        PublicKey(bytes(31))
