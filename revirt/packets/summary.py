"""A frame in one line of words, for people: who, to whom, what.

The text is ASCII and short, whatever the frame: addresses and numbers, never bytes of a payload.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from revirt.packets.dhcp import PORTS as DHCP_PORTS
from revirt.packets.dhcp import summarize_dhcp
from revirt.packets.layers import (
    ACK,
    ARP,
    FLAGS,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    TCP,
    UDP,
    Arp,
    Datagram,
    Ethernet,
    Ip,
    Segment,
    format_mac,
)

_NETWORKS = {IPV4: "IPv4", IPV6: "IPv6", ARP: "ARP"}
_PROTOCOLS = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPV6: "ICMPv6", 2: "IGMP", 132: "SCTP"}
_ICMP = {
    (0, None): "echo reply",
    (8, None): "echo request",
    (3, 0): "network unreachable",
    (3, 1): "host unreachable",
    (3, 3): "port unreachable",
    (3, 4): "fragmentation needed",
    (3, None): "unreachable",
    (5, None): "redirect",
    (11, None): "time exceeded",
}
_ICMPV6 = {
    (128, None): "echo request",
    (129, None): "echo reply",
    (1, 4): "port unreachable",
    (1, None): "unreachable",
    (2, None): "packet too big",
    (3, None): "time exceeded",
    (133, None): "router solicitation",
    (134, None): "router advertisement",
    (135, None): "neighbour solicitation",
    (136, None): "neighbour advertisement",
    (143, None): "multicast listener report",
}
_ECHOES = ("echo request", "echo reply")
_NEIGHBOURS = ("neighbour solicitation", "neighbour advertisement")


def summarize(frame: bytes) -> str:
    """Return what the Ethernet *frame* is, in a line."""
    ethernet = Ethernet.parse(frame)
    if ethernet is None:
        return f"cut short: {len(frame)} bytes"
    text = _inside(ethernet)
    return text if ethernet.vlan is None else f"vlan {ethernet.vlan} {text}"


def _inside(ethernet: Ethernet) -> str:
    ip = Ip.parse(ethernet)
    if ip is not None:
        return _packet(ip)
    arp = Arp.parse(ethernet.payload) if ethernet.kind == ARP else None
    if arp is not None:
        return _arp(arp)
    between = f"{format_mac(ethernet.source)} > {format_mac(ethernet.destination)}"
    if ethernet.kind in _NETWORKS:
        return f"{_NETWORKS[ethernet.kind]} {between} malformed"
    kind = f"type {ethernet.kind:#06x}" if ethernet.kind else "802.3"
    return f"Ethernet {between} {kind} len {len(ethernet.payload)}"


def _arp(arp: Arp) -> str:
    match arp.operation:
        case 1:
            return f"ARP who has {arp.target}, asks {arp.sender}"
        case 2:
            return f"ARP {arp.sender} is at {format_mac(arp.sender_mac)}"
    return f"ARP operation {arp.operation}"


def _packet(ip: Ip) -> str:
    name = _PROTOCOLS.get(ip.protocol, f"protocol {ip.protocol}")
    between = f"{ip.source} > {ip.destination}"
    text = None
    if ip.offset:
        text = f"{name} {between} len {ip.size}"
    elif (segment := Segment.parse(ip)) is not None:
        text = _segment(ip, segment)
    elif (datagram := Datagram.parse(ip)) is not None:
        text = _datagram(ip, datagram)
    elif ip.protocol in (ICMP, ICMPV6) and len(ip.payload) >= 4:
        text = f"{name} {between} {_control(ip)}"
    elif ip.protocol in (TCP, UDP, ICMP, ICMPV6):
        text = f"{name} {between} malformed"
    else:
        text = f"{name} {between} len {ip.size}"
    if ip.is_fragment:
        text += f", fragment at {ip.offset}" + ("" if ip.more else ", the last")
    elif ip.is_cut:
        text += ", cut short"
    return text


def _segment(ip: Ip, segment: Segment) -> str:
    flags = " ".join(name for name, bit in FLAGS.items() if segment.flags & bit)
    words = [
        f"TCP {_end(ip.source, segment.source_port)} > {_end(ip.destination, segment.destination_port)}",
        flags or "no flags",
        f"seq {segment.sequence}",
    ]
    if segment.flags & ACK:
        words.append(f"ack {segment.acknowledged}")
    words += [f"win {segment.window}", f"len {segment.size}"]
    return " ".join(words)


def _datagram(ip: Ip, datagram: Datagram) -> str:
    if datagram.source_port in DHCP_PORTS and datagram.destination_port in DHCP_PORTS:
        text = summarize_dhcp(datagram.payload)
        if text is not None:
            return text
    source, destination = (
        _end(ip.source, datagram.source_port),
        _end(ip.destination, datagram.destination_port),
    )
    return f"UDP {source} > {destination} len {datagram.size}"


def _control(ip: Ip) -> str:
    """Return what an ICMP message (RFC 792) or one of ICMPv6 (RFC 4443, 4861) says."""
    kind, code = ip.payload[0], ip.payload[1]
    names = _ICMP if ip.protocol == ICMP else _ICMPV6
    name = names.get((kind, code)) or names.get((kind, None)) or f"type {kind} code {code}"
    if name in _ECHOES and len(ip.payload) >= 8:
        identifier, sequence = struct.unpack_from(">HH", ip.payload, 4)
        return f"{name} id {identifier} seq {sequence} len {ip.size - 8}"
    if name in _NEIGHBOURS and len(ip.payload) >= 24:
        return f"{name} for {IPv6Address(ip.payload[8:24])}"
    return name


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
