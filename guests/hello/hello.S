/*
 * hello: the smallest guest.
 *
 * Real mode, no interrupts, no input: one line on the serial port by polling, then the debug-exit port.  It shows
 * that an image is loaded and entered, that port I/O reaches the devices, and that a run ends with its exit code.
 */
#include "real.S"

        .globl  _start
_start:
        enter
        mov     si, offset greeting
        call    print
        finish  EXIT_SUCCESS

        serial_routines

greeting:
        .asciz  "hello: a guest is running\n"
