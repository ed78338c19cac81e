"""The pages that describe the format on disk, against the code that reads and writes it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from revirt.checkpoint import format as checkpoint_format
from revirt.checkpoint.format import CHECKPOINT_FRAME, CHUNK_ENTRY, PAGES_FRAME
from revirt.log import columns, frame, segment
from revirt.log.events import Event, Kind
from revirt.log.frame import Frame
from revirt.log.rows import MAX_DATA, rows_of
from revirt.recording import manifest

DOCS = Path(__file__).parent.parent / "docs"
LOG = (DOCS / "log-format.md").read_text()
CHECKPOINT = (DOCS / "checkpoint-format.md").read_text()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("segment", segment.FRAME), ("checkpoint", CHECKPOINT_FRAME), ("pages", PAGES_FRAME)],
)
def test_the_table_of_frames_is_that_of_the_code(name: str, kind: Frame) -> None:
    row = f"| {name} | `{kind.magic.decode()}` | {kind.version} | `{kind.fields.format}` | {kind.raw_limit} bytes |"

    assert row in LOG


def test_the_layout_of_the_frame_adds_up() -> None:
    table = LOG.split("offset  size  field")[1].split("```")[0]
    rows = re.findall(r"^(\d+) +(\d+|\.\.\.) ", table, re.MULTILINE)

    assert f"`{frame.PREFIX.format}`" in LOG
    assert rows[-1] == (str(frame.PREFIX.size), "...")
    for (offset, size), (following, _) in pairwise(rows):
        assert int(offset) + int(size) == int(following)


def test_the_kinds_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|$", LOG, re.MULTILINE)

    assert [(int(number), name) for number, name in rows] == [(kind.value, kind.name) for kind in Kind]


def test_the_limits_of_a_segment_are_those_of_the_code() -> None:
    assert f"1 to {columns.MAX_EVENTS}" in LOG
    assert f"at most {MAX_DATA} bytes" in LOG
    assert f"at most {manifest.SIZE_LIMIT} bytes" in LOG


def test_the_example_is_what_the_code_makes_of_it() -> None:
    example = LOG.split("are these 19 bytes:")[1].split("```")[1]
    lines = [line[:28] for line in example.splitlines()]
    events = [Event(Kind.INTERRUPT, branches, False, 4096, 7, 48) for branches in (500, 900)]

    assert columns.encode(rows_of(events)) == bytes.fromhex("".join(lines))


def test_the_fields_of_the_manifest_are_those_of_the_code() -> None:
    made = manifest.Manifest(guest={}, machine={}, clock="host", versions={}, command=[])
    written = re.findall(r'^  "(\w+)":', made.to_json(), re.MULTILINE)

    assert re.findall(r"^\| `(\w+)` \| ", LOG.split("## The manifest")[1], re.MULTILINE) == written


def test_the_checkpoint_page_names_the_formats_of_the_code() -> None:
    assert f"`{CHECKPOINT_FRAME.fields.format}`" in CHECKPOINT
    assert f"`{PAGES_FRAME.fields.format}`" in CHECKPOINT
    assert f"`{CHUNK_ENTRY.format}`" in CHECKPOINT
    assert f"├────────────────────────┤ {PAGES_FRAME.header_size}\n" in CHECKPOINT
    assert f"{checkpoint_format.CHUNK_PAGES} pages of {checkpoint_format.PAGE_SIZE} bytes" in CHECKPOINT
    assert f"bytes, at most {checkpoint_format.MAX_STATE}" in CHECKPOINT
    assert f"pages, at most {checkpoint_format.MAX_PAGES}" in CHECKPOINT


def test_the_fields_of_a_checkpoint_are_as_wide_as_the_code_says() -> None:
    table = CHECKPOINT.split("payload   state")[0]
    widths = {"u8": "B", "u32": "I", "u64": "Q"}

    found = "".join(widths[width] for width in re.findall(r"  (u8|u32|u64)  ", table))

    assert f"<{found}" == CHECKPOINT_FRAME.fields.format
