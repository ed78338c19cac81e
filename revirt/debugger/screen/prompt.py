"""The command line at the bottom: it completes, and remembers what was typed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import takewhile

from textual import events
from textual.widgets import Input

from revirt.debugger.commands import LONGEST

_REMEMBERED = 500

Completer = Callable[[str], Awaitable[list[str]]]
"""Returns what a line may become."""


class Prompt(Input):
    """A line that is open or not; Enter submits it, Up and Down go through those before."""

    def __init__(self, completer: Completer) -> None:
        super().__init__(id="prompt", compact=True, max_length=LONGEST, select_on_focus=False)
        self.display = False
        self._completer = completer
        self._before: list[str] = []
        self._place = 0

    def open(self, text: str) -> None:
        """Open it with *text* in it."""
        self.display = True
        self._place = len(self._before)
        self._set(text)
        # Not focus(), which waits for what was typed already.
        self.screen.set_focus(self)

    def close(self) -> None:
        """Close it and forget what stands in it."""
        self.screen.set_focus(None)
        self.display = False
        self.value = ""

    def remember(self, text: str) -> None:
        """Keep *text* to come back to."""
        if text and self._before[-1:] != [text]:
            self._before = [*self._before, text][-_REMEMBERED:]

    async def on_key(self, event: events.Key) -> None:
        """Complete it, or go through the lines before."""
        step = {"up": -1, "down": 1}.get(event.key)
        if event.key == "tab":
            # Here, in the order of the keys: what is typed next waits.
            self._complete(await self._completer(self.value))
        elif step is not None and self._before:
            self._place = min(max(self._place + step, 0), len(self._before))
            self._set(self._before[self._place] if self._place < len(self._before) else "")
        else:
            return
        event.prevent_default()
        event.stop()

    def _complete(self, choices: list[str]) -> None:
        """Write what all *choices* begin with, if that is more than what stands there."""
        same = takewhile(lambda characters: len(set(characters)) == 1, zip(*choices, strict=False))
        common = "".join(characters[0] for characters in same)
        if len(common) > len(self.value):
            self._set(common)
        if len(choices) == 1 and not self.value.endswith((" ", ":")):
            self._set(self.value + " ")

    def _set(self, text: str) -> None:
        self.value = text
        self.cursor_position = len(text)
