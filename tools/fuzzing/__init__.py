"""What `tools/fuzz.py` does to revirt.

cases        a case in a process of its own, and what became of it
recordings   damaged recordings, and all that the command line does with them
packs        damaged packs, unpacked
guests       guests of random code, recorded and replayed
drivers      guests that are bad drivers of all devices, recorded and replayed

batches      hostile files by the thousand in one process, and what became of them
files        a case of these: made, run, and counted
targets      what reads a kind of files; `members`, `indexes`, `strange`, `pack_files` and `seals` are those there are
packets      what gdb's stub is sent, as if it were a file; `streams` makes it
changes      changes of bytes that know nothing of what they mean
forgery      changes behind the checks, which are made right again; `texts` for JSON
runs         machines that hostile files describe
watch        what a case must not do: reach outside of its directory, hang, take memory

boards       what a hostile guest does to a board, and what has to be the same each time
states       hostile states of devices
bench        a board with everything plugged, and the rules it has to keep; `acts` is what may be done to it;
             its memory lies between `fences`
mischief     acts, made up; `rings` are those of a bad driver of virtio devices; `chances` is what bytes make of them

guided       the same targets, with coverage to lead the way
"""


class FuzzError(Exception):
    """A case came out as it must not."""
