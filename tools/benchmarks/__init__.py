"""What `tools/bench.py` measures, and how.

measure      processes timed, rounds that alternate, figures with their spread and bar
workloads    what is typed into the Debian guest
recording    recorded against unrecorded, replay against record, bytes of log
compute      the machine against bare Unicorn
sealing      sealed against recorded, and proofs of events
checkpoints  what taking a checkpoint and restoring one cost
qemu         the same work in QEMU, plain, recorded and replayed
outside      what network cards and disks carry, here and in QEMU
worker       what is timed inside a fresh process
"""
