"""The network's outside: what a network card of a live guest is connected to on the host.

backend    what all have in common: a bounded queue, a thread that fills it
framing    frames on a stream of bytes
stream     a UNIX socket
passt      the program passt, which has sockets on the host for what a guest sends
handshake  what passt of Debian leaves out of TCP, and takes wrongly
tap        a TAP interface of the host
played     a capture file, played in by the machine's clock
spec       the texts that people name them by

Rules:
- Nothing here blocks the machine.  What it does not take in time waits at the far end; what that does not take is
  dropped and counted, as a real card does.
- A peer that goes away ends its network, never the recording: `Backend.fault` says what happened.
- When a frame arrives is for the monitor to decide and to write down; here it only waits.
"""

from revirt.monitor.network.backend import Backend, Drops
from revirt.monitor.network.passt import Forward
from revirt.monitor.network.spec import NetworkSpec, networks_of, open_network

__all__ = ["Backend", "Drops", "Forward", "NetworkSpec", "networks_of", "open_network"]
