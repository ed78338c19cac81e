"""The screen as a picture, drawn without a terminal."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

from revirt.debugger.screen.app import Debugger
from revirt.debugger.session import Session

_LEFT_OUT = re.compile(
    r"\s*@font-face \{.*?\}"
    r'|\s*<clipPath id="[\w-]+-line-\d+">.*?</clipPath>'
    r'| clip-path="url\(#[\w-]+-line-\d+\)"'
    r"|terminal-\d+-",
    re.DOTALL,
)
"""Fonts, for a picture fetches nothing from anywhere; what lines are cut to, for they are not longer; a prefix."""
_CELLS = '<rect fill="{0}"[^>]* shape-rendering="crispEdges"/>'
"""Cells side by side with a background of that colour."""


def take_screenshot(session: Session, path: Path, size: tuple[int, int], first: str = "") -> None:
    """Write the screen of *session*, of so many columns and lines, to *path* as SVG."""
    path.write_text(asyncio.run(_draw(session, size, first)), encoding="utf-8")


async def _draw(session: Session, size: tuple[int, int], first: str) -> str:
    app = Debugger(session, first)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        drawn = app.export_screenshot(title=f"revirt debug {session.recording.path.name}")
    return _smaller(drawn)


def _smaller(drawn: str) -> str:
    """Return the picture *drawn* in a third of the bytes: cells with the colour of most of them are one rectangle."""
    drawn = _LEFT_OUT.sub("", drawn).replace("&#160;", "\xa0")
    ((colour, _),) = Counter(re.findall(_CELLS.format("(#[0-9a-f]{6})"), drawn)).most_common(1)
    whole = f'<rect fill="{colour}" width="100%" height="100%"/>'
    head, group, cells = drawn.partition('clip-path="url(#clip-terminal)">')
    return head + group + whole + re.sub(_CELLS.format(colour), "", cells)
