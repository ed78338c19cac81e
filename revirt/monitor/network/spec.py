"""Networks as people name them: ``--net`` and ``--forward``.

    passt               by the program passt
    unix:PATH           the socket of somebody who listens there
    unix-listen:PATH    a new socket, for somebody to connect to
    tap:NAME            a TAP interface
    pcap:FILE           a capture file, played in; at=TIME says when it begins
    none                a card without a cable

Behind each may stand ``,mac=ADDRESS``.  A comma in a path is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from revirt.errors import UsageError
from revirt.monitor.network.backend import Backend, UnpluggedBackend
from revirt.monitor.network.passt import Forward, PasstBackend
from revirt.monitor.network.played import PlayedBackend
from revirt.monitor.network.stream import StreamBackend
from revirt.monitor.network.tap import NAME_LIMIT, TapBackend
from revirt.packets import format_mac, parse_mac
from revirt.position import GuestTime, parse_point

FIRST_MAC = bytes.fromhex("525400123456")
"""The address of the first card, the one that QEMU gives, too; the others count on from it."""
LOOPBACK = "127.0.0.1"

_TARGETS = {"passt": "", "none": "", "unix": "PATH", "unix-listen": "PATH", "tap": "NAME", "pcap": "FILE"}
_HINT = "write passt, unix:PATH, unix-listen:PATH, tap:NAME, pcap:FILE or none"
_FORWARD = re.compile(r"(tcp|udp):(?:([^:]+):)?(\d{1,5}):(\d{1,5})", re.ASCII)
_INTERFACE = re.compile(rf"[\w.-]{{1,{NAME_LIMIT}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network card's address, and what it is connected to: *kind* and *target* as people write them.

    ``at_ns`` is the machine's time at which a capture file begins, ``forwards`` are for passt.
    """

    kind: str
    target: str
    mac: bytes
    at_ns: int = 0
    forwards: tuple[Forward, ...] = ()


def networks_of(nets: Sequence[str], forwards: Sequence[str] = ()) -> tuple[NetworkSpec, ...]:
    """Return the networks that *nets*, the texts of ``--net``, name, the first card first.

    *forwards* are the texts of ``--forward``: they are passt's, which is there without being named if nothing else is.
    Raises UsageError for what cannot be meant.
    """
    specs = [_network(text, number) for number, text in enumerate(nets or (["passt"] if forwards else []))]
    if forwards:
        passt = next((number for number, spec in enumerate(specs) if spec.kind == "passt"), None)
        if passt is None:
            raise UsageError("--forward is done by passt, and no --net is", hint="add --net passt")
        specs[passt] = replace(specs[passt], forwards=_forwards(forwards))
    addresses = [spec.mac for spec in specs]
    for mac in addresses:
        if addresses.count(mac) > 1:
            raise UsageError(f"two network cards have the address {format_mac(mac)}")
    return tuple(specs)


def open_network(spec: NetworkSpec, wake: Callable[[], None]) -> Backend:
    """Return the backend of *spec*, connected.

    *wake* is called, from any thread, when frames wait or its `Backend.fault` is there.  Raises HostError if this host
    cannot do it, CaptureError for a capture file that is none.
    """
    match spec.kind:
        case "passt":
            return PasstBackend(wake, spec.forwards)
        case "unix":
            return StreamBackend.connect(Path(spec.target), wake)
        case "unix-listen":
            return StreamBackend.listen(Path(spec.target), wake)
        case "tap":
            return TapBackend(wake, spec.target)
        case "pcap":
            return PlayedBackend(Path(spec.target), spec.at_ns)
    return UnpluggedBackend()


def _network(text: str, number: int) -> NetworkSpec:
    what, *options = _parts(text)
    kind, colon, target = what.partition(":")
    if kind not in _TARGETS:
        raise UsageError(f"--net {text!r}: not something to connect a network card to", hint=_HINT)
    if bool(colon and target) != bool(_TARGETS[kind]):
        wanted = f"{kind}:{_TARGETS[kind]}" if _TARGETS[kind] else kind
        raise UsageError(f"--net {text!r}: write {wanted}")
    if kind == "tap" and _INTERFACE.fullmatch(target) is None:
        raise UsageError(f"--net {text!r}: {target!r} is no name of a network interface")
    mac = FIRST_MAC[:5] + bytes([(FIRST_MAC[5] + number) & 0xFF])
    spec = NetworkSpec(kind, target, mac)
    for option in options:
        spec = _with_option(spec, option, text)
    return spec


def _parts(text: str) -> Iterator[str]:
    """Yield the parts of *text* between single commas; two stand for one."""
    yield from (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))


def _with_option(spec: NetworkSpec, option: str, text: str) -> NetworkSpec:
    name, _, value = option.partition("=")
    try:
        if name == "mac":
            return replace(spec, mac=_mac(value))
        if name == "at" and spec.kind == "pcap":
            return replace(spec, at_ns=_time(value))
    except ValueError as error:
        raise UsageError(f"--net {text!r}: {error}") from error
    known = "mac=ADDRESS and at=TIME" if spec.kind == "pcap" else "mac=ADDRESS"
    raise UsageError(
        f"--net {text!r}: no option {name!r}", hint=f"there is {known}; a comma in a path is written twice"
    )


def _mac(text: str) -> bytes:
    mac = parse_mac(text)
    if mac[0] & 1 or not any(mac):
        raise ValueError(
            f"{text} is the address of a group, not of a card" if any(mac) else f"{text} is no address"
        )
    return mac


def _time(text: str) -> int:
    try:
        time = parse_point(text)
    except ValueError:
        time = None
    if not isinstance(time, GuestTime):
        raise ValueError(f"{text!r} is not a time; write 500ms, 12.5s or 2m")
    return time.ns


def _forwards(texts: Sequence[str]) -> tuple[Forward, ...]:
    forwards = tuple(_forward(text) for text in texts)
    places = [(each.protocol, each.address, each.port) for each in forwards]
    for text, place in zip(texts, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"--forward {text!r}: that port is forwarded twice")
    return forwards


def _forward(text: str) -> Forward:
    match = _FORWARD.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--forward {text!r}: not a port to forward",
            hint="write tcp:HOST_PORT:GUEST_PORT or udp:ADDRESS:HOST_PORT:GUEST_PORT",
        )
    protocol, address, port, guest_port = match[1], match[2] or LOOPBACK, int(match[3]), int(match[4])
    try:
        IPv4Address(address)
    except AddressValueError as error:
        raise UsageError(f"--forward {text!r}: {address!r} is no IPv4 address") from error
    for number in (port, guest_port):
        if not 1 <= number <= 65535:
            raise UsageError(f"--forward {text!r}: {number} is not a port")
    return Forward(protocol, address, port, guest_port)
