"""The remote stub: what each packet of gdb's asks of a timeline, and what is answered.

A recording is never changed: packets that write registers or memory are refused, and breakpoints are conditions of a
search, so nothing is patched into the guest.  There is one thread, number 1, the CPU.

Rules: GDB manual, appendix "GDB Remote Serial Protocol": "Packets", "Stop Reply Packets", "General Query Packets".
A packet that is not known is answered with an empty one, as they demand, a malformed one with E22 (EINVAL).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from revirt.errors import RevirtError
from revirt.gdb.description import memory_map, target_description
from revirt.gdb.monitor import Monitor
from revirt.gdb.packets import PACKET_SIZE, escape
from revirt.gdb.points import Points
from revirt.gdb.registers import Architecture, registers
from revirt.gdb.resuming import Resuming
from revirt.gdb.target import Target
from revirt.render import printable

OK = b"OK"
UNKNOWN = b""
INVALID = b"E22"
FAULT = b"E14"
REFUSED = b"E.a recording is never changed"

_FEATURES = (
    "ReverseStep+;ReverseContinue+;QStartNoAckMode+;qXfer:features:read+;qXfer:memory-map:read+;"
    "vContSupported+;swbreak+;hwbreak+"
)
_THREAD = re.compile(rb"-1|[01]")
_RANGE = re.compile(rb"([0-9a-fA-F]{1,16}),([0-9a-fA-F]{1,16})")
_ACTION = re.compile(rb"([cs]|[CS][0-9a-fA-F]{2})(?::[\w.-]+)?")
_TOP = 1 << 64

Handler = Callable[[bytes], Sequence[bytes]]


class Disconnect(Exception):  # noqa: N818 - it is no error that a client leaves
    """The client is done with this connection; *reply* is still to be sent."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


class Stub:
    """Answers the packets of one client, about *target*.

    ``needs_acknowledgements`` is false once the client asked to do without.  ``architecture`` overrules what the mode
    of the CPU suggests.
    """

    def __init__(self, target: Target, *, architecture: Architecture | None = None) -> None:
        self._target = target
        self._wanted_architecture = architecture
        self._architecture = self._suitable()
        self._points = Points()
        self._resuming = Resuming(target, self._points)
        self._monitor = Monitor(target)
        self._reads_physical = False
        self.needs_acknowledgements = True
        self._handlers: dict[bytes, Handler] = {
            b"?": lambda _: [self._resuming.here()],
            b"g": self._read_registers,
            b"p": self._read_register,
            b"m": self._read_memory,
            b"G": lambda _: [REFUSED],
            b"P": lambda _: [REFUSED],
            b"M": lambda _: [REFUSED],
            b"X": self._write_binary,
            b"Z": lambda rest: [OK if self._points.insert(rest) else INVALID],
            b"z": lambda rest: [OK if self._points.remove(rest) else INVALID],
            b"c": lambda rest: self._resume(rest, self._resuming.run),
            b"s": lambda rest: self._resume(rest, self._resuming.step),
            b"C": lambda rest: self._resume_with_signal(rest, self._resuming.run),
            b"S": lambda rest: self._resume_with_signal(rest, self._resuming.step),
            b"b": self._resume_backwards,
            b"v": self._v_packet,
            b"H": lambda rest: [OK if _THREAD.fullmatch(rest[1:]) and rest[:1] in (b"g", b"c") else INVALID],
            b"T": lambda rest: [OK if rest == b"1" else INVALID],
            b"D": self._disconnect,
            b"k": self._disconnect,
            b"q": self._query,
            b"Q": self._set,
        }

    def handle(self, payload: bytes) -> Sequence[bytes]:
        """Return the payloads that answer *payload*: none, one, or output followed by the answer.

        Raises Disconnect if the client says that it is done.
        """
        handler = self._handlers.get(payload[:1])
        if handler is None:
            return [UNKNOWN]
        try:
            return handler(payload[1:])
        except RevirtError as error:
            return [error_reply(error)]

    def interrupt(self) -> None:
        """Take note of a break of the client's, for the sake of steps.  Safe from any thread."""
        self._resuming.interrupt()

    # -- registers and memory ----------------------------------------------------------------------------------

    def _suitable(self) -> Architecture:
        return self._wanted_architecture or Architecture.of(self._target.registers())

    def _read_registers(self, _rest: bytes) -> Sequence[bytes]:
        values = self._target.registers()
        return [b"".join(register.encode(values) for register in registers(self._architecture))]

    def _read_register(self, rest: bytes) -> Sequence[bytes]:
        number = _hex(rest)
        known = registers(self._architecture)
        if number is None or number >= len(known):
            return [INVALID]
        return [known[number].encode(self._target.registers())]

    def _read_memory(self, rest: bytes) -> Sequence[bytes]:
        match = _RANGE.fullmatch(rest)
        if match is None:
            return [INVALID]
        address, size = int(match[1], 16), int(match[2], 16)
        size = min(size, PACKET_SIZE // 2, _TOP - address)
        if size == 0:
            return [b""]
        read = self._target.read_physical if self._reads_physical else self._target.read
        data = read(address, size)
        return [data.hex().encode() if data else FAULT]

    def _write_binary(self, rest: bytes) -> Sequence[bytes]:
        # gdb writes nothing to see whether the packet is known.
        where, _, data = rest.partition(b":")
        match = _RANGE.fullmatch(where)
        if match is None:
            return [INVALID]
        return [OK if int(match[2], 16) == 0 and not data else REFUSED]

    # -- running -----------------------------------------------------------------------------------------------

    def _resume(self, rest: bytes, go: Callable[[], bytes]) -> Sequence[bytes]:
        if rest:  # an address to go on at
            return [REFUSED]
        reply = go()
        self._monitor.arrived()
        return [*self._warning(), reply]

    def _resume_with_signal(self, rest: bytes, go: Callable[[], bytes]) -> Sequence[bytes]:
        signal, _, address = rest.partition(b";")
        # The guest knows no signals: there is nothing to deliver.
        return [INVALID] if _hex(signal) is None else self._resume(address, go)

    def _resume_backwards(self, rest: bytes) -> Sequence[bytes]:
        match rest:
            case b"c":
                return self._resume(b"", self._resuming.run_back)
            case b"s":
                return self._resume(b"", self._resuming.step_back)
        return [UNKNOWN]

    def _v_packet(self, rest: bytes) -> Sequence[bytes]:
        name, _, arguments = rest.partition(b";")
        match name:
            case b"Cont?":
                return [b"vCont;c;C;s;S"]
            case b"Cont":
                action = _ACTION.fullmatch(arguments.partition(b";")[0])
                if action is None:
                    return [INVALID]
                steps = action[1][:1] in b"sS"
                return self._resume(b"", self._resuming.step if steps else self._resuming.run)
            case b"Kill":
                raise Disconnect(OK)
        return [UNKNOWN]

    def _warning(self) -> Sequence[bytes]:
        """Return what to tell the user if the registers that gdb knows do not suit the CPU's mode any more."""
        suitable = self._suitable()
        if suitable is self._architecture or self._resuming.warned_of is suitable:
            return []
        self._resuming.warned_of = suitable
        text = (
            f"The CPU runs as {suitable.value} now; gdb shows it as {self._architecture.value}"
            " until 'unset tdesc filename' has it ask again.\n"
        )
        return [b"O" + text.encode().hex().encode()]

    def _disconnect(self, _rest: bytes) -> Sequence[bytes]:
        raise Disconnect(OK)

    # -- queries -----------------------------------------------------------------------------------------------

    def _query(self, rest: bytes) -> Sequence[bytes]:
        name = re.split(rb"[:,;]", rest, maxsplit=1)[0]
        arguments = rest[len(name) + 1 :]
        match name:
            case b"Supported":
                self._resuming.names_breakpoints = b"swbreak+" in arguments.split(b";")
                return [f"PacketSize={PACKET_SIZE:x};{_FEATURES}".encode()]
            case b"Xfer":
                return [self._transfer(arguments)]
            case b"Rcmd":
                return self._command(arguments)
            case b"C":
                return [b"QC1"]
            case b"fThreadInfo":
                return [b"m1"]
            case b"sThreadInfo":
                return [b"l"]
            case b"ThreadExtraInfo":
                return [b"CPU".hex().encode()]
            case b"Attached":
                return [b"1"]
            case b"Symbol":
                return [OK]
            case b"qemu.PhyMemMode":
                return [b"%d" % self._reads_physical]
        return [UNKNOWN]

    def _set(self, rest: bytes) -> Sequence[bytes]:
        match rest:
            case b"StartNoAckMode":
                self.needs_acknowledgements = False
                return [OK]
            case b"qemu.PhyMemMode:0" | b"qemu.PhyMemMode:1":
                self._reads_physical = rest.endswith(b"1")
                return [OK]
        return [UNKNOWN]

    def _transfer(self, arguments: bytes) -> bytes:
        """Return a part of an XML document: ``OBJECT:read:ANNEX:OFFSET,LENGTH``."""
        fields = arguments.split(b":")
        match = _RANGE.fullmatch(fields[-1])
        if len(fields) != 4 or match is None:
            return INVALID
        if fields[:3] == [b"features", b"read", b"target.xml"]:
            offset = int(match[1], 16)
            if offset == 0:
                self._architecture = self._suitable()
            document = target_description(self._architecture)
        elif fields[:3] == [b"memory-map", b"read", b""]:
            offset = int(match[1], 16)
            document = memory_map(self._architecture)
        else:
            return b"E00"
        # Escapes make it longer at most twofold.
        size = min(int(match[2], 16), PACKET_SIZE // 2 - 1)
        mark = b"l" if offset + size >= len(document) else b"m"
        return mark + escape(document[offset : offset + size])

    def _command(self, arguments: bytes) -> Sequence[bytes]:
        try:
            command = bytes.fromhex(arguments.decode()).decode()
        except ValueError:
            return [INVALID]
        text = self._monitor.run(command).encode().hex().encode()
        size = PACKET_SIZE - 2
        return [*(b"O" + text[at : at + size] for at in range(0, len(text), size)), OK]


def error_reply(error: RevirtError) -> bytes:
    """Return the answer that says what went wrong in words, which gdb shows."""
    text = printable(f"{error} ({error.hint})" if error.hint else str(error))
    return b"E." + escape(text.encode(errors="replace")[: PACKET_SIZE // 4])


def _hex(digits: bytes) -> int | None:
    """Return the number that *digits* are in hexadecimal; None if they are not."""
    return int(digits, 16) if re.fullmatch(rb"[0-9a-fA-F]{1,16}", digits) else None
