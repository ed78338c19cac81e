"""What `tools/walk.py` does to timelines, and how it knows what they should be.

samples    recordings to walk through
moves      a move, and random ones
walks      a walk, the stops it comes to, and the fewest moves that go wrong
straight   what a replay that goes straight ahead finds at the same positions
finds      searches, and what such a replay sees of what they look for
"""
