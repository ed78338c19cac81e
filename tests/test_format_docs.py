"""The pages that describe the format on disk, against the code that reads and writes it."""

from __future__ import annotations

import re
from hashlib import blake2b
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from revirt.checkpoint import format as checkpoint_format
from revirt.checkpoint.format import CHECKPOINT_FRAME, CHUNK_ENTRY, PAGES_FRAME
from revirt.core import UNICORN_VERSION
from revirt.index import counting
from revirt.index import format as index_format
from revirt.log import columns, events, frame, segment
from revirt.log.events import LINE_LIMIT, Event, Kind
from revirt.log.frame import Frame
from revirt.log.rows import MAX_DATA, rows_of
from revirt.log.strict_json import NESTING_LIMIT
from revirt.machine import pit, uart
from revirt.machine.config import MachineConfig
from revirt.machine.model import MODEL
from revirt.recording import layout, manifest, pack_format
from revirt.seal import leaves

DOCS = Path(__file__).parent.parent / "docs"
LOG = (DOCS / "log-format.md").read_text()
CHECKPOINT = (DOCS / "checkpoint-format.md").read_text()
PACK = (DOCS / "pack-format.md").read_text()
INDEX = (DOCS / "index-format.md").read_text()


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
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.+) \| (.+) \|$", LOG, re.MULTILINE)

    assert [(int(kind), name) for kind, name, *_ in rows] == [(kind.value, kind.name) for kind in Kind]
    carried = re.findall(r"^    ([A-Z_]+)  +(\S.*?)  +(\S.*?)  +\S", str(events.__doc__), re.MULTILINE)
    assert {name: (number, data) for _, name, number, data in rows if name != "STORED"} == {
        name: (number, data) for name, number, data in carried if name != "STORED"
    }
    assert events.STORED_DATA.format == "<BI8s"


def test_the_limits_of_a_segment_are_those_of_the_code() -> None:
    assert f"1 to {columns.MAX_EVENTS}" in LOG
    assert f"at most {MAX_DATA} bytes" in LOG
    assert f"at most {manifest.SIZE_LIMIT} bytes" in LOG
    assert f"at most {NESTING_LIMIT} levels" in LOG


def test_the_example_is_what_the_code_makes_of_it() -> None:
    example = LOG.split("are these 19 bytes:")[1].split("```")[1]
    lines = [line[:28] for line in example.splitlines()]
    events = [Event(Kind.INTERRUPT, branches, False, 4096, 7, 48) for branches in (500, 900)]

    assert columns.encode(rows_of(events)) == bytes.fromhex("".join(lines))


def test_the_fields_of_the_manifest_are_those_of_the_code() -> None:
    made = manifest.Manifest(guest={}, machine={}, clock="host", versions={}, command=[])
    written = re.findall(r'^  "(\w+)":', made.to_json(), re.MULTILINE)

    assert re.findall(r"^\| `(\w+)` \| ", LOG.split("## The manifest")[1], re.MULTILINE) == written


def test_the_table_of_versions_is_that_of_the_code() -> None:
    versions = {
        "format": manifest.FORMAT_VERSION,
        "segment": segment.FRAME.version,
        "checkpoint": CHECKPOINT_FRAME.version,
        "pages": PAGES_FRAME.version,
        "pack": pack_format.VERSION,
        "leaves of a seal": leaves.FRAME.version,
        "machine model": MODEL,
    }
    section = LOG.split("## Versions")[1]

    for what, version in versions.items():
        assert re.search(rf"^\| {what} \| .* \| {version} \|$", section, re.MULTILINE), what


def test_the_machine_on_the_page_is_that_of_the_code() -> None:
    section = LOG.split("## The machine")[1].split("## Versions")[0]
    config = MachineConfig(memory=1 << 20, clock="virtual", epoch=0, ns_per_branch=10)
    items = "".join(line for line in section.splitlines() if line.startswith("- "))

    assert set(re.findall(r"`(\w+)`", items)) >= set(config.to_plain())
    assert f"- `model`: {MODEL};" in section
    assert f"| | model {MODEL} |" in section
    for number in (pit.FREQUENCY, uart.BACKLOG_SIZE, LINE_LIMIT):
        assert f" {number} " in section


def test_the_parts_of_a_state_are_those_of_the_code() -> None:
    section = CHECKPOINT.split("### The state")[1].split("\n## ")[0]
    core_magic = f"rvCPU{UNICORN_VERSION.replace('.', '')}"

    assert re.findall(r"^\| `(\w+)` \| ", section, re.MULTILINE) == [
        "versions",
        "cpu",
        "clock",
        "run",
        "devices",
    ]
    assert f"`{core_magic}`, for Unicorn {UNICORN_VERSION}" in section


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


def test_the_pack_page_has_the_header_of_the_code() -> None:
    table = PACK.split("offset  size  field     contents\n")[1].split("```")[0]
    rows = [(int(offset), int(size)) for offset, size in re.findall(r"^(\d+) +(\d+) ", table, re.MULTILINE)]

    sizes = re.findall(r"(\d+)[sx]", pack_format.HEADER.format)

    assert f"`{pack_format.HEADER.format}`" in PACK
    assert [size for _, size in rows] == list(map(int, sizes))
    assert [offset for offset, _ in rows] == list(accumulate(map(int, sizes), initial=0))[:-1]
    assert sum(map(int, sizes)) == pack_format.BLOCK


def test_the_pack_page_has_the_fields_that_headers_have() -> None:
    table = PACK.split("offset  size  field     contents\n")[1].split("```")[0]
    header = pack_format.encode_header("name", 0o1234567)

    for row in table.splitlines():
        start, size, name, contents = int(row[:8]), int(row[8:14]), row[14:24].strip(), row[24:]
        field = header[start : start + size]
        text = contents.split()[0].encode()
        if contents == "zeros":
            assert field == bytes(len(field)), name
        elif contents.endswith("and a zero byte"):
            assert field == text + b"\0", name
        elif name in ("typeflag", "version"):
            assert field == text, name
    assert header[124:136] == b"00001234567\0"
    assert int(header[148:154], 8) == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def test_the_pack_page_has_names_limits_and_version_of_the_code() -> None:
    assert f"has the version of the format, {pack_format.VERSION}." in PACK
    assert f"ASCII text, at most {pack_format.INDEX_LIMIT} bytes" in PACK
    assert f"at most {pack_format.MEMBER_LIMIT}\n" in PACK
    assert f"{len(pack_format.END)} zeros" in PACK
    assert f"`{pack_format.INDEX_NAME}`, and the recording, `{pack_format.ROOT}/`" in PACK


def test_the_pack_page_lists_the_files_that_a_recording_may_have() -> None:
    rows = re.findall(r"^\| `(\w+)/` \| `([\w.]+)` \.\.\. \|$", PACK, re.MULTILINE)

    assert [directory for directory, _ in rows] == sorted(layout.DIRECTORIES)
    assert all(layout.is_member(f"{directory}/{name}") for directory, name in rows)


def test_the_index_on_the_pack_page_is_what_the_code_makes_of_it() -> None:
    example = PACK.split("it would be:\n\n```\n")[1].split("```")[0]
    contents = {manifest.NAME: b"{", "log/00000000.seg": b""}
    members = [
        pack_format.Member(name, len(data), blake2b(data, digest_size=32).digest())
        for name, data in contents.items()
    ]

    assert pack_format.Index.of(Path("x"), members).data.decode() == example


def test_the_file_of_intervals_is_that_of_the_code() -> None:
    frame_of = index_format.FRAME
    fields = re.search(r"^fields +(.*?)^payload", INDEX, re.MULTILINE | re.DOTALL)
    assert fields is not None
    names = [
        name.replace(" ", "_")
        for name in re.findall(r"^ *(\w+(?: \w+)?) +(?:u\d+|16s)  ", fields[1], re.MULTILINE)
    ]

    assert names == list(index_format.StretchHeader.__slots__)
    assert f"magic     {frame_of.magic.decode()}, version {frame_of.version}\n" in INDEX
    assert f"The fields are `{frame_of.fields.format}`" in INDEX
    assert f"(`{index_format._IDENTITY.format}`)" in INDEX
    assert f"at most {frame_of.raw_limit} bytes" in INDEX
    assert f"more than {index_format.MAX_COUNTS}" in INDEX
    assert f"about {counting.SPACING:,} branches" in INDEX
    assert (index_format.FIRST_ID, index_format.STRETCH_BITS) == (1 << 60, 32)
