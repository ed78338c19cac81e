"""The full-screen program.

Commands run on one thread, which owns the session; the screen's own thread only draws what that one gathered, so it
answers keys whatever the guest does meanwhile.  One command at a time: a command line that is entered while one runs
waits for it, a key that is pressed is not kept, so that holding one down does not run on behind.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import ClassVar, TypeVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from revirt.debugger.commands import Command
from revirt.debugger.plain import error_text
from revirt.debugger.screen.keys import BY_KEY, KEYS
from revirt.debugger.screen.panes import (
    Clicked,
    CodePane,
    ConsolePane,
    EventsPane,
    MemoryPane,
    Pane,
    RegistersPane,
    StackPane,
    TimelineBar,
)
from revirt.debugger.screen.prompt import Prompt
from revirt.debugger.screen.view import View, Viewer
from revirt.debugger.session import Session
from revirt.debugger.table import TABLE, QuitError
from revirt.errors import RevirtError

_CHOICES = ("memory", "stack", "console", "events")
_BROAD = 150
"""Columns from which on all panes fit side by side."""
_MOST_WAITING = 20
_BUSY = "busy; Ctrl-C ends a search"
_PATIENCE_S = 0.2
"""How long a command may take before the screen says that it is busy."""
T = TypeVar("T")


class Answer(ModalScreen[None]):
    """An answer of more than a line, over the panes; any key of those below closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,question_mark", "dismiss", show=False)]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """Make the box."""
        with VerticalScroll() as box:
            box.border_title = self._title
            box.border_subtitle = "Esc closes"
            yield Static(Text(self._text), markup=False)


class Debugger(App[int]):
    """The debugger's screen for *session*; its result is the exit status.  *first* is said at the beginning."""

    CSS_PATH = "debugger.tcss"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_BROAD, "-broad")]  # noqa: RUF012, as Textual declares it
    # The command line takes what is typed only while it is open.
    AUTO_FOCUS = None
    # With priority: others are looked at only when the next keys may have come already.
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key.binding, f"key({key.key!r})", show=False, priority=True) for key in KEYS),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("escape", "close", show=False),
    ]

    def __init__(self, session: Session, first: str = "") -> None:
        super().__init__()
        self._session = session
        self._first = first
        self._viewer = Viewer(session)
        self._executor = ThreadPoolExecutor(1)
        self._doing: str | None = None
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._began_s = 0.0
        self._chosen = _CHOICES[0]
        self._scrolled = 0
        self._panes: list[Pane] = []
        self._status = Static(id="status", markup=False)
        self._prompt = Prompt(self._completions)

    def compose(self) -> ComposeResult:
        """Make the panes."""
        bar = TimelineBar()
        panes = [CodePane(), RegistersPane(), MemoryPane(), ConsolePane(), StackPane(), EventsPane()]
        self._panes = [bar, *panes]
        yield bar
        yield Container(*panes, id="panes")
        yield self._status
        yield self._prompt

    async def on_mount(self) -> None:
        """Draw the first view."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, 128 + number)
        self.set_interval(_PATIENCE_S, self._tell_progress)
        self.action_pane(self._chosen)
        self._show(await self._on_thread(self._view))
        self._say(self._first or "? lists keys and commands")

    def on_unmount(self) -> None:
        """Let go of the thread."""
        last = self._executor.submit(lambda: None)
        # Again and again: a search that is only about to begin does not notice.
        while not wait([last], timeout=_PATIENCE_S).done:
            self._session.interrupt()
        self._executor.shutdown()

    # -- commands ----------------------------------------------------------------------------------------------

    def execute(self, line: str) -> None:
        """Run the command *line*, unless one runs already."""
        if self._doing is not None:
            self._say(_BUSY, is_error=True)
            return
        self._doing, self._began_s = line, time.monotonic()
        self.run_worker(self._execute(line))

    async def _execute(self, line: str) -> None:
        try:
            command, answer, view = await self._on_thread(lambda: self._work(line))
        except QuitError:
            self.exit(0)
            return
        except RevirtError as error:
            command, answer, view = None, "", None
            problem = error_text(error)
            try:
                # It may have gone some of the way.
                view = await self._on_thread(self._view)
            except RevirtError as another:
                problem = error_text(another)
            self._waiting.clear()
            self._say(problem, is_error=True)
        finally:
            self._doing = None
        if view is not None:
            self._show(view)
        if command is not None:
            self._answer(command, answer)
        if self._waiting:
            self.execute(self._waiting.popleft())

    def _work(self, line: str) -> tuple[Command | None, str, View]:
        """Run the command *line*; on the session's thread."""
        words = line.split()
        command = TABLE.find(words[0]) if words else None
        answer = TABLE.run(self._session, line)
        return command, answer, self._view()

    def _view(self) -> View:
        return self._viewer.view(self._scrolled)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _answer(self, command: Command, answer: str) -> None:
        lines = answer.splitlines()
        if command.moves or len(lines) <= 1:
            self._say("  ".join(lines))
        else:
            self.push_screen(Answer(command.name, answer))

    def _tell_progress(self) -> None:
        """Say how far the command is that runs, if it takes long."""
        if self._doing is None or self._prompt.display or time.monotonic() - self._began_s < _PATIENCE_S:
            return
        bar, branches = self._panes[0].view, self._session.branches
        share = ""
        if bar is not None:
            done = (branches - bar.bar.start) / (bar.bar.end - bar.bar.start)
            share = f" ({min(max(done, 0), 1):.0%})"
        self._say(f"{self._doing} .. at {branches:,}{share}  Ctrl-C ends a search")

    def _say(self, text: str, *, is_error: bool = False) -> None:
        self._status.set_class(is_error, "-error")
        self._status.update(Text(text, no_wrap=True, overflow="ellipsis"))

    def _show(self, view: View) -> None:
        for pane in self._panes:
            pane.show(view)

    def _end(self, status: int) -> None:
        self.exit(status)

    # -- keys and clicks ---------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave keys to the command line, or to what is over the panes, if there is such a thing."""
        if action == "key":
            return not self._prompt.display and len(self.screen_stack) == 1
        return super().check_action(action, parameters)

    async def action_key(self, key: str) -> None:
        """Do what *key* is for."""
        does = BY_KEY[key]
        if does.command == "quit" and self._doing is not None:
            # A search would keep it waiting.
            self._session.interrupt()
            self.exit(0)
        elif does.command:
            self.execute(does.command)
        elif does.begins is not None:
            self._open_prompt(does.begins)
        else:
            await self.run_action(does.action)

    def _open_prompt(self, text: str) -> None:
        self._say("")
        self._prompt.open(text)

    async def _completions(self, text: str) -> list[str]:
        """Return what the command line *text* may become, and list that if there is a choice."""
        if self._doing is not None:
            return []
        choices = await self._on_thread(lambda: TABLE.completions(self._session, text))
        self._say("  ".join(each.rpartition(" ")[2] for each in choices) if len(choices) > 1 else "")
        return choices

    @on(Prompt.Submitted)
    def _submit(self, event: Prompt.Submitted) -> None:
        self._prompt.remember(event.value)
        self._prompt.close()
        if not event.value.strip():
            return
        if self._doing is not None:
            self._waiting.append(event.value)
        else:
            self.execute(event.value)

    @on(Clicked)
    def _go_where_clicked(self, clicked: Clicked) -> None:
        self.execute(clicked.command)

    # -- actions -----------------------------------------------------------------------------------------------

    def action_interrupt(self) -> None:
        """End the search that is on, or close the command line."""
        if self._prompt.display:
            self._prompt.close()
        elif self._doing is not None:
            self._waiting.clear()
            self._session.interrupt()
        else:
            self._say("q leaves")

    def action_close(self) -> None:
        """Close the command line, or end the search that is on."""
        if self._prompt.display or self._doing is not None:
            self.action_interrupt()

    def action_next_pane(self) -> None:
        """Show the next pane."""
        self.action_pane(_CHOICES[(_CHOICES.index(self._chosen) + 1) % len(_CHOICES)])

    def action_pane(self, name: str) -> None:
        """Show the pane *name* where there is space for one of them."""
        self._chosen = name
        for each in _CHOICES:
            self.query_one(f"#{each}").set_class(each == name, "-chosen")

    def action_scroll(self, count: int) -> None:
        """Move memory by *count* bytes."""
        if self._doing is None:
            self._scrolled += count
            self.execute("")

    def action_help(self) -> None:
        """List keys and commands."""
        keys = "\n".join(f"{key.label:<7} {key.summary}" for key in KEYS)
        self.push_screen(Answer("help", f"{keys}\n\n{TABLE.run(self._session, 'help')}"))


def run_screen(session: Session, first: str = "") -> int:
    """Show *session* on the terminal until its user leaves; return the exit status."""
    app = Debugger(session, first)
    # Textual has shown an exception that nothing expected when it returns; only its own code says so.
    return app.run() or app.return_code or 0
