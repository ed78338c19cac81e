/*
 * plugged: drives every device that can be plugged into a machine, by the legacy interface of virtio (Virtual I/O Device
 * 1.1, 4.1.4.8 and 2.6.2), and says what came of it.
 *
 * It reads, writes and reads again a disk, asks for random bytes, prints on the other console, answers two frames, waits
 * for a key, and leaves its name on the screen.
 */
#include "guest.h"

#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define PCI_BAR0 0x10
#define KBD_DATA 0x60

#define VENDOR_VIRTIO 0x1af4
#define NET 0x1000
#define DISK 0x1001
#define CONSOLE 0x1003
#define ENTROPY 0x1005

#define QUEUE_ADDRESS 8
#define QUEUE_SELECT 14
#define QUEUE_NOTIFY 16
#define STATUS 18
#define ISR 19
#define DRIVER_OK 7 /* and ACKNOWLEDGE, DRIVER */

#define SIZE 256
#define PAGE 4096
#define NEXT 1
#define WRITE 2

#define SECTOR 512
#define BLK_IN 0
#define BLK_OUT 1
#define BLK_FLUSH 4
#define NET_HEADER 10
#define FRAMES 2
#define FRAME_ROOM 2048

struct descriptor {
    unsigned long long address;
    unsigned length;
    unsigned short flags, next;
};

struct queue {
    struct descriptor descriptors[SIZE];
    struct {
        unsigned short flags, index, heads[SIZE], event;
    } available;
    __attribute__((aligned(PAGE))) struct {
        unsigned short flags, index;
        struct {
            unsigned head, written;
        } buffers[SIZE];
        unsigned short event;
    } used;
};

struct device {
    unsigned ports;
    volatile struct queue *queues[2];
};

struct piece {
    void *at;
    unsigned length, flags;
};

static __attribute__((aligned(PAGE))) struct queue memory[6];
static unsigned queues_taken;
static struct device net, disk, console, entropy;
static volatile unsigned char last_key;

struct frame;
static void acknowledge(void)
{
    const struct device *all[] = {&net, &disk, &console, &entropy};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->ports != 0)
            in8(all[i]->ports + ISR);
    out8(PIC2, OCW2_EOI);
    out8(PIC1, OCW2_EOI);
}

static __attribute__((interrupt)) void on_device(struct frame *frame)
{
    (void)frame;
    acknowledge();
}

static __attribute__((interrupt)) void on_key(struct frame *frame)
{
    (void)frame;
    last_key = in8(KBD_DATA);
    out8(PIC1, OCW2_EOI);
}

static void sleep_once(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

static inline void out16(unsigned short port, unsigned short value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static unsigned read_config(unsigned slot, unsigned offset)
{
    out32(PCI_ADDRESS, 0x80000000u | slot << 11 | offset);
    return in32(PCI_DATA);
}

static void open_device(struct device *device, unsigned id, unsigned queues)
{
    for (unsigned slot = 1; slot < 32; slot++)
        if (read_config(slot, 0) == (id << 16 | VENDOR_VIRTIO))
            device->ports = read_config(slot, PCI_BAR0) & ~3u;
    for (unsigned i = 0; i < queues; i++) {
        device->queues[i] = &memory[queues_taken++];
        out16(device->ports + QUEUE_SELECT, i);
        out32(device->ports + QUEUE_ADDRESS, (unsigned)device->queues[i] / PAGE);
    }
    out8(device->ports + STATUS, DRIVER_OK);
}

/* Makes a buffer of *pieces* available, which begins with descriptor *first*. */
static void offer(struct device *device, unsigned number, unsigned first, const struct piece *pieces, unsigned count)
{
    volatile struct queue *queue = device->queues[number];
    for (unsigned i = 0; i < count; i++)
        queue->descriptors[first + i] = (struct descriptor){
            (unsigned)pieces[i].at, pieces[i].length, pieces[i].flags | (i + 1 < count ? NEXT : 0), first + i + 1};
    queue->available.heads[queue->available.index % SIZE] = first;
    queue->available.index++;
    out16(device->ports + QUEUE_NOTIFY, number);
}

/* Waits until *count* buffers, or more, have come back in all. */
static void wait_for(struct device *device, unsigned number, unsigned short count)
{
    while ((short)(device->queues[number]->used.index - count) < 0)
        sleep_once();
}

static unsigned hash_of(const unsigned char *bytes, unsigned size)
{
    unsigned hash = HASH_START;
    for (unsigned i = 0; i < size; i++)
        hash = add_to(hash, bytes[i]);
    return hash;
}

/* ---- what it does -------------------------------------------------------------------------------------------- */

static unsigned char transfer(unsigned type, unsigned sector, unsigned char *data, unsigned size)
{
    static unsigned short done;
    static struct {
        unsigned type, reserved;
        unsigned long long sector;
    } header;
    static unsigned char status;
    struct piece pieces[] = {
        {&header, sizeof header, 0}, {data, size, type == BLK_IN ? WRITE : 0}, {&status, 1, WRITE}};
    header.type = type;
    header.sector = sector;
    status = 0xff;
    if (size == 0)
        pieces[1] = pieces[2];
    offer(&disk, 0, 0, pieces, size == 0 ? 2 : 3);
    wait_for(&disk, 0, ++done);
    return status;
}

static void use_disk(void)
{
    static unsigned char data[4 * SECTOR];
    unsigned hash = transfer(BLK_IN, 0, data, sizeof data);
    report("disk", add_to(hash, hash_of(data, sizeof data)));
    for (unsigned i = 0; i < SECTOR; i++)
        data[i] = i * i >> 3;
    report("write", transfer(BLK_OUT, 5, data, SECTOR));
    report("flush", transfer(BLK_FLUSH, 0, data, 0));
    report("beyond", transfer(BLK_OUT, 1u << 20, data, SECTOR));
    hash = transfer(BLK_IN, 4, data, sizeof data);
    report("again", add_to(hash, hash_of(data, sizeof data)));
}

static void use_entropy(void)
{
    static unsigned char data[24];
    offer(&entropy, 0, 0, &(struct piece){data, sizeof data, WRITE}, 1);
    wait_for(&entropy, 0, 1);
    report("entropy", hash_of(data, entropy.queues[0]->used.buffers[0].written));
}

static void use_console(void)
{
    static char text[] = "hello from the other console\n";
    offer(&console, 1, 0, &(struct piece){text, sizeof text - 1, 0}, 1);
    wait_for(&console, 1, 1);
}

static void use_net(void)
{
    static unsigned char frames[FRAMES][FRAME_ROOM];
    for (unsigned i = 0; i < FRAMES; i++)
        offer(&net, 0, i, &(struct piece){frames[i], FRAME_ROOM, WRITE}, 1);
    for (unsigned i = 0; i < FRAMES; i++) {
        wait_for(&net, 0, i + 1);
        unsigned length = net.queues[0]->used.buffers[i].written;
        report("frame", add_to(length, hash_of(frames[i], length)));
        for (unsigned at = 0; at < 6; at++) {
            unsigned char byte = frames[i][NET_HEADER + at];
            frames[i][NET_HEADER + at] = frames[i][NET_HEADER + 6 + at];
            frames[i][NET_HEADER + 6 + at] = byte;
        }
        offer(&net, 1, i, &(struct piece){frames[i], length, 0}, 1);
        wait_for(&net, 1, i + 1);
    }
}

static void use_keyboard(void)
{
    while (last_key == 0)
        sleep_once();
    report("key", last_key);
}

int main(void)
{
    static const char name[] = "plugged";
    volatile unsigned short *screen = (unsigned short *)0xb8000;
    set_gate(VECTOR_BASE + 1, on_key, INTERRUPT_GATE);
    set_gate(VECTOR_BASE + 10, on_device, INTERRUPT_GATE);
    set_gate(VECTOR_BASE + 11, on_device, INTERRUPT_GATE);
    out8(PIC1 + 1, 0xff & ~(1 << 1 | 1 << 2));
    out8(PIC2 + 1, 0xff & ~(1 << 2 | 1 << 3));
    open_device(&net, NET, 2);
    open_device(&disk, DISK, 1);
    open_device(&entropy, ENTROPY, 1);

    use_disk();
    use_entropy();
    open_device(&console, CONSOLE, 2);
    use_console();
    use_net();
    for (unsigned i = 0; i < sizeof name - 1; i++)
        screen[i] = 0x1f00 | name[i];
    print("press a key\n");
    use_keyboard();
    return EXIT_SUCCESS;
}
