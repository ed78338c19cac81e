"""The screen as a picture, drawn without a terminal."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from revirt.debugger.screen.app import Debugger
from revirt.debugger.session import Session

_LEFT_OUT = re.compile(
    r"\s*@font-face \{.*?\}"
    r'|\s*<clipPath id="[\w-]+-line-\d+">.*?</clipPath>'
    r'| clip-path="url\(#[\w-]+-line-\d+\)"',
    re.DOTALL,
)
"""Fonts, for a picture fetches nothing from anywhere, and what lines are cut to: they are not longer."""


def take_screenshot(session: Session, path: Path, size: tuple[int, int], first: str = "") -> None:
    """Write the screen of *session*, of so many columns and lines, to *path* as SVG."""
    path.write_text(asyncio.run(_draw(session, size, first)))


async def _draw(session: Session, size: tuple[int, int], first: str) -> str:
    app = Debugger(session, first)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        drawn = app.export_screenshot(title=f"revirt debug {session.recording.path.name}")
    return _LEFT_OUT.sub("", drawn).replace("terminal-", "t")
