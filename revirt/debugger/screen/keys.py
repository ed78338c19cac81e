"""What each key does: a command, the beginning of one, or something about the screen itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """A *key*, by its character or Textual's name for it; one of the other three says what it does."""

    key: str
    summary: str
    command: str = ""
    begins: str | None = None
    action: str = ""

    @property
    def label(self) -> str:
        """The key as people call it."""
        return _LABELS.get(self.key, self.key)

    @property
    def binding(self) -> str:
        """The key as Textual binds it."""
        return "comma" if self.key == "," else self.key


_LABELS = {
    "tab": "Tab",
    "escape": "Esc",
    "ctrl+c": "Ctrl-C",
    "ctrl+r": "Ctrl-R",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "up": "Up",
    "down": "Down",
}

KEYS = (
    Key("s", "an instruction on", "step"),
    Key("S", "an instruction back", "step-back"),
    Key("n", "an instruction on, over what it calls", "next"),
    Key("N", "an instruction back, over a call that has just returned", "next-back"),
    Key("f", "on to where this function has returned", "finish"),
    Key("F", "back to the call of this function", "back-out"),
    Key("c", "on to a breakpoint, or to the end", "continue"),
    Key("C", "back to a breakpoint, or to the start", "reverse-continue"),
    Key("g", "to the start", "seek start"),
    Key("G", "to the end", "seek end"),
    Key("]", "to the next event", "event +1"),
    Key("[", "to the event before", "event -1"),
    Key("u", "undo: to where one stood before", "back"),
    Key("ctrl+r", "redo: again to where u came from", "forward"),
    Key("/", "search on", begins="search "),
    Key("\\", "search back", begins="search-back "),
    Key(";", "the last search once more", "again"),
    Key(",", "the last search once more, the other way", "again-back"),
    Key("b", "a breakpoint at this instruction", "break"),
    Key("m", "bookmark this position", begins="bookmark "),
    Key("'", "go to a bookmark", begins="goto "),
    Key("x", "let memory follow an expression", begins="memory "),
    Key(":", "a command", begins=""),
    Key("tab", "the next pane; in a command line, complete it", action="next_pane"),
    Key("1", "memory", action="pane('memory')"),
    Key("2", "the stack", action="pane('stack')"),
    Key("3", "the console", action="pane('console')"),
    Key("4", "events", action="pane('events')"),
    Key("up", "memory by a line, in a command line the one before", action="scroll(-16)"),
    Key("down", "the same the other way", action="scroll(16)"),
    Key("pageup", "memory by a page", action="scroll(-256)"),
    Key("pagedown", "the same the other way", action="scroll(256)"),
    Key("ctrl+c", "end the search or the seek that is on", action="interrupt"),
    Key("escape", "the same; close what is open", action="close"),
    Key("?", "keys and commands", action="help"),
    Key("q", "leave", "quit"),
)

BY_KEY = {each.key: each for each in KEYS}
