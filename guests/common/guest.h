/*
 * What the golden recordings' own guests share: ports, waiting, and the routines of protected.S and receiver.S.
 */
#ifndef GUEST_H
#define GUEST_H

#include "pc.h"

#define REGISTERS __attribute__((regparm(3)))
REGISTERS void print(const char *text);
REGISTERS void print_decimal(unsigned number);
REGISTERS void print_hex(unsigned number);
REGISTERS void put_char(char byte);
REGISTERS void set_gate(unsigned vector, void *handler, unsigned type);
void open_receiver(void);
unsigned char read_char(void);

#define INTERRUPT_GATE 0x8e

static inline void out8(unsigned short port, unsigned char value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline unsigned char in8(unsigned short port)
{
    unsigned char value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void out32(unsigned short port, unsigned value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline unsigned in32(unsigned short port)
{
    unsigned value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* FNV-1a, over words. */
static inline unsigned add_to(unsigned hash, unsigned value)
{
    return (hash ^ value) * 16777619u;
}

#define HASH_START 2166136261u

static inline void report(const char *what, unsigned value)
{
    print(what);
    put_char(' ');
    print_hex(value);
    put_char('\n');
}

#endif
