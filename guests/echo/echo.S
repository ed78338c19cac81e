/*
 * echo: a conversation.
 *
 * Bytes arrive by interrupt (16550A FIFO, IRQ 4) and wake the CPU from HLT; each line comes back in upper case with a
 * running number.  What is typed, and when it arrives, is input that no machine can compute: it is in the recording.
 */
#include "pc.h"
#include "multiboot.h"

        .intel_syntax noprefix

#define LINE_SIZE   128
#define BACKSPACE   0x08
#define DELETE      0x7f

        multiboot_elf

        .globl  main
main:
        call    open_receiver
        mov     eax, offset greeting
        call    print
next_line:
        call    read_line
        test    ecx, ecx
        jz      next_line
        cmp     dword ptr [line], 0x74697571    // "quit", and the NUL behind it
        jne     answer
        cmp     ecx, 4
        je      quit
answer:
        inc     dword ptr [count]
        mov     eax, [count]
        call    print_decimal
        mov     eax, offset separator
        call    print
        call    raise_line
        mov     eax, offset line
        call    print
        mov     al, '\n'
        call    put_char
        jmp     next_line
quit:
        mov     eax, offset farewell
        call    print
        mov     eax, [count]
        call    print_decimal
        mov     eax, offset lines_text
        call    print
        mov     eax, EXIT_SUCCESS
        ret

// Reads up to CR or LF into `line`, echoing, and returns the length in ECX; what does not fit is ignored.
read_line:
        xor     ecx, ecx
1:      call    read_char
        cmp     al, '\r'
        je      4f
        cmp     al, '\n'
        je      4f
        cmp     al, BACKSPACE
        je      2f
        cmp     al, DELETE
        je      2f
        cmp     al, ' '
        jb      1b
        cmp     ecx, LINE_SIZE - 1
        jae     1b
        mov     [line + ecx], al
        inc     ecx
        call    put_char
        jmp     1b
2:      test    ecx, ecx
        jz      1b
        dec     ecx
        mov     eax, offset erase
        call    print
        jmp     1b
4:      mov     byte ptr [line + ecx], 0
        mov     al, '\n'
        jmp     put_char

// Turns the ASCII letters of `line` to upper case.
raise_line:
        mov     esi, offset line
1:      mov     al, [esi]
        test    al, al
        jz      3f
        cmp     al, 'a'
        jb      2f
        cmp     al, 'z'
        ja      2f
        sub     byte ptr [esi], 'a' - 'A'
2:      inc     esi
        jmp     1b
3:      ret

        .section .rodata
greeting:
        .asciz  "echo: type lines, or quit\n"
separator:
        .asciz  ": "
farewell:
        .asciz  "echo: "
lines_text:
        .asciz  " lines\n"
erase:
        .byte   BACKSPACE, ' ', BACKSPACE, 0

        .bss
        .balign 4
count:
        .skip   4
line:
        .skip   LINE_SIZE
