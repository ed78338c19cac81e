# Reads and writes its disk, one sector after the other, for ROUNDS rounds (0: for ever), on SECTORS sectors.
#
# In round i, from 1 on, it reads sector 7 * i modulo SECTORS, adds i to each 32-bit word of it, writes it back, and
# prints a dot; an E if the disk said that it cannot.  A boot sector, in the syntax of Intel, for 16-bit code.
#
# The legacy registers of virtio over PCI: Virtual I/O Device 1.1, 4.1.4.8; the queue's layout: 2.6.

        .equ    BASE, 0x600             # where the registers of the disk are
        .equ    STATUS, 0x6f0           # what the disk says of a request
        .equ    HEADER, 0x700
        .equ    DATA, 0x800
        .equ    AVAILABLE, 0x1000       # in the segment of the queue, which has 256 entries
        .equ    USED, 0x2000
        .equ    QUEUE_PAGE, 0x10

        cli
        cld
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x5000
        mov     ax, QUEUE_PAGE << 8
        mov     gs, ax

        mov     eax, 0x80001810         # slot 3, BAR 0
        mov     dx, 0xcf8
        out     dx, eax
        mov     dx, 0xcfc
        in      eax, dx
        and     ax, 0xfffc
        mov     [BASE], ax

        lea     dx, [eax + 18]          # acknowledge, driver
        mov     al, 3
        out     dx, al
        mov     dx, [BASE]
        add     dx, 8
        mov     eax, QUEUE_PAGE
        out     dx, eax
        mov     dx, [BASE]
        add     dx, 18
        mov     al, 7                   # driver ok
        out     dx, al

        mov     dword ptr gs:[0], HEADER
        mov     dword ptr gs:[8], 16
        mov     dword ptr gs:[12], 0x10001
        mov     dword ptr gs:[16], DATA
        mov     dword ptr gs:[24], 512
        mov     dword ptr gs:[28], 0x20001
        mov     dword ptr gs:[32], STATUS
        mov     dword ptr gs:[40], 1
        mov     dword ptr gs:[44], 2

        xor     ebp, ebp                # the round
        xor     ebx, ebx                # the sector
round:
        inc     ebp
        add     ebx, 7
1:      cmp     ebx, SECTORS
        jb      2f
        sub     ebx, SECTORS
        jmp     1b
2:      xor     eax, eax
        call    request
        mov     si, DATA
        mov     cx, 128
3:      add     [si], ebp
        add     si, 4
        loop    3b
        mov     eax, 1
        call    request
        mov     al, '.'
        cmp     byte ptr [STATUS], 0
        je      4f
        mov     al, 'E'
4:      mov     dx, 0x3f8
        out     dx, al
        mov     al, 10
        out     dx, al
        cmp     ebp, ROUNDS
        jne     round
        mov     dx, 0xf4
        mov     al, 0x10
        out     dx, al
        hlt

request:                                # eax: 0 to read, 1 to write; ebx: which sector
        mov     [HEADER], eax
        mov     dword ptr [HEADER + 4], 0
        mov     [HEADER + 8], ebx
        mov     dword ptr [HEADER + 12], 0
        xor     al, 1
        shl     al, 1
        or      al, 1                   # followed by another, and to be written unless the disk is
        mov     gs:[28], al
        inc     word ptr gs:[AVAILABLE + 2]
        mov     dx, [BASE]
        add     dx, 16
        xor     ax, ax
        out     dx, ax
5:      mov     ax, gs:[AVAILABLE + 2]
        cmp     ax, gs:[USED + 2]
        jne     5b
        ret
