"""Runs one command and turns what went wrong into a message and an exit status.

    0    done (record: the guest ended well; replay: exact; verify: intact)
    1    it did not work: the guest, its image or script, or this host
    2    the command line is wrong
    3    a replay diverged
    4    a recording is damaged, missing, in the way or made by a newer revirt
    129  the terminal went away      128 + the number of the signal, as shells count
    130  Ctrl-C, or the escape key
    141  whoever read the output stopped reading
    143  SIGTERM

This is the one place where errors become exit statuses.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from revirt.cli.parser import make_parser
from revirt.errors import RevirtError
from revirt.render import printable, styled


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: that of the process) and return its exit status."""
    _open_closed_streams()
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except RevirtError as error:
        _complain(str(error), error.hint)
        return error.exit_status
    except BrokenPipeError:
        # What is still in the buffer would be written, and fail again, when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except MemoryError:
        _complain("not enough memory")
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 128 + signal.SIGINT
    except OSError as error:
        problem = error.strerror or str(error)
        _complain(f"{error.filename}: {problem}" if error.filename is not None else problem)
        return 1


def _open_closed_streams() -> None:
    """Give a process that was started with its output closed somewhere to write."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = make_parser().parse_args(words)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    arguments.command = ["revirt", *words]
    # A command's module is imported when it is called for: most need the CPU core, help does not.
    module = import_module(f"revirt.cli.{arguments.module}")
    status: int = getattr(module, arguments.function)(arguments)
    return status


def _complain(message: str, hint: str = "") -> None:
    with suppress(OSError):  # the terminal may have gone
        print(f"{styled('revirt:', 'red', sys.stderr)} {printable(message)}", file=sys.stderr)
        if hint:
            print(f"        {printable(hint)}", file=sys.stderr)
