"""Ethernet frames: what is in them, and files that hold them.

layers     the parts of a frame, as far as its bytes go
summary    a frame in one line
dhcp       what a DHCP message is about
streams    TCP connections, put together again
capture    reads pcap and pcapng files
pcapng     writes pcapng files

Every byte of a frame or of a file may have been made to harm: what is not what it says is described, or refused with
CaptureError, and nothing here takes more memory than a few frames.
"""

from revirt.packets.capture import CapturedFrame, CaptureError, CaptureReader
from revirt.packets.layers import format_mac, parse_mac
from revirt.packets.pcapng import CaptureWriter
from revirt.packets.streams import Assembler, Chunk, StreamTable
from revirt.packets.summary import summarize

__all__ = [
    "Assembler",
    "CaptureError",
    "CaptureReader",
    "CaptureWriter",
    "CapturedFrame",
    "Chunk",
    "StreamTable",
    "format_mac",
    "parse_mac",
    "summarize",
]
