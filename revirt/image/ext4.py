"""File systems of the ext4 kind, made without root, and the same bytes every time.

mke2fs makes one out of a directory of the host.  What it takes from that directory and from the host, owners and
times, is put right by debugfs; what it would draw by lot, it is given.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from revirt.errors import BuildError
from revirt.image.cpio import Entry
from revirt.image.tools import E2FSPROGS, Toolbox

BLOCK_SIZE = 4096

TIME = 1_577_836_800
"""When everything in it was made, in Unix seconds: the first moment of 2020."""

_INODES = 4096
_JOURNAL_MIB = 4

# What GRUB 2.06 and Linux from 4.0 on both know.
_FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
# Nothing may be left for the guest to do in the background.
_EXTENDED = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,hash_seed={uuid}"
_CONFIGURATION = "[defaults]\n[fs_types]\next4 = {\n}\nsmall = {\n}\n"


def make_file_system(entries: Iterable[Entry], size: int, uuid: str, toolbox: Toolbox) -> bytes:
    """Return an ext4 of *size* bytes, a multiple of 4096, with *entries*: directories, files and links.

    A directory stands before what is in it.  Raises BuildError if they do not fit, or the tools for it are not to
    be had.
    """
    entries = list(entries)
    with tempfile.TemporaryDirectory(dir=toolbox.scratch, prefix="root-") as name:
        tree, image, script = (Path(name, part) for part in ("tree", "image", "script"))
        _lay_out(entries, tree)
        configuration = Path(name, "mke2fs.conf")
        configuration.write_text(_CONFIGURATION)
        # Which of the two names counts is a matter of the release.
        environment = {
            "E2FSPROGS_FAKE_TIME": str(TIME),
            "SOURCE_DATE_EPOCH": str(TIME),
            "MKE2FS_CONFIG": str(configuration),
        }
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_SIZE), "-I", "256", "-N", str(_INODES)]
        command += ["-m", "0", "-O", _FEATURES, "-J", f"size={_JOURNAL_MIB}", "-U", uuid, "-L", "revirt"]
        command += ["-E", _EXTENDED.format(uuid=uuid), "-d", str(tree), str(image), str(size // BLOCK_SIZE)]
        toolbox.run(command, E2FSPROGS, environment)
        script.write_text("".join(_corrections(entries)))
        toolbox.run(["debugfs", "-w", "-f", str(script), str(image)], E2FSPROGS, environment)
        return image.read_bytes()


def _lay_out(entries: Iterable[Entry], tree: Path) -> None:
    """Put *entries* into the new directory *tree* of the host."""
    tree.mkdir()
    for entry in entries:
        path = tree / entry.name
        if stat.S_ISDIR(entry.mode):
            path.mkdir()
        elif stat.S_ISLNK(entry.mode):
            path.symlink_to(entry.data.decode())
            continue
        elif stat.S_ISREG(entry.mode):
            path.write_bytes(entry.data)
        else:
            raise BuildError(f"{entry.name} is neither a directory, a file nor a link")
        path.chmod(stat.S_IMODE(entry.mode))


def _corrections(entries: Iterable[Entry]) -> Iterable[str]:
    """Yield what debugfs has to do so that nothing of the host is left."""
    for name in ("", "lost+found", *(entry.name for entry in entries)):
        for field, value in (("uid", "0"), ("gid", "0"), *((f"{kind}time", f"@{TIME}") for kind in "acm")):
            yield f'sif "/{name}" {field} {value}\n'
