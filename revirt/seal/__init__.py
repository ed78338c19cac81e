"""The seal: what proves, to somebody who was not there, that a recording is as it was made.

merkle     the history tree: one hash for all that was recorded, short proofs about it
blocks     the events of a segment as a tree of their own, so that one event can be proven
memory     the pages of a guest's memory as a tree, kept up to date
dsse       the envelope around whatever is signed
keys       Ed25519 keys, and the files they are kept in
schedule   keys that are destroyed one after the other while recording goes on
epochs     signatures of those keys, checked with the user's public key
leaves     what the history tree of a recording is made of, and the files that hold it
heads      what is signed: how far the tree had grown, what was evicted, how it ended
proofs     that one event is in a recording, for who has nothing else of it
fields     JSON and base64 from somebody else

Here are the parts; what of a recording they are put to is decided above.  docs/sealing.md says what a seal
proves, what it does not, and how all of it looks byte by byte.
"""
