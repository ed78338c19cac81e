"""Which machine a recording is of: the number of its model.

A recording replays exactly only on a machine that computes the same from the same.  What may differ between two
recordings stands in their manifests (`revirt.machine.config`); all the rest is the machine's *model*, and one number
stands for it.  Model 1 is:

    CPU       Unicorn's Nehalem, with the features that CPUID may offer (`revirt.machine.cpuid`): how exceptions,
              interrupts and system calls enter the kernel, who may use ports, what model-specific registers do
    clock     taken branches; nanoseconds from them by a base and a rate; a time-stamp counter of 1 GHz; with the
              virtual clock a halt ends at the next timer, at once
    memory    RAM from address 0 on and nothing else up to 2**40, where reads give ones
    devices   those of `revirt.machine.board`: which, at which ports, on which interrupt lines; their registers, and
              their timing (the 8254 at 1193182 Hz, the clock chip at 32768 Hz, a UART that sends at once)
    run loop  in which order things happen at one moment (`revirt.machine.machine`)
    log       what events do to the machine (a CHECKPOINT flushes the TLB), and where output is cut into events
    digests   what those of CPU, memory and devices, and the check of the registers, are hashes of

Model 2 has the devices that its configuration names (`revirt.machine.devices`), on PCI, with a bridge for their
interrupts if there are any; without any it is model 1.  With firmware its CPU also hears interrupts where a window
opens for them within a straight line (`revirt.core.Core.sees_windows`).

docs/log-format.md says when the number is raised, and what a revirt that knows several has to keep.
"""

from __future__ import annotations

MODEL = 2
"""The newest model, which new recordings are made with.  All from 1 on are known."""

WITHOUT_DEVICES = 1
"""The last model whose configuration has no devices."""
