/*
 * The Multiboot 1 header (Multiboot Specification 0.6.96, 3.1), which must lie in the image's first 8 KiB.
 */
#define MULTIBOOT_MAGIC     0x1badb002
#define MULTIBOOT_ADDRESSES 0x10000

/* An ELF image says itself where it goes. */
.macro  multiboot_elf
        .section .multiboot, "a"
        .balign 4
        .long   MULTIBOOT_MAGIC, 0, -MULTIBOOT_MAGIC
        .text
.endm

/* A flat image must be told: the header's own address, where to load, end of data, end of BSS, entry. */
.macro  multiboot_flat
        .section .multiboot, "a"
        .balign 4
multiboot:
        .long   MULTIBOOT_MAGIC, MULTIBOOT_ADDRESSES, -(MULTIBOOT_MAGIC + MULTIBOOT_ADDRESSES)
        .long   multiboot, image_start, image_end, bss_end, _start
        .text
.endm
