"""Virtio devices (OASIS, Virtual I/O Device Version 1.1) on PCI.

`queue`      virtqueues in the guest's memory
`transport`  what all functions share: status, features, queues, interrupts
`legacy`     its registers for drivers from before version 1.0
`modern`     its registers for drivers since
`net`, `blk`, `rng`, `console`  the devices
"""
