"""What commands have in common that run a guest live: how to record, who types, how it ended."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from revirt.cli.display import Desk
from revirt.cli.signals import OrderlyStop
from revirt.errors import RecordingExistsError, RevirtError, UsageError
from revirt.image import parse_size
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole, PipeConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import CHECKPOINT_EVERY, RecordOptions, RunSummary
from revirt.monitor.terminal import BANNER, TerminalConsole
from revirt.monitor.trigger import AFTER_NS, Trigger, TriggerOptions
from revirt.recording import Recording, RingLimits, new_path
from revirt.render import (
    Format,
    Progress,
    duration,
    emit_record,
    grouped,
    is_terminal,
    print_warnings,
    printable,
    progress,
    size,
    styled,
)
from revirt.seal.keys import load_private

GOOD_EXIT_CODES = (0x00, 0x10)
"""What a guest writes to the debug-exit port when all went well; 0x10 is the custom of test kernels."""

_STATUS_OF_REASON = {
    "escape key": 128 + signal.SIGINT,
    "terminal went away": 128 + signal.SIGHUP,
    "output closed": 128 + signal.SIGPIPE,
}


class RunIn(Protocol):
    """Runs a guest with a console and records it in a directory, or nowhere."""

    def __call__(
        self,
        console: NullConsole,
        options: RecordOptions,
        directory: Path | None,
        *,
        progress: Progress | None,
        command: Sequence[str],
        on_start: Callable[[Callable[[str], None]], None],
    ) -> RunSummary: ...


def run_live(
    arguments: argparse.Namespace,
    name: str,
    console: NullConsole,
    options: RecordOptions,
    run_in: RunIn,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Run a guest by *run_in*, recorded under a name made of *name* unless *arguments* say; return the exit status.

    *facts* are printed with what the run came to, as JSON only.
    """
    place = _Place(arguments, name)
    if isinstance(console, TerminalConsole):
        print(f"revirt: {printable(name)}; {BANNER}", file=sys.stderr)
    # Progress and the guest's console on one terminal would overwrite each other.
    is_shown = arguments.form is not Format.TABLE or not is_terminal(sys.stdout)
    at_force = console.restore if isinstance(console, TerminalConsole) else _nothing
    shown_as = progress(name, is_wanted=is_shown)
    wired = _wired(options.trigger, "signal" in (arguments.trigger or ()))
    with _salvaged(place), console, OrderlyStop(at_force) as stop, wired, shown_as as shown:
        summary = place.fill(
            lambda directory: run_in(
                console, options, directory, progress=shown, command=arguments.command, on_start=stop.arm
            )
        )
    with suppress(OSError):  # the terminal may have gone
        if isinstance(console, TerminalConsole):
            print(file=sys.stderr)  # the guest's last line, a prompt perhaps, is not over
        _report(summary, arguments.form, facts)
        print_warnings(summary.warnings)
    return stop.exit_status or exit_status(summary)


def options_of(arguments: argparse.Namespace, clock: ClockMode) -> RecordOptions:
    """Return how to record; raises UsageError for options that do not go together, KeyFileError for a key."""
    if arguments.no_record and arguments.output:
        raise UsageError("--no-record writes nothing, so -o has no meaning")
    return RecordOptions(
        clock=clock,
        until=arguments.until,
        digest_every=arguments.digest_every,
        checkpoint_every=arguments.checkpoint_every or CHECKPOINT_EVERY,
        limits=_limits(arguments),
        trigger=_trigger(arguments),
        sign=_key(arguments),
    )


def _limits(arguments: argparse.Namespace) -> RingLimits | None:
    if arguments.log_size is None and arguments.keep is None:
        return None
    if arguments.no_record:
        raise UsageError("--no-record writes nothing, so --log-size and --keep have no meaning")
    size = parse_size(arguments.log_size) if arguments.log_size is not None else None
    if size == 0:
        raise UsageError("--log-size 0 keeps nothing", hint="write bytes, or a number with K, M or G: 256M")
    return RingLimits(size, arguments.keep)


def _key(arguments: argparse.Namespace) -> Path | None:
    """Return the file of the key to sign with; raises KeyFileError if that will not do, before the guest is loaded."""
    path: Path | None = arguments.sign
    if path is not None:
        if arguments.no_record:
            raise UsageError("--no-record writes nothing, so --sign has no meaning")
        load_private(path)
    return path


def _trigger(arguments: argparse.Namespace) -> Trigger | None:
    if not arguments.trigger:
        if arguments.after is not None:
            raise UsageError("--after says how long after a --trigger to end; there is none")
        return None
    patterns, exits, crash = [], set[int](), False
    for text in arguments.trigger:
        what, _, argument = text.partition(":")
        match what:
            case "crash" if text == "crash":
                crash = True
            case "signal" if text == "signal":
                pass  # see _wired
            case "exit" if text == "exit":
                exits.update(range(256))
            case "exit":
                exits.add(_exit_code(argument))
            case "console" if argument:
                patterns.append(_pattern(argument))
            case _:
                raise UsageError(
                    f"--trigger {text!r}: not something to wait for",
                    hint="write crash, exit, exit:CODE, console:REGEX or signal",
                )
    after_ns = arguments.after if arguments.after is not None else AFTER_NS
    return Trigger(TriggerOptions(tuple(patterns), crash, frozenset(exits) or None, after_ns))


def _exit_code(text: str) -> int:
    try:
        code = int(text, 0)
    except ValueError:
        code = -1
    if not 0 <= code <= 255:
        raise UsageError(f"--trigger exit:{text}: an exit code is a number from 0 to 255, as 0x10")
    return code


def _pattern(text: str) -> re.Pattern[bytes]:
    try:
        return re.compile(text.encode())
    except re.error as error:
        raise UsageError(f"--trigger console:{text}: not a regular expression: {error}") from error


@contextmanager
def _wired(trigger: Trigger | None, wants_signal: bool) -> Iterator[None]:
    """Let SIGUSR1 fire *trigger*, if that is wanted."""
    if trigger is None or not wants_signal:
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda *_: trigger.fire("SIGUSR1"))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class _Place:
    """Where to record; ``path`` is None for nowhere."""

    def __init__(self, arguments: argparse.Namespace, name: str) -> None:
        self.path: Path | None = None if arguments.no_record else arguments.output or new_path(name)
        self._name = None if arguments.output else name

    def fill(self, run_in: Callable[[Path | None], RunSummary]) -> RunSummary:
        """Run and record here; a name of our own that another recorder has just taken is replaced by the next."""
        while True:
            try:
                return run_in(self.path)
            except RecordingExistsError:
                if self._name is None:
                    raise
                self.path = new_path(self._name)


def exit_status(summary: RunSummary) -> int:
    """Return the exit status for a run that ended as *summary* says."""
    if summary.exit_code is not None:
        return 0 if summary.exit_code in GOOD_EXIT_CODES else 1
    if summary.crashed or summary.reason.startswith("output failed"):
        return 1
    return _STATUS_OF_REASON.get(summary.reason, 0)


def _nothing() -> None:
    """What is to be done about a terminal that is not there."""


@contextmanager
def _salvaged(place: _Place) -> Iterator[None]:
    """Say, when a run fails, that what was recorded up to there can be replayed."""
    was_there = place.path is not None and os.path.lexists(place.path)
    try:
        yield
    except (RevirtError, KeyboardInterrupt) as error:
        path = place.path
        is_ours = path is not None and not was_there and not isinstance(error, RecordingExistsError)
        if path is not None and is_ours and _can_be_replayed(path):
            print(f"revirt: what was recorded before that: revirt replay {_quoted(path)}", file=sys.stderr)
        raise


def _can_be_replayed(path: Path) -> bool:
    try:
        return bool(Recording.open(path).checkpoints)
    except RevirtError:
        return False


def console_of(
    arguments: argparse.Namespace,
    script: Path | None,
    *,
    is_alone: bool = False,
    desk: Desk | None = None,
) -> NullConsole:
    """Return who types: a person, a script, a pipe or nobody; see docs/cli.md.

    *script* is what the guest comes with; *is_alone* says that without a person or an option nobody types.  *desk* has
    the machine's keyboard and screen.
    """
    if desk is not None and desk.console is not None:
        return desk.console
    output = None if arguments.form is Format.JSON else sys.stdout.buffer
    if arguments.script is not None:
        return ScriptedConsole(Script.load(_script_path(arguments.script, script)), output, hands=desk)
    if arguments.stdin:
        if sys.stdin is None:
            raise UsageError("--stdin: standard input is closed")
        return PipeConsole(sys.stdin.fileno(), output)
    if output is not None and not arguments.batch and is_terminal(sys.stdin) and is_terminal(sys.stdout):
        return TerminalConsole(output, sys.stdin.fileno())
    if script is not None:
        return ScriptedConsole(Script.load(script), output, hands=desk)
    if arguments.batch or is_alone or sys.stdin is None or is_terminal(sys.stdin):
        return NullConsole(output)
    return PipeConsole(sys.stdin.fileno(), output)


def _script_path(text: str, script: Path | None) -> Path:
    """Return the script that *text* names: a path, or else a file beside *script*."""
    path = Path(text)
    if not path.exists() and path.name == text and script is not None:
        own = script.with_name(text)
        if own.is_file():
            return own
    return path


def _report(summary: RunSummary, form: Format, facts: Mapping[str, Any]) -> None:
    if form is not Format.TABLE:
        emit_record({**summary_fields(summary), **facts}, form, sys.stdout)
        return
    sys.stdout.flush()
    ended = summary.reason
    if summary.exit_code is not None:
        ended += f", exit code {summary.exit_code:#04x}"
    took = f"{duration(summary.guest_ns)} of guest time, {grouped(summary.branches)} branches"
    took += f" in {summary.seconds:.2f} s"
    lines = {"ended": ended, "ran": took}
    if summary.path is not None:
        log, checkpoints = size(summary.log_bytes), size(summary.checkpoint_bytes)
        lines["recorded"] = str(summary.path)
        lines["size"] = f"{grouped(summary.events)} events, {log} of log, {checkpoints} of checkpoints"
        lines["replay"] = f"revirt replay {_quoted(summary.path)}"
    for label, text in lines.items():
        print(f"{styled(f'{label:<9}', 'bold', sys.stderr)} {printable(text)}", file=sys.stderr)


def summary_fields(summary: RunSummary) -> dict[str, Any]:
    """Return *summary* as the fields that ``record --json`` prints; sizes in bytes."""
    return {
        "path": summary.path,
        "reason": summary.reason,
        "exit_code": summary.exit_code,
        "crashed": summary.crashed,
        "branches": summary.branches,
        "events": summary.events,
        "guest_seconds": summary.guest_ns / 1e9,
        "seconds": summary.seconds,
        "cpu_seconds": summary.cpu_seconds,
        "log_bytes": summary.log_bytes,
        "checkpoints": summary.checkpoints,
        "checkpoint_bytes": summary.checkpoint_bytes,
        "warnings": summary.warnings,
    }


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(os.fspath(path))
