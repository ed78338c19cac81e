"""What `tools/tamper.py` does to sealed recordings.

making     recorders whose keys, epochs and end are known, and what an onlooker saw of their seal
samples    the recordings that are tampered with
scribe     small recordings of no guest, for those that have to be many
book       a recording to be edited: everything that a format knows is made right again when it is written
forging    seals made again, with no key, with another one, or with one that was stolen
tampering  what a change is: what it did, where it should be found
edits      changes of what was recorded
contents   these, and how they are hidden
seals      changes of seals, of manifests, and of what is missing
thieves    what is done with a stolen key
meaning    what a recording says, so that a change that changes nothing is not called one
judge      whether a verification said what it should
legal      recordings with which nothing is wrong
"""
