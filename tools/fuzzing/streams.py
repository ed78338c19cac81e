"""What a client of the stub may send: packets as the protocol has them, and everything else that fits into bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from fuzzing.changes import LARGE_NUMBERS, Change
from revirt.gdb.packets import PACKET_SIZE, escape

_PIECE = re.compile(rb"\$[^#$]*#..|\$[^#$]*|[^$]+", re.DOTALL)
_ADDRESSES = (
    *LARGE_NUMBERS,
    0x7C00,
    0x7C10,
    0x8000,
    0xF000,
    0xFFFC,
    0x10_0000,
    0x10_0040,
    0x10_2000,
    0x20_0000,
)
_FEATURES = b"multiprocess+;swbreak+;hwbreak+;qRelocInsn+;xmlRegisters=i386"
_OBJECTS = (
    b"features:read:target.xml",
    b"memory-map:read:",
    b"features:write:target.xml",
    b"auxv:read:",
    b"::::",
)
_WORDS = (
    *("when", "when-icount", "elapsed-time", "checkpoint", "back", "forward", "help", "info recording"),
    *(
        "info checkpoints",
        "hints off",
        "events",
        "events 1000",
        "seek end",
        "seek start",
        "seek 50%",
        "seek nan%",
    ),
    *("seek 0.00001s", "seek event:3", "seek checkpoint:1", "seek 99999999999", "seek 1000:1", "restart 1"),
    *(
        "delete checkpoint 1",
        "run 2",
        "run -1",
        "events 99999999999999999999",
        "seek",
        "\x1b[2J",
        "\u0661",
        "info",
    ),
)


def packet(payload: bytes) -> bytes:
    """Return the packet with *payload*, as a client sends it."""
    body = escape(payload)
    return b"$%b#%02x" % (body, sum(body) & 0xFF)


def session() -> bytes:
    """Return what gdb sends to look at a recording: nothing of it is refused."""
    payloads = (
        *(
            b"qSupported:" + _FEATURES,
            b"vCont?",
            b"QStartNoAckMode",
            b"Hg0",
            b"?",
            b"qXfer:features:read:target.xml:0,ffb",
        ),
        *(
            b"qfThreadInfo",
            b"qsThreadInfo",
            b"qC",
            b"g",
            b"p8",
            b"m7c00,40",
            b"Z0,7c10,1",
            b"Z2,8000,4",
            b"vCont;s",
        ),
        *(b"vCont;c", b"bs", b"bc", b"z0,7c10,1", b"z2,8000,4", b"qRcmd," + b"when".hex().encode()),
    )
    return b"+".join(map(packet, payloads))


def split(stream: bytes) -> list[bytes]:
    """Return *stream* in pieces: packets, and what is between them."""
    return _PIECE.findall(stream)


def reseal(stream: bytes) -> bytes:
    """Return *stream* with right checksums."""
    return b"".join(
        b"$%b#%02x" % (piece[1:-3], sum(piece[1:-3]) & 0xFF) if _is_packet(piece) else piece
        for piece in split(stream)
    )


def forge(stream: bytes, rng: Random, change: Change) -> bytes:
    """Return *stream* with other packets in it, whose checksums are right."""
    pieces = split(stream)
    place = rng.randrange(len(pieces) + 1)
    match rng.randrange(8):
        case 0 | 1 | 2:
            pieces[place:place] = [piece(rng) for _ in range(rng.choice((1, 2, 5, 20)))]
        case 3 if place < len(pieces) and _is_packet(pieces[place]):
            pieces[place] = packet(change(pieces[place][1:-3]))
        case 4:
            # Thousands of points, or of anything else.
            made = [piece(rng) for _ in range(3)]
            pieces[place:place] = made * rng.choice((2, 10, 60))
        case 5:
            kind = rng.randrange(5)
            pieces[place:place] = [
                packet(b"Z%d,%x,4" % (kind, 8 * at)) for at in range(rng.choice((40, 1100)))
            ]
        case 6:
            rng.shuffle(pieces)
        case _:
            pieces[place:place] = [_noise(rng)]
    return b"".join(pieces)


def piece(rng: Random) -> bytes:
    """Return a packet, or once in a while what is none."""
    return packet(rng.choice(_PAYLOADS)(rng)) if rng.random() < 0.9 else _noise(rng)


def _is_packet(piece: bytes) -> bool:
    return piece.startswith(b"$") and piece[-3:-2] == b"#"


def _noise(rng: Random) -> bytes:
    return rng.choice(
        (
            *(
                b"\x03",
                b"\x03",
                b"+",
                b"-",
                b"--",
                b"$",
                b"#",
                b"$#00",
                b"$qC#0",
                b"$qC#zz",
                b"$}#7d",
                b"$g*\x1a#00",
                b"\0",
            ),
            b"$" + b"m" * rng.choice((PACKET_SIZE, 2 * PACKET_SIZE, 5 * PACKET_SIZE)) + b"#00",
            rng.randbytes(rng.choice((1, 10, 3000))),
        )
    )


# -- payloads ----------------------------------------------------------------------------------------------------------


def _number(rng: Random) -> bytes:
    return b"%x" % rng.choice((*_ADDRESSES, rng.getrandbits(16), rng.getrandbits(64), rng.getrandbits(80)))


def _range(rng: Random) -> bytes:
    return _number(rng) + rng.choice((b",", b",", b",", b":", b";", b"")) + _number(rng)


def _size(rng: Random) -> bytes:
    return rng.choice((b"1", b"2", b"4", b"8", b"40", b"1000", b"0", b"", _number(rng)))


def _point(rng: Random) -> bytes:
    return b"%b%b,%b,%b" % (
        rng.choice((b"Z", b"Z", b"z")),
        rng.choice(b"000112234569").to_bytes(),
        _number(rng),
        _size(rng),
    )


def _go(rng: Random) -> bytes:
    address = rng.choice((b"", b"", b"", _number(rng)))
    return (
        rng.choice((b"c", b"s", b"s", b"C05", b"S05", b"C", b"bs", b"bs", b"bc", b"b", b"b" + _number(rng)))
        + address
    )


def _v(rng: Random) -> bytes:
    actions = (
        b"c",
        b"s",
        b"C05",
        b"S0b",
        b"t",
        b"r1000,2000",
        b"s:1",
        b"c:-1",
        b"s:p1.1",
        b"",
        b"vCont;c",
        b"c" * 900,
    )
    count = rng.choice((0, 1, 1, 1, 2, 2000))
    verb = rng.choice(
        (
            b"vCont",
            b"vCont",
            b"vCont",
            b"vKill",
            b"vRun",
            b"vMustReplyEmpty",
            b"vAttach",
            b"v" + rng.randbytes(3),
        )
    )
    return b";".join((verb, *rng.choices(actions, k=count)))


def _write(rng: Random) -> bytes:
    data = rng.randbytes(rng.choice((0, 1, 4, 2000)))
    verb = rng.choice((b"M", b"X", b"X", b"G", b"P"))
    if verb in (b"M", b"X"):
        return verb + _range(rng) + b":" + (data if verb == b"X" else data.hex().encode())
    return verb + (_number(rng) + b"=" if verb == b"P" else b"") + data.hex().encode()


def _transfer(rng: Random) -> bytes:
    return b"qXfer:%b:%b" % (
        rng.choice(_OBJECTS),
        rng.choice((_range(rng), b"0,ffb", b"fff,1", b"ffffffffffffffff,1")),
    )


def _command(rng: Random) -> bytes:
    text = rng.choice(_WORDS)
    match rng.randrange(6):
        case 0:
            text = " ".join(rng.choices([*text.split(), "1", "-1", "\x03", "end", "'"], k=rng.randrange(6)))
        case 1:
            text = text * rng.choice((2, 500))
        case 2:
            return b"qRcmd," + rng.choice(
                (b"", b"7", b"zz", b"ff", rng.randbytes(20), rng.randbytes(20).hex().encode())
            )
    return b"qRcmd," + text.encode().hex().encode()


def _query(rng: Random) -> bytes:
    return rng.choice(
        (
            *(
                b"qSupported:" + _FEATURES,
                b"qSupported",
                b"qC",
                b"qfThreadInfo",
                b"qsThreadInfo",
                b"qAttached:1",
            ),
            *(
                b"qSymbol::",
                b"qThreadExtraInfo,1",
                b"QStartNoAckMode",
                b"Qqemu.PhyMemMode:",
                b"qMemoryRegionInfo:0",
            ),
            *(
                b"Qqemu.PhyMemMode:1",
                b"Qqemu.PhyMemMode:0",
                b"qCRC:0,ffffffff",
                b"qSearch:memory:0;ffffffff;00",
            ),
            *(b"Hg" + _number(rng), b"T" + _number(rng)),
        )
    )


def _anything(rng: Random) -> bytes:
    return rng.choice(
        (b"D", b"k", b"?", b"!", b"R00", b"t", b"i", b"\0", b"", rng.randbytes(rng.randrange(60)))
    )


_PAYLOADS: Sequence[Callable[[Random], bytes]] = (
    *(_point, _point, _go, _go, _v, _write, _transfer, _command, _command, _query),
    lambda _rng: b"g",
    lambda rng: b"p" + _number(rng),
    lambda rng: b"m" + _range(rng),
    _anything,
)
