"""A guest of a few instructions: it changes a page table entry, does not tell, and reads through it 10,000 times."""

from __future__ import annotations

from pathlib import Path

from revirt.image import Guest

CODE = bytes.fromhex(
    "fa"  #                     cli
    "66b803000000"  #           mov eax, 3
    "bf0030"  #                 mov di, 0x3000
    "b90001"  #                 mov cx, 256
    "66ab"  #                   stosd               the page table: 1 MiB onto itself
    "660500100000"  #           add eax, 0x1000
    "e2f6"  #                   loop                back to the STOSD
    "66c706002003300000"  #     mov dword ptr [0x2000], 0x3003
    "66b800200000"  #           mov eax, 0x2000
    "0f22d8"  #                 mov cr3, eax
    "66b801000080"  #           mov eax, 0x80000001
    "0f22c0"  #                 mov cr0, eax        paging is on
    "fe060090"  #               inc byte ptr [0x9000]
    "66c706243003800000"  #     mov dword ptr [0x3024], 0x8003      now 0x9000 leads to 0x8000, which holds 0
    "b91027"  #                 mov cx, 10000
    "021e0090"  #               add bl, [0x9000]
    "e2fa"  #                   loop                back to the ADD
    "b010"  #                   mov al, 0x10
    "e6f4"  #                   out 0xf4, al        exit
    "f4"  #                     hlt
)


def guest_in(directory: Path) -> Guest:
    """Return the guest, its image written to *directory*."""
    image = directory / "stale.bin"
    image.write_bytes(CODE)
    return Guest(
        "stale", "reads through a stale translation", 1 << 20, file=image, format="flat", address=0x7C00
    )
