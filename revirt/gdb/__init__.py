"""gdb's remote serial protocol for recordings: steps and searches, forwards and backwards.

packets       the stream: framing, checksums, escapes
registers     what gdb is shown of the CPU, in its order
description   the same, and the memory, as XML
points        breakpoints and watchpoints
resuming      steps, searches, stop replies
monitor       commands behind gdb's "monitor"
stub          what each packet asks, and its answer
server        sockets: one client at a time, Ctrl-C while a search runs
launch        gdb itself
target        what all of that needs of a timeline
"""

from revirt.gdb.launch import COMMANDS, gdb_command
from revirt.gdb.registers import Architecture
from revirt.gdb.server import Server
from revirt.gdb.stub import Stub

__all__ = ["COMMANDS", "Architecture", "Server", "Stub", "gdb_command"]
