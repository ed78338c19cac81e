"""What `tools/fuzz.py` does to revirt.

recordings   damaged recordings, and all that the command line does with them
packs        damaged packs, unpacked
guests       guests of random code, recorded and replayed
cases        a case in a process of its own, and what became of it
"""


class FuzzError(Exception):
    """A case came out as it must not."""
