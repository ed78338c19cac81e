"""A guest that calls itself, and is interrupted by one that calls: 16-bit code in which nothing is ever quiet."""

from __future__ import annotations

from pathlib import Path

from assembly import assemble

from revirt.image import Guest

SOURCE = """
        cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7000
        mov     al, 0x11        # ICW1: edge triggered, ICW4 follows
        out     0x20, al
        mov     al, 0x20        # ICW2: IRQ 0 is vector 0x20
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 1           # ICW4: 8086 mode
        out     0x21, al
        mov     al, 0xfe        # the timer, and nothing else
        out     0x21, al
        mov     word ptr [0x80], offset on_tick
        mov     word ptr [0x82], 0
        mov     al, 0x34        # channel 0, rate generator
        out     0x43, al
        mov     al, 12
        out     0x40, al
        xor     al, al
        out     0x40, al
        sti
again:  mov     cx, 7
        call    fibonacci
        jmp     again

fibonacci:
        cmp     cx, 2
        jb      leaf
        dec     cx
        push    cx
        call    fibonacci
        pop     cx
        push    ax
        dec     cx
        push    cx
        call    by_stack
        pop     bx
        add     ax, bx
        ret
leaf:   mov     ax, cx
        ret

by_stack:
        push    bp
        mov     bp, sp
        mov     cx, [bp + 4]
        call    fibonacci
        pop     bp
        ret     2

on_tick:
        push    ax
        push    cx
        mov     cx, 3
        call    spin
        mov     al, 0x20
        out     0x20, al
        pop     cx
        pop     ax
        iret
spin:   loop    spin
        ret
"""


def calling_in(directory: Path) -> Guest:
    """Return the guest, its image written to *directory*."""
    image = directory / "calling.bin"
    image.write_bytes(assemble(SOURCE, 16, 0x7C00))
    return Guest("calling", "calls itself", 1 << 20, file=image, format="flat", address=0x7C00)
