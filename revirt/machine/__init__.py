"""The virtual PC.

machine   the run loop, states and digests
board     which devices there are, where they sit, how they are wired
clock     the one clock that everything derives time from
inputs    the seam: what a machine cannot compute
device    what a device is, and the rules for writing one
state     device states as plain data
and a module for each device, and the buses
"""
