"""docs/sealing.md against the code."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from revirt.log.events import Event, Kind
from revirt.log.rows import ROW, rows_of
from revirt.seal import dsse, epochs
from revirt.seal.blocks import BLOCK_EVENTS, block_of, event_root
from revirt.seal.epochs import Batch, EpochSignature, verify_certificates
from revirt.seal.heads import END_TYPE, HEAD_TYPE, End, Evicted, Head
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import FRAME, LEAF, Leaf, LeafKind
from revirt.seal.memory import PAGE_SIZE, ZERO_PAGE_HASH, MemoryTree
from revirt.seal.merkle import HistoryTree, leaf_hash, root_of
from revirt.seal.proofs import FORM, EventProof
from revirt.seal.schedule import AGE_SHARE, EPOCHS, SHORT_EPOCH_S, Schedule

PAGE = (Path(__file__).parents[2] / "docs" / "sealing.md").read_text()
USER = PrivateKey.from_raw(bytes(32))


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def part(title: str) -> str:
    return PAGE.partition(f"\n### {title}\n")[2].partition("\n#")[0]


def table(text: str) -> list[str]:
    """The names in the first column of the tables in *text*."""
    return re.findall(r"^\| `(\w+)` \| ", text, re.MULTILINE)


@pytest.fixture
def proof() -> EventProof:
    rows = rows_of([Event(Kind.INTERRUPT, 500, False, 4096, 7, 48)])
    leaf = Leaf(LeafKind.EVENTS, 0, 1, event_root(rows))
    schedule = Schedule.begin(USER, "uuid", epochs=2)
    head = Head("uuid", bytes(32), 1, leaf.hash, 1, "2026-11-21T12:00:00+00:00", True, None)
    envelope = schedule.seal(HEAD_TYPE, head.to_payload())
    certificates = tuple(schedule.certificates)
    return EventProof("uuid", certificates, envelope, 0, leaf.pack(), (), block_of(rows, 0), 0, None)


def test_the_example_of_a_tree_is_what_the_code_makes() -> None:
    tree = HistoryTree()
    for data in (b"a", b"b", b"c"):
        tree.append(leaf_hash(data))

    assert f"`{tree.root().hex()}`" in section("The history tree")


def test_the_subtrees_of_eleven_leaves_are_those_of_the_page() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(11)]
    tree = HistoryTree()
    for leaf in leaves:
        tree.append(leaf)

    assert "of 11 leaves the node over the first eight, that over the next two, and\nthe last leaf" in PAGE
    assert tree.subtrees(11) == [root_of(leaves[:8]), root_of(leaves[8:10]), leaves[10]]


def test_the_example_of_a_block_is_what_the_code_makes() -> None:
    text = section("The events of a segment")
    rows = rows_of(
        [Event(Kind.INTERRUPT, 500, False, 4096, 7, 48), Event(Kind.RECEIVED, 900, True, 4096, 7, 0, b"ls\n")]
    )
    shown = text.split("The block is")[1].split("```")[1]

    assert block_of(rows, 0).contents == bytes.fromhex(shown)
    assert f"`{event_root(rows).hex()}`" in text
    assert f"Blocks of {BLOCK_EVENTS} events" in text
    assert f"rows      {ROW.size} bytes" in text
    assert ROW.format in text


def test_the_example_of_memory_is_what_the_code_makes() -> None:
    text = section("Memory")
    memory = MemoryTree(3)

    memory.update((1).to_bytes(4, "little"), b"revirt".ljust(PAGE_SIZE, b"\0"))

    assert f"{PAGE_SIZE} bytes\neach" in text
    assert f"`{ZERO_PAGE_HASH.hex()}`" in text
    assert f"`{memory.root().hex()}`" in text


def test_the_limits_of_an_envelope_are_those_of_the_code() -> None:
    text = section("Envelopes")

    assert f"at most\n{dsse.ENVELOPE_LIMIT} bytes and with at most {dsse.MAX_SIGNATURES} signatures" in text
    example = dsse.pre_authentication("http://example.com/HelloWorld", b"hello world")
    assert f"`{example.decode()}`" in text


def test_the_example_of_epochs_is_what_the_code_makes() -> None:
    rows = re.findall(r"^\| (\d) \| `(\w{64})` \| `(\w{64})` \|$", section("Epochs"), re.MULTILINE)
    schedule = Schedule.begin(USER, "uuid", epochs=len(rows), seed=bytes(32))
    (batch,) = verify_certificates(schedule.certificates, USER.public, "uuid")

    assert f"`{batch.root.hex()}`" in section("Epochs")
    assert len(rows) == 2
    for number, seed, key in rows:
        while schedule.epoch < int(number):
            schedule.evolve()
        assert bytes(schedule._seed).hex() == seed
        assert schedule.sign("test", b"").key.hex() == key


def test_certificates_and_signatures_have_the_fields_of_the_page() -> None:
    text = section("Epochs")
    certified, signed = text.split(f"`{epochs.EPOCH_KIND}`")
    schedule = Schedule.begin(USER, "uuid", epochs=1)
    (batch,) = verify_certificates(schedule.certificates, USER.public, "uuid")
    (signature,) = json.loads(schedule.seal("test", b""))["signatures"]

    assert f"`{epochs.BATCH_TYPE}`" in certified
    assert table(certified) == list(json.loads(batch.to_payload()))
    assert len(table(certified)) == len(fields(Batch))
    assert table(signed) == list(signature["extension"]["ext"])
    assert [*table(signed), "signature"] == [field.name for field in fields(EpochSignature)]
    assert signature["extension"]["kind"] == epochs.EPOCH_KIND
    assert set(signature) == {"extension", "sig"}


def test_the_lengths_of_epochs_are_those_of_the_code() -> None:
    text = " ".join(section("Epochs").split())

    assert f"batches of {EPOCHS}." in text
    assert (
        f"Until a recording is {SHORT_EPOCH_S / AGE_SHARE:.0f} seconds old its epochs are {SHORT_EPOCH_S:.0f} second"
        f" long, later 1/{1 / AGE_SHARE:.0f} of its age"
    ) in text


def test_leaves_are_those_of_the_page() -> None:
    text = part("Leaves")

    assert f"`{LEAF.format}`" in text
    assert f"A leaf is {LEAF.size} bytes" in text
    assert re.findall(r"^\| (\d), (\w+) \|", text, re.MULTILINE) == [
        (str(int(LeafKind.EVENTS)), "events"),
        (str(int(LeafKind.CHECKPOINT)), "checkpoint"),
    ]
    assert f"`{FRAME.magic.decode()}`, version {FRAME.version}" in text
    assert f"`{FRAME.fields.format}`" in text


def test_heads_have_the_fields_of_the_page() -> None:
    text = part("Heads")
    names = re.findall(r"`(\w+)`", text.partition("| field | |")[2].partition("\n\n")[0])

    assert {name for name in names if name in Head.__slots__} == set(Head.__slots__)
    assert {name for name in names if name in Evicted.__slots__} == set(Evicted.__slots__)
    assert all(f"`{name}`" in text for name in End.__slots__)
    assert f"`{HEAD_TYPE}`" in text
    assert f"`{END_TYPE}`" in text


def test_proofs_have_the_fields_of_the_page(proof: EventProof) -> None:
    text = part("The proof of an event")
    made = json.loads(proof.to_json())

    assert set(table(text)) == set(made)
    assert all(f"`{name}`" in text for name in (*made["leaf"], *made["block"]))
    assert f"`{FORM}`" in text
