"""The grammar of the command line.

Imports nothing that is slow: ``revirt --help`` is answered from here alone.  A command is the function
*function* of the module ``revirt.cli.<module>``; it takes the parsed arguments and returns the exit status.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NoReturn

import revirt
from revirt.errors import UsageError
from revirt.position import NANOSECONDS, InstructionCount, Point, Position, parse_point
from revirt.render import Format

_EPILOG = """\
examples:
  revirt demo                          record three bundled guests, replay each, show that it was exact
  revirt record vuln                   talk to a guest and record it
  revirt replay                        replay the newest recording
  revirt record debian --clock virtual --script login.txt -o login
  revirt events login --kind received  what was typed, and when

Recordings are kept in $REVIRT_DIR (default ~/.local/share/revirt); 'latest' names the newest.
"""

_POINTS = "BRANCHES, a time of the guest as 12.5s, 50%%, checkpoint:N, event:N, icount:N, start or end"
"""Points of a recording, as `revirt.position.parse_point` knows them, in words for an option's help."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are UsageErrors, as everyone else's."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see '{self.prog} --help'")


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="revirt",
        description=revirt.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"revirt {revirt.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    _add_demo(commands)
    _add_guest(commands)
    _add_record(commands)
    _add_fork(commands)
    _add_replay(commands)
    _add_audit(commands)
    _add_gdb(commands)
    _add_index(commands)
    _add_debug(commands)
    _add_store(commands)
    _add_verify(commands)
    _add_contents(commands)
    _add_net(commands)
    _add_disk(commands)
    _add_key(commands)
    _add_pack(commands)
    _add_cut(commands)
    _add_diff(commands)
    return parser


Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def _command(
    commands: Commands[Parser], name: str, module: str, summary: str, function: str = "run"
) -> Parser:
    parser = commands.add_parser(name, help=summary, description=f"{summary}.", allow_abbrev=False)
    parser.set_defaults(module=module, function=function)
    return parser


def _add_demo(commands: Commands[Parser]) -> None:
    demo = _command(commands, "demo", "demo", "Record bundled guests and replay each in a new process")
    demo.add_argument("-o", dest="output", type=Path, metavar="DIR", help="keep the recordings here")
    demo.add_argument(
        "--network",
        action="store_true",
        help="a Debian that is attacked over TCP (wants passt, and packages)",
    )
    _add_json(demo)


def _add_guest(commands: Commands[Parser]) -> None:
    guest = commands.add_parser("guest", help="List, describe and build guests", allow_abbrev=False)
    acts = guest.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    _add_forms(_command(acts, "list", "guest", "List the guests that can be recorded by name", "list_guests"))

    info = _command(acts, "info", "guest", "Describe a guest", "info")
    info.add_argument("guest", metavar="GUEST", help="a name, or a directory with a guest.toml")
    _add_json(info)

    build = _command(acts, "build", "guest", "Make a guest that is not bundled, such as debian", "build")
    build.add_argument("guest", metavar="GUEST")
    build.add_argument("-f", "--force", action="store_true", help="build again what is built")


def _add_record(commands: Commands[Parser]) -> None:
    record = _command(commands, "record", "record", "Run a guest and record it")
    record.add_argument("guest", metavar="GUEST", nargs="?", help="a name, or a directory with a guest.toml")
    direct = record.add_argument_group("a kernel instead of a GUEST, as with QEMU")
    direct.add_argument("--kernel", type=Path, metavar="FILE", help="bzImage, ELF, multiboot or flat binary")
    direct.add_argument("--initrd", type=Path, metavar="FILE", help="initial RAM disk")
    direct.add_argument("--append", metavar="TEXT", help="kernel command line")
    direct.add_argument(
        "--bios", action="store_true", help="no kernel, but a PC with SeaBIOS, which boots its first --disk"
    )
    direct.add_argument("--memory", metavar="SIZE", help="guest memory, as 256M (the default)")

    _add_devices(record)
    _add_run(record, "DIR")


def _add_fork(commands: Commands[Parser]) -> None:
    fork = _command(commands, "fork", "fork", "Go on live from a position of a recording, and record that")
    _add_recording(fork)
    fork.add_argument("--at", type=_point, metavar="POINT", help=f"go on from there: {_POINTS}")
    fork.add_argument(
        "--inputs",
        action=argparse.BooleanOptionalAction,
        help="give it what its parent got from there on (default: only to see what changes make of it)",
    )
    changed = fork.add_argument_group("what is to be different")
    changed.add_argument(
        "--patch",
        type=_patch,
        action="append",
        default=[],
        metavar="ADDRESS=BYTES",
        help="put these bytes (hexadecimal) there; phys:ADDRESS is a physical address",
    )
    changed.add_argument(
        "--drop",
        type=_event_range,
        action="append",
        default=[],
        metavar="EVENT",
        help="do not give it what came with that event, or with those of N-M",
    )
    changed.add_argument(
        "--replace",
        type=_replacement,
        action="append",
        default=[],
        metavar="EVENT=TEXT",
        help="give it TEXT instead, with the escapes of scripts",
    )
    _add_cables(fork.add_argument_group("where its network cards are connected to"))
    _add_run(fork, "NEW")


def _add_diff(commands: Commands[Parser]) -> None:
    diff = _command(commands, "diff", "diff", "Find where two recordings part, and what differs there")
    diff.add_argument("recording", metavar="A", help="a directory or name")
    diff.add_argument("other", metavar="B", help="likewise")
    diff.add_argument(
        "--at",
        type=_point,
        metavar="POINT",
        help="compare the machines there, a point of A, not where they part",
    )
    _add_json(diff)


def _add_cables(group: argparse._ArgumentGroup) -> None:
    """Add the options that connect network cards."""
    group.add_argument(
        "--net",
        action="append",
        default=[],
        metavar="WHERE",
        help="a network card, connected to passt, unix:PATH, unix-listen:PATH, tap:NAME, pcap:FILE or none",
    )
    group.add_argument(
        "--forward",
        action="append",
        default=[],
        metavar="tcp:HOST:GUEST",
        help="let a port of this host reach one of the guest's (through passt); also udp:HOST:GUEST",
    )


def _add_devices(record: Parser) -> None:
    devices = record.add_argument_group("devices beyond those that the guest comes with")
    devices.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="FILE",
        help="a disk with these contents, which stay as they are: FILE[,readonly][,overlay=SIZE]",
    )
    _add_cables(devices)
    devices.add_argument("--rng", action="store_true", help="a source of random bytes")
    devices.add_argument("--virtio-console", action="store_true", help="a second console, hvc0")
    devices.add_argument("--vga", action="store_true", help="a screen of text")
    devices.add_argument("--framebuffer", metavar="WIDTHxHEIGHT", help="a screen of pixels")


def _add_run(record: Parser, directory: str) -> None:
    """Add the options of commands that run a guest live."""
    record.add_argument(
        "-o", dest="output", type=Path, metavar=directory, help="record into this new directory"
    )
    record.add_argument("--no-record", action="store_true", help="run the same, but write nothing down")
    record.add_argument("--clock", choices=("host", "virtual"), help="where time comes from")
    record.add_argument("--until", type=_boundary, metavar="POSITION", help="stop there (BRANCHES)")
    record.add_argument(
        "--digest-every", type=_positive, metavar="N", help="digest the state every N branches"
    )
    record.add_argument(
        "--checkpoint-every", type=_positive, metavar="N", help="take a checkpoint every N branches"
    )
    record.add_argument("--sign", type=Path, metavar="KEY", help="seal it with this key, see 'revirt key'")
    ring = record.add_argument_group("a circular recording, which forgets its beginning")
    ring.add_argument("--log-size", metavar="SIZE", help="keep this much on disk, as 256M")
    ring.add_argument(
        "--keep", type=_duration, metavar="TIME", help="keep this much of the guest's time, as 10m"
    )
    ring.add_argument(
        "--trigger",
        action="append",
        metavar="WHAT",
        help="keep everything from then on: crash, exit[:CODE], console:REGEX or signal (SIGUSR1)",
    )
    ring.add_argument(
        "--after", type=_duration, metavar="TIME", help="end so much of the guest's time after that (10s)"
    )
    record.add_argument(
        "--display",
        action="append",
        default=[],
        metavar="WHERE",
        help="show the screen, and take keys for the keyboard: terminal, vnc or vnc=ADDRESS:PORT (unix:PATH)",
    )
    typed = record.add_mutually_exclusive_group()
    typed.add_argument("--script", metavar="FILE", help="who types: this script")
    typed.add_argument("--batch", action="store_true", help="who types: the guest's own script, or nobody")
    typed.add_argument(
        "--stdin", action="store_true", help="who types: standard input, though it is no terminal"
    )
    _add_json(record)


def _add_replay(commands: Commands[Parser]) -> None:
    replay = _command(commands, "replay", "replay", "Replay a recording and check that it does the same")
    _add_recording(replay)
    replay.add_argument(
        "--from", dest="checkpoint", type=_natural, metavar="N", help="start at that checkpoint"
    )
    replay.add_argument("--until", type=_position, metavar="POSITION", help="stop there")
    replay.add_argument(
        "--speed", choices=("max", "real"), default="max", help="real: as slowly as it happened"
    )
    replay.add_argument("-q", "--quiet", action="store_true", help="do not print the guest's console")
    _add_json(replay)


def _add_audit(commands: Commands[Parser]) -> None:
    audit = _command(commands, "audit", "audit", "Confirm by a replay that a recording can be believed")
    _add_recording(audit)
    audit.add_argument(
        "--from",
        dest="checkpoint",
        type=_natural,
        metavar="N",
        help="start at that checkpoint, not the oldest",
    )
    _add_json(audit)


def _add_gdb(commands: Commands[Parser]) -> None:
    gdb = _command(commands, "gdb", "gdb", "Let gdb look at a recording, forwards and backwards")
    _add_recording(gdb)
    where = gdb.add_mutually_exclusive_group()
    where.add_argument(
        "--port", type=_port, default=1234, metavar="N", help="listen there (1234); 0: any free"
    )
    where.add_argument("--socket", type=Path, metavar="PATH", help="listen at this new UNIX socket instead")
    where.add_argument("--launch", action="store_true", help="start gdb here, connected")
    gdb.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="let others than this host connect: the address to listen at",
    )
    _add_at(gdb)
    gdb.add_argument(
        "--arch",
        choices=("auto", "amd64", "i386", "i8086"),
        default="auto",
        help="which registers to show (auto: those of the CPU's mode when gdb connects)",
    )
    gdb.add_argument("--symbols", type=Path, metavar="FILE", help="for --launch: the guest's symbols")


def _add_index(commands: Commands[Parser]) -> None:
    index = _command(commands, "index", "index", "Make what lets a recording be looked into at once")
    _add_recording(index)
    index.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="replay so many stretches at a time (default: one per core)",
    )
    index.add_argument("-f", "--force", action="store_true", help="make again what is made")
    _add_json(index)


def _add_debug(commands: Commands[Parser]) -> None:
    debug = _command(commands, "debug", "debug", "Look at a recording, forwards and backwards")
    _add_recording(debug)
    _add_at(debug)
    debug.add_argument("--symbols", type=Path, metavar="FILE", help="the guest's symbols: an ELF file")
    debug.add_argument(
        "-e",
        dest="commands",
        action="append",
        default=[],
        type=lambda text: (text, None),
        metavar="COMMAND",
        help="run this command first; may be given again",
    )
    debug.add_argument(
        "-x",
        dest="commands",
        action="append",
        type=lambda text: (None, Path(text)),
        metavar="FILE",
        help="run the commands in this file first; may be given again",
    )
    how = debug.add_mutually_exclusive_group()
    how.add_argument(
        "--plain",
        action="store_true",
        help="no screen: commands line by line, those of -e and -x or else of standard input",
    )
    how.add_argument("--screenshot", type=Path, metavar="FILE", help="write the screen to this file, as SVG")
    debug.add_argument("--size", type=_screen_size, metavar="WxH", help="of the screenshot (80x24)")
    _add_forms(debug)


def _add_store(commands: Commands[Parser]) -> None:
    _add_forms(_command(commands, "ls", "store", "List the recordings", "ls"))

    info = _command(commands, "info", "store", "Describe a recording", "info")
    _add_recording(info)
    _add_json(info)

    mend = _command(commands, "repair", "store", "Make an interrupted recording complete", "mend")
    _add_recording(mend)
    _add_json(mend)
    stats = _command(commands, "stats", "stats", "Count what a recording is made of", "stats")
    _add_recording(stats)
    counted = stats.add_mutually_exclusive_group()
    counted.add_argument("--checkpoints", action="store_true", help="list checkpoints, not kinds of event")
    counted.add_argument(
        "--icount",
        action="store_true",
        help="add bytes per million instructions, from the index or by a counting replay",
    )
    _add_forms(stats)

    usage = _command(commands, "du", "stats", "Tell how much space recordings take", "du")
    usage.add_argument("recordings", metavar="DIR", nargs="*", help="names or directories (default: all)")
    _add_forms(usage)

    move = _command(commands, "mv", "store", "Rename or move a recording", "mv")
    move.add_argument("recording", metavar="DIR", help="a directory or name")
    move.add_argument("target", metavar="TARGET", help="a new name, a directory to move into, or a new path")
    _add_json(move)

    remove = _command(commands, "rm", "store", "Delete recordings", "rm")
    remove.add_argument("recordings", metavar="DIR", nargs="+", help="names or directories")
    remove.add_argument("-f", "--force", action="store_true", help="do not ask")


def _add_verify(commands: Commands[Parser]) -> None:
    verify = _command(commands, "verify", "verify", "Check every byte of a recording, or a proof", "verify")
    verify.add_argument(
        "recording",
        metavar="DIR",
        nargs="?",
        default="latest",
        help="a directory or name (default: latest), or a file that 'prove' made",
    )
    _add_key_to_trust(verify)
    _add_json(verify)

    head = _command(commands, "head", "verify", "Print what a seal comes to, to tell somebody", "head")
    _add_recording(head)
    _add_key_to_trust(head)
    _add_json(head)

    prove = _command(
        commands, "prove", "verify", "Prove that one event is in a sealed recording", "prove_event"
    )
    _add_recording(prove)
    prove.add_argument("event", metavar="EVENT", type=_natural, help="its number, as 'revirt events' has it")
    prove.add_argument(
        "-o", dest="output", type=_new_file, metavar="FILE", help="a new file (default: standard output)"
    )
    _add_key_to_trust(prove)


def _add_contents(commands: Commands[Parser]) -> None:
    events = _command(commands, "events", "contents", "List the events of a recording", "events")
    _add_recording(events)
    events.add_argument("--kind", action="append", metavar="KIND", help="only this kind; may be given again")
    events.add_argument(
        "--icount",
        action="store_true",
        help="add exact instruction counts, from the index or by a counting replay",
    )
    _add_forms(events)

    console = _command(commands, "console", "contents", "Print what the guest sent, byte for byte", "console")
    _add_recording(console)
    console.add_argument("--at", metavar="POINT", help=f"only what it had sent there: {_POINTS}")
    console.add_argument(
        "--cast", type=_new_file, metavar="FILE", help="write it to this new file, with times, for asciinema"
    )

    screen = _command(commands, "screen", "screen", "Show what stood on the machine's screen")
    _add_recording(screen)
    screen.add_argument("--at", default="end", metavar="POINT", help=f"when: {_POINTS} (default: end)")
    screen.add_argument(
        "-o", dest="output", type=_new_file, metavar="FILE", help="write it to this new file, as PNG"
    )
    _add_json(screen)


def _add_net(commands: Commands[Parser]) -> None:
    net = _command(commands, "net", "net", "List the network packets of a recording")
    _add_recording(net)
    net.add_argument("--from", dest="first", type=_point, metavar="POINT", help=f"from there on: {_POINTS}")
    net.add_argument("--to", dest="last", type=_point, metavar="POINT", help="up to there: likewise")
    net.add_argument(
        "--stream", type=_natural, metavar="N", help="what TCP connection N carried, put together"
    )
    net.add_argument(
        "--raw", choices=("in", "out"), help="of that, print the bytes that the guest took or sent"
    )
    net.add_argument(
        "-o", dest="output", metavar="FILE", help="write them to this pcapng file; -: standard output"
    )
    net.add_argument("-f", "--force", action="store_true", help="replace that file if it is there")
    net.add_argument(
        "--log-only",
        action="store_true",
        help="replay nothing: by the virtual clock times are not known then",
    )
    _add_forms(net)


def _add_disk(commands: Commands[Parser]) -> None:
    disk = _command(commands, "disk", "disk", "List what was written to disks, or take out what one held")
    _add_recording(disk)
    disk.add_argument("--number", type=_natural, metavar="N", help="this disk, counted from 0")
    disk.add_argument("--from", dest="first", type=_point, metavar="POINT", help=f"from there on: {_POINTS}")
    disk.add_argument("--to", dest="last", type=_point, metavar="POINT", help="up to there: likewise")
    disk.add_argument(
        "--log-only",
        action="store_true",
        help="replay nothing: by the virtual clock times are not known then",
    )
    disk.add_argument("--at", metavar="POINT", help="for -o: what it held there (default: at the end)")
    disk.add_argument(
        "-o", dest="output", type=_new_file, metavar="FILE", help="write all that it held to this new file"
    )
    disk.add_argument(
        "--base", type=Path, metavar="FILE", help="let this file be what it held at first, if it is"
    )
    _add_forms(disk)


def _add_key(commands: Commands[Parser]) -> None:
    key = commands.add_parser("key", help="Make and show keys to sign recordings with", allow_abbrev=False)
    acts = key.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    new = _command(acts, "new", "key", "Make a key: FILE, and FILE.pub for whoever checks", "new")
    show = _command(acts, "show", "key", "Show which key is in a file", "show")
    for parser, summary in ((new, "the private key, a new file"), (show, "a private or a public key")):
        parser.add_argument("file", type=Path, metavar="FILE", help=summary)
        _add_json(parser)


def _add_pack(commands: Commands[Parser]) -> None:
    pack = _command(commands, "pack", "pack", "Make one file of a recording", "pack")
    _add_recording(pack)
    pack.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        help="default: its name with .revirt behind it, here; -: standard output",
    )
    pack.add_argument(
        "--with-disks", action="store_true", help="with what its disks held at first, which is else not in it"
    )
    pack.add_argument("-f", "--force", action="store_true", help="also if it is damaged")
    _add_json(pack)

    unpack = _command(commands, "unpack", "pack", "Make a recording of what 'revirt pack' made", "unpack")
    unpack.add_argument("pack", metavar="FILE", help="-: standard input")
    unpack.add_argument("-o", dest="output", type=Path, metavar="DIR", help="unpack into this new directory")
    unpack.add_argument("-f", "--force", action="store_true", help="also if it was packed damaged")
    _add_json(unpack)


def _add_cut(commands: Commands[Parser]) -> None:
    cut = _command(commands, "cut", "cut", "Make a smaller recording of a stretch of one")
    _add_recording(cut)
    cut.add_argument("first", metavar="FROM", type=_point, help=_POINTS)
    cut.add_argument("last", metavar="TO", type=_point, help="likewise")
    cut.add_argument(
        "-o", dest="output", type=Path, metavar="NEW", required=True, help="make it this new directory"
    )
    _add_json(cut)


def _add_recording(parser: Parser) -> None:
    parser.add_argument(
        "recording", metavar="DIR", nargs="?", default="latest", help="a directory or name (default: latest)"
    )


def _add_key_to_trust(parser: Parser) -> None:
    parser.add_argument("--key", type=Path, metavar="KEY", help="the public key that must have sealed it")


def _add_json(parser: Parser) -> None:
    parser.set_defaults(form=Format.TABLE)
    parser.add_argument("--json", dest="form", action="store_const", const=Format.JSON, help="print JSON")


def _add_at(parser: Parser) -> None:
    parser.add_argument(
        "--at", metavar="POINT", help="stand there at first: a position, 50%%, 12.5s, event:N, end"
    )


def _add_forms(parser: Parser) -> None:
    parser.set_defaults(form=Format.TABLE)
    forms = parser.add_mutually_exclusive_group()
    for form, summary in ((Format.JSON, "a JSON array"), (Format.JSONL, "JSON Lines"), (Format.CSV, "CSV")):
        forms.add_argument(
            f"--{form.value}", dest="form", action="store_const", const=form, help=f"print {summary}"
        )


def _position(text: str) -> Position:
    try:
        return Position.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _point(text: str) -> Point | InstructionCount:
    try:
        return parse_point(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _screen_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text, re.ASCII)
    if match is None or int(match[1]) < 40 or int(match[2]) < 12:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a screen; write 100x30, 40x12 at least")
    return int(match[1]), int(match[2])


def _boundary(text: str) -> Position:
    position = _position(text)
    if position.steps:
        raise argparse.ArgumentTypeError(f"{text!r}: a live run stops only at taken branches; write BRANCHES")
    return position


def _patch(text: str) -> tuple[int, bytes, bool]:
    """Return the address, the bytes, and whether the address is a physical one."""
    match = re.fullmatch(
        r"(phys:)?(0x[0-9a-f]{1,16}|\d{1,19})=((?:\s*[0-9a-f]{2})+)", text, re.ASCII | re.IGNORECASE
    )
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no patch; write as 0x10012e=9090")
    return int(match[2], 0), bytes.fromhex(match[3]), match[1] is not None


def _event_range(text: str) -> tuple[int, int]:
    """Return the first and the last of the events that *text* names."""
    first_text, dash, last_text = text.partition("-")
    first, last = _natural(first_text), _natural(last_text if dash else first_text)
    if last < first:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins; write FIRST-LAST")
    return first, last


def _replacement(text: str) -> tuple[int, str]:
    """Return the event, and what is to come instead, escaped."""
    number, equals, instead = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} says nothing to come instead; write as 14='name Eve\\n'")
    return _natural(number), instead


def _duration(text: str) -> int:
    """Return nanoseconds."""
    match = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)?", text, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 90s, 10m, 2h or 1d")
    return int(match[1]) * NANOSECONDS[match[2] or "s"]


def _new_file(text: str) -> Path:
    # Other commands write to standard output then: nobody means a file of that name.
    if text == "-":
        raise argparse.ArgumentTypeError("- is no name for a new file (./- is one)")
    return Path(text)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _port(text: str) -> int:
    number = _natural(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return number


def _positive(text: str) -> int:
    number = _natural(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
