"""What the bundled guest `plugged` is recorded with: two frames, and somebody who presses its keys."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from revirt.image import find
from revirt.monitor.network import networks_of, open_network
from revirt.monitor.plugs import NicPlug, Plugs, of_guest
from revirt.monitor.sources import KeySource

GUEST = find("plugged")
FRAMES = Path(__file__).parents[1] / "guests" / "plugged" / "frames.pcap"


class Hands:
    """Presses keys, and sees nothing."""

    def __init__(self) -> None:
        self.keys = KeySource()
        self.press = self.keys.press

    def text(self) -> str:
        return ""


def plugs(keys: KeySource, frames: Path = FRAMES) -> Plugs:
    """Return everything that the guest drives, connected."""
    (spec,) = networks_of([f"pcap:{frames}"])
    card = NicPlug(spec.mac.hex(":"), partial(open_network, spec))
    return replace(of_guest(GUEST), nics=(card,), keys=keys)
