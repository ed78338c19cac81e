"""Guests and their images: what is loaded into an empty machine, and how it starts."""

from revirt.image.boot import Boot as Boot
from revirt.image.boot import CpuStart as CpuStart
from revirt.image.boot import Mode as Mode
from revirt.image.guest import Guest as Guest
from revirt.image.guest import find as find
from revirt.image.guest import from_bios as from_bios
from revirt.image.guest import from_command_line as from_command_line
from revirt.image.guest import guests as guests
from revirt.image.guest import parse_size as parse_size
from revirt.image.spec import ImageSpec as ImageSpec
from revirt.image.spec import load as load
