"""Links in the documents lead somewhere, and what the documents list is what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "logs/README.md", "logs/v1/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
GUESTS = sorted((ROOT / "guests").glob("*/guest.toml"))

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_SOURCE = re.compile(r"`((?:revirt|tests|tools|guests|docs)/[\w./-]+)`")


def anchors(document: Path) -> set[str]:
    """Return the anchors that headings of *document* get: lower case, spaces as dashes, punctuation dropped."""
    titles = re.findall(
        r"^#+ (.*)$", _CODE.sub(lambda code: code[0].strip("`"), document.read_text()), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in _LINK.findall(_CODE.sub("", document.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document

        assert target.exists(), f"{document.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{document.name} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_source_files_that_are_named_exist(document: Path) -> None:
    missing = [name for name in _SOURCE.findall(document.read_text()) if not (ROOT / name).exists()]

    assert missing == []


@pytest.mark.parametrize("description", GUESTS, ids=lambda path: path.parent.name)
def test_guests_page_says_of_every_guest_what_its_description_says(description: Path) -> None:
    guest = tomllib.loads(description.read_text())

    page = (ROOT / "docs" / "guests.md").read_text()

    assert f"| `{guest['name']}` | {guest['summary']} |" in page


def test_guests_page_lists_no_guest_that_is_not_there() -> None:
    page = (ROOT / "docs" / "guests.md").read_text()
    section = page.partition("## The bundled guests\n")[2].partition("\n## ")[0]

    listed = re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)

    assert listed == [path.parent.name for path in GUESTS]


def test_every_document_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()

    missing = [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in readme]

    assert missing == []
