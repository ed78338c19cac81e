from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import revirt
from revirt.cli import main
from revirt.cli.parser import make_parser
from revirt.errors import UsageError
from revirt.position import Position
from revirt.render import Format

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *("demo", "guest", "record", "replay", "audit", "ls", "info", "stats", "du"),
    *("events", "console", "verify", "repair", "mv", "rm", "key", "cut"),
]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    text = capsys.readouterr().out
    assert all(f"    {command} " in text for command in COMMANDS)


def test_help_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; from revirt.cli import main; main(['--help']);"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " ('rich', 'unicorn', 'lz4', 'msgpack', 'elftools', 'zstandard', 'cryptography')], file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    "command", [*COMMANDS, "guest list", "guest info", "guest build", "key new", "key show"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"usage: revirt {command}" in capsys.readouterr().out


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"revirt {revirt.__version__}\n"
    assert f'version = "{revirt.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "demo",
        "guest list",
        "guest info hello",
        "guest build debian",
        "record hello",
        "replay",
        "ls",
        "info",
        "verify",
        "audit",
        "stats",
        "du",
        "mv x y",
        "rm x",
        "events",
        "console",
        "key new x",
        "key show x",
        "cut 1 2 -o x",
    ],
)
def test_every_command_has_its_function(line: str) -> None:
    arguments = make_parser().parse_args(line.split())

    module = import_module(f"revirt.cli.{arguments.module}")

    assert callable(getattr(module, arguments.function))


def test_a_recording_is_the_latest_unless_named() -> None:
    parser = make_parser()

    assert parser.parse_args(["replay"]).recording == "latest"
    assert parser.parse_args(["info", "a"]).recording == "a"


def test_points_to_cut_at_may_come_with_a_name_or_without() -> None:
    parser = make_parser()

    without, named = (
        parser.parse_args(["cut", *words, "-o", "x"]) for words in (["1", "2s"], ["3", "4", "end"])
    )

    assert (without.recording, str(without.first), str(without.last)) == ("latest", "1:0", "2s")
    assert (named.recording, str(named.first), str(named.last)) == ("3", "4:0", "end")


def test_kinds_add_up() -> None:
    arguments = make_parser().parse_args(["events", "--kind", "clock", "--kind", "received", "--jsonl"])

    assert arguments.kind == ["clock", "received"]
    assert arguments.form is Format.JSONL


def test_a_replay_may_stop_between_branches_but_a_recorded_run_may_not() -> None:
    parser = make_parser()

    assert parser.parse_args(["replay", "--until", "1,000:5"]).until == Position(1000, 5)
    assert parser.parse_args(["record", "hello", "--until", "1000"]).until == Position(1000)
    with pytest.raises(UsageError, match="taken branches"):
        parser.parse_args(["record", "hello", "--until", "1000:5"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "required: COMMAND"),
        ("recrod", "invalid choice"),
        ("replay --until soon", "'soon' is not a position"),
        ("replay --from -1", "argument"),
        ("record hello --digest-every 0", "at least 1"),
        ("record hello --script a --batch", "not allowed with"),
        ("events --json --csv", "not allowed with"),
        ("rm", "required: DIR"),
        ("mv x", "required: TARGET"),
        ("stats --checkpoints --icount", "not allowed with"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2

    complaint = capsys.readouterr().err
    assert complaint.startswith("revirt: ")
    assert message in complaint
    assert "--help'" in complaint
