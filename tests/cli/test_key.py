from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from revirt.cli import main
from revirt.seal.keys import load_private

ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    assert main(["key", *map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_new_key_is_shown_as_it_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evidence.key"

    made = run(capsys, "new", path)

    assert made == {
        "key_id": load_private(path).key_id,
        "kind": "private",
        "path": str(path),
        "public": f"{path}.pub",
    }
    assert run(capsys, "show", path) == made
    assert run(capsys, "show", f"{path}.pub") == {**made, "kind": "public", "path": f"{path}.pub"}


def test_a_person_sees_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evidence.key"

    assert main(["key", "new", str(path)]) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"key id      {load_private(path).key_id}",
        "kind        private",
        f"file        {path}",
        f"public key  {path}.pub",
    ]


def test_a_private_key_alone_has_no_public_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    main(["key", "new", str(path)])
    (tmp_path / "key.pub").unlink()
    capsys.readouterr()

    assert run(capsys, "show", path)["public"] is None


def test_halves_of_two_keys_are_not_taken_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("key", "other"):
        main(["key", "new", str(tmp_path / name)])
    (tmp_path / "other.pub").replace(tmp_path / "key.pub")

    assert main(["key", "show", str(tmp_path / "key")]) == 1
    assert f"key.pub: not the public half of {tmp_path / 'key'}" in capsys.readouterr().err


def test_a_key_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["key", "new", str(tmp_path / "key")])
    before = (tmp_path / "key").read_bytes()

    assert main(["key", "new", str(tmp_path / "key")]) == 1

    assert "exists already; a key is never overwritten" in capsys.readouterr().err
    assert (tmp_path / "key").read_bytes() == before


def test_what_signs_nothing_does_not_load_cryptography(tmp_path: Path) -> None:
    code = (
        "import sys; from revirt.cli import main;"
        f"main(['record', 'hello', '--batch', '-o', {str(tmp_path / 'hello')!r}]);"
        f"main(['replay', {str(tmp_path / 'hello')!r}]);"
        "print('cryptography' in sys.modules, file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stderr.splitlines()[-1] == "False"
