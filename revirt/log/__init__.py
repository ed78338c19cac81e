"""The log: what happened to a guest, in order, on disk.

events     the vocabulary: kinds of event and what they carry
columns    a run of events as bytes
frame      the header, checks and compression around any payload
segment    a run of events in a file
writer     cuts, packs and writes behind the guest's back
reader     gives the events back
strict_json  JSON that may come from anybody
"""
