"""``revirt verify``, ``head`` and ``prove``, and ``record --sign``, as people and programs call them."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from library import COMMAND, RecordingOf, environment

from revirt.cli import main
from revirt.log.events import Kind
from revirt.recording import Recording, RecordingState, Seal
from revirt.recording.manifest import NAME, Manifest
from revirt.recording.seal_check import SealCheck
from revirt.seal.keys import create, load_public


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; its public half is beside it."""
    path = tmp_path_factory.mktemp("keys") / "evidence.key"
    create(path)
    return path


@pytest.fixture(scope="module")
def public(key: Path) -> str:
    return f"{key}.pub"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("keys") / "stranger.key"
    create(path)
    return f"{path}.pub"


@pytest.fixture(scope="module")
def original(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "hello"
    assert (
        main(["record", "hello", "--batch", "--clock", "virtual", "--sign", str(key), "-o", str(path)]) == 0
    )
    return path


@pytest.fixture
def sealed(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a sealed recording, to do things to."""
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return Path(shutil.copytree(original, tmp_path / "hello"))


def run(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *words: object, status: int) -> str:
    capsys.readouterr()
    assert main([*map(str, words)]) == status
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def transmitted(path: Path) -> int:
    """The number of an event with data."""
    return next(
        number
        for number, event in enumerate(Recording.open(path).events())
        if event.kind is Kind.TRANSMITTED and event.data
    )


# -- verify -----------------------------------------------------------------------------------------------------


def test_a_sealed_recording_is_intact_to_who_has_the_key(
    sealed: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = run(capsys, "verify", sealed, "--key", public)

    recording = Recording.open(sealed)
    head = Seal.open(sealed, recording.manifest).heads[-1].head
    assert facts == {
        "path": str(sealed),
        "uuid": recording.manifest.uuid,
        "state": "complete",
        "verdict": "intact",
        "findings": [],
        "disks": [],
        "seal": {
            "key_id": load_public(Path(public)).key_id,
            "key_given": True,
            "epochs": len(Seal.open(sealed, recording.manifest).heads),
            "leaves": head.leaves,
            "events": recording.event_end,
            "time": head.time,
            "ended": True,
            "unsealed_events": 0,
            "evicted": None,
        },
    }


def test_a_person_is_told_the_same(sealed: Path, public: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(sealed), "--key", public]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"intact: {sealed}"
    assert lines[1] == f"sealed by  key {load_public(Path(public)).key_id}"
    assert lines[2].startswith(f"sealed     {Recording.open(sealed).event_end} events, ")


def test_without_a_key_the_one_to_look_for_is_named(
    sealed: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(sealed)]) == 0

    key_id = load_public(Path(public)).key_id
    assert f"key {key_id}, which you have to know: --key" in capsys.readouterr().out
    assert run(capsys, "verify", sealed)["seal"]["key_given"] is False


def test_to_who_has_another_key_it_is_tampered(
    sealed: Path, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = run(capsys, "verify", sealed, "--key", stranger, status=4)

    assert (facts["verdict"], facts["seal"]) == ("tampered", None)
    assert [(each["path"], each["offset"]) for each in facts["findings"]] == [(str(sealed / "seal"), None)]
    assert "without a valid signature of a key that is trusted" in facts["findings"][0]["problem"]


def test_what_was_changed_is_listed_by_file(
    sealed: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(sealed / NAME)
    manifest.command = ["something", "else"]
    (sealed / NAME).write_text(manifest.to_json())

    assert main(["verify", str(sealed), "--key", public]) == 4

    title, row, verdict, *_ = capsys.readouterr().out.splitlines()
    assert title.split() == ["FILE", "BYTE", "PROBLEM"]
    assert row.split(maxsplit=2)[0] == str(sealed / NAME)
    assert row.endswith("is not the manifest that was sealed")
    assert verdict == f"tampered: {sealed}"


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_manifest_that_cannot_be_read_is_a_finding(
    is_sealed: bool, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sealed / NAME).write_bytes((sealed / NAME).read_bytes()[:-3])
    if not is_sealed:
        shutil.rmtree(sealed / "seal")
    verdict = "tampered" if is_sealed else "damaged"

    facts = run(capsys, "verify", sealed, status=4)
    assert main(["verify", str(sealed)]) == 4

    assert (facts["verdict"], facts["uuid"], facts["state"], facts["seal"]) == (verdict, None, None, None)
    assert [each["path"] for each in facts["findings"]] == [str(sealed / NAME)]
    assert "not valid JSON" in facts["findings"][0]["problem"]
    assert capsys.readouterr().out.splitlines()[-1] == f"{verdict}: {sealed}"


def test_a_recording_that_is_moved_meanwhile_is_not_called_tampered(
    sealed: Path, public: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def moved(check: SealCheck, contents: Manifest) -> None:
        sealed.rename(sealed.with_name("elsewhere"))
        shutil.copytree(sealed.with_name("elsewhere") / "seal", sealed / "seal")

    monkeypatch.setattr(SealCheck, "check_manifest", moved)

    said = complaint(capsys, "verify", sealed, "--key", public, status=4)

    assert said.startswith(f"revirt: {sealed} was moved or deleted while it was verified\n")


def test_a_recording_without_a_seal_fails_against_a_key(
    recording_of: RecordingOf, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording_of("hello").path

    facts = run(capsys, "verify", path, "--key", public, status=4)

    assert facts["verdict"] == "tampered"
    assert [each["problem"] for each in facts["findings"]] == [f"{path} is not sealed"]
    assert run(capsys, "verify", path)["seal"] is None


def test_a_recorder_that_died_is_told_from_a_forger(
    sealed: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(sealed / NAME)
    manifest.state, manifest.end = RecordingState.RECORDING, None
    (sealed / NAME).write_text(manifest.to_json())

    assert run(capsys, "verify", sealed, "--key", public)["verdict"] == "interrupted"

    assert main(["repair", str(sealed)]) == 0
    assert run(capsys, "verify", sealed, "--key", public)["verdict"] == "intact"


def test_the_receipt_of_a_ring_is_shown(
    tmp_path: Path, key: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ring"
    words = ["--batch", "--clock", "virtual", "--until", "300000", "--checkpoint-every", "20000"]
    assert main(["record", "timer", *words, "--keep", "1ms", "--sign", str(key), "-o", str(path)]) == 0

    evicted = run(capsys, "verify", path, "--key", public)["seal"]["evicted"]
    assert evicted is not None
    assert evicted["event"] == Recording.open(path).manifest.start.event > 0
    main(["verify", str(path)])
    assert f"evicted    {evicted['event']:,} events, " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "head", "prove"])
@pytest.mark.parametrize("kind", ["private", "missing", "none"])
def test_a_key_that_will_not_do_is_named(
    command: str, kind: str, sealed: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").write_text("no key")
    given = key if kind == "private" else tmp_path / kind
    event = ["0"] if command == "prove" else []

    said = complaint(capsys, command, sealed, *event, "--key", given, status=1)

    problem = {"private": "a private key", "missing": "no such file", "none": "holds no key in PEM"}[kind]
    assert f"{given}: {problem}" in said
    assert len(said.splitlines()) == 2, "what to do next"


def test_whoever_looks_on_sees_how_far_it_has_come(sealed: Path, public: str) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "verify", str(sealed), "--key", public]

    terminal = {**environment(), "TERM": "xterm"}
    done = subprocess.run(command, env=terminal, stdout=subprocess.PIPE, stderr=theirs, timeout=60)

    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.returncode == 0, shown.decode()
    assert b"hello" in shown
    assert b"checking" in shown
    assert done.stdout.startswith(b"intact")


# -- head -------------------------------------------------------------------------------------------------------


def test_the_head_is_the_newest_that_was_signed(
    sealed: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = run(capsys, "head", sealed, "--key", public)

    signed = Seal.open(sealed, Manifest.read(sealed / NAME)).heads[-1]
    assert facts == {
        "recording": signed.head.recording,
        "leaves": signed.head.leaves,
        "root": signed.head.root.hex(),
        "events": signed.head.events,
        "time": signed.head.time,
        "epoch": signed.epoch,
        "key_id": load_public(Path(public)).key_id,
        "ended": True,
    }
    assert main(["head", str(sealed)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["root"] == signed.head.root.hex()
    assert lines["ended"] == "yes"


def test_there_is_no_head_without_a_seal(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording_of("hello").path

    said = complaint(capsys, "head", path, status=4)

    assert f"{path} is not sealed" in said
    assert "record --sign KEY" in said


def test_there_is_no_head_for_who_has_another_key(
    sealed: Path, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "without a valid signature" in complaint(capsys, "head", sealed, "--key", stranger, status=4)


# -- prove, and verify of a proof -------------------------------------------------------------------------------


@pytest.fixture
def proof(sealed: Path, public: str, tmp_path: Path) -> Path:
    path = tmp_path / "event.proof"
    number = str(transmitted(sealed))
    assert main(["prove", str(sealed), number, "--key", public, "-o", str(path)]) == 0
    return path


def test_a_proof_is_checked_without_the_recording(
    proof: Path, sealed: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = transmitted(sealed)
    event = list(Recording.open(sealed).events())[number]
    signed = Seal.open(sealed, Manifest.read(sealed / NAME)).heads[0]
    shutil.rmtree(sealed)

    facts = run(capsys, "verify", proof, "--key", public)

    assert facts == {
        "path": str(proof),
        "verdict": "proven",
        "recording": signed.head.recording,
        "event": number,
        "kind": event.kind.label,
        "branches": event.branches,
        "halted": event.halted,
        "pc": f"{event.pc:#x}",
        "number": event.number,
        "size": len(event.data),
        "data": event.data.hex(),
        "time": facts["time"],
        "epoch": facts["epoch"],
        "key_id": load_public(Path(public)).key_id,
    }


def test_a_link_to_a_proof_is_followed(
    proof: Path, public: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(proof)

    assert run(capsys, "verify", tmp_path / "link", "--key", public)["verdict"] == "proven"


def test_a_person_reads_what_is_proven(proof: Path, public: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(proof), "--key", public]) == 0

    said = capsys.readouterr().out
    assert said.startswith(f"proven: {proof}\n")
    assert f"event      number {run(capsys, 'verify', proof, '--key', public)['event']}: " in said


def test_data_that_is_kept_back_is_counted(
    proof: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(proof.read_text())
    values["data"] = None
    proof.write_text(json.dumps(values))

    facts = run(capsys, "verify", proof, "--key", public)

    assert facts["data"] is None
    assert facts["size"] > 0
    main(["verify", str(proof), "--key", public])
    assert f"{facts['size']} bytes, not shown" in capsys.readouterr().out


def test_a_proof_goes_to_standard_output_and_is_the_same(
    proof: Path, sealed: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["prove", str(sealed), str(transmitted(sealed))]) == 0

    assert capfdbinary.readouterr().out == proof.read_bytes()


def test_a_proof_of_another_key_proves_nothing(
    proof: Path, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "verify", proof, "--key", stranger, status=4)

    assert said.startswith(f"revirt: {proof}: certificate 0: an envelope without")


def test_a_proof_is_not_checked_without_a_key(proof: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "verify", proof, status=2)

    assert f"{proof} is a file, so a proof, which is checked with --key" in said


@pytest.mark.parametrize("contents", [b"", b"{}", b"[]", b"\xff"])
def test_a_file_that_is_no_proof_is_refused(
    contents: bytes, tmp_path: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_bytes(contents)

    assert "proof" in complaint(capsys, "verify", tmp_path / "x", "--key", public, status=4)


def test_a_proof_takes_nobodys_place(proof: Path, sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = proof.read_bytes()

    said = complaint(capsys, "prove", sealed, 0, "-o", proof, status=1)

    assert f"{proof} exists already" in said
    assert proof.read_bytes() == before


def test_a_proof_that_cannot_be_written_is_a_message(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "prove", sealed, 0, "-o", tmp_path / "none" / "x", status=1)

    assert "No such file or directory\n" in said
    assert "choose a place with free space" in said


def test_half_a_proof_is_not_left_behind(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
    code = f"{limit} from revirt.cli import main; raise SystemExit(main())"
    words = ["prove", str(sealed), "0", "-o", str(tmp_path / "x")]

    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert not (tmp_path / "x").exists()


def test_an_event_that_there_is_not_cannot_be_proven(
    sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = Recording.open(sealed).event_end

    said = complaint(capsys, "prove", sealed, count, status=4)

    assert f"{sealed} has no event {count}; it has those from 0 to below {count}" in said
    assert "'revirt events' lists them" in said


def test_without_a_seal_nothing_is_proven(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not sealed" in complaint(capsys, "prove", recording_of("hello").path, 0, status=4)


# -- record --sign ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("missing", "no such file"),
        ("public", "a public key, which cannot sign"),
        ("shared", "a private key that others can reach (mode 0640)"),
        ("other", "holds no key in PEM"),
    ],
)
def test_a_key_that_cannot_sign_ends_it_before_anything_is_written(
    kind: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create(tmp_path / "shared")
    (tmp_path / "shared").chmod(0o640)
    (tmp_path / "shared.pub").rename(tmp_path / "public")
    (tmp_path / "other").write_text("no key")

    said = complaint(
        capsys, "record", "hello", "--batch", "--sign", tmp_path / kind, "-o", tmp_path / "r", status=1
    )

    assert f"{tmp_path / kind}: {problem}" in said
    assert not (tmp_path / "r").exists()


def test_what_is_not_recorded_is_not_sealed(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "record", "hello", "--batch", "--no-record", "--sign", key, status=2)

    assert "--no-record writes nothing, so --sign has no meaning" in said
