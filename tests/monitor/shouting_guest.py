"""A stand-in for a guest: sends back in brackets what is typed into it.  test_terminal runs it."""

import signal
import sys

from revirt.monitor.terminal import TerminalConsole


def hang_up(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, hang_up)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with TerminalConsole(sys.stdout.buffer, sys.stdin.fileno()) as console:
        console.transmitted(b"ready\n")
        while console.finished is None:
            console.wait(None)
            data = console.take()
            if data == b"!":
                raise RuntimeError("the run failed")
            if data:
                console.transmitted(b"[" + data.hex().encode() + b"]\n")
    with open(sys.argv[1], "w") as report:
        report.write(console.finished)


if __name__ == "__main__":
    main()
