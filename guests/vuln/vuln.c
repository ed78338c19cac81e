/*
 * vuln: a service that can be taken over through the serial line.
 *
 * `name` copies what was typed into 64 bytes of stack without asking how much it is.  A longer name runs over the
 * return address of `greet`, and with it an attacker chooses where the CPU goes on: attack.py builds a line that
 * carries its own code along.  A recording of that shows what came in, what it overwrote, and who wrote each byte.
 *
 * Nothing calls `grant`: if it runs, the service has been taken over.
 */
#include "pc.h"

#define LINE_SIZE 256

/* From protected.S and receiver.S, which take arguments in registers. */
#define REGISTERS __attribute__((regparm(3)))
REGISTERS void print(const char *text);
REGISTERS void print_decimal(unsigned number);
REGISTERS void put_char(char byte);
REGISTERS _Noreturn void finish(int exit_code);
void open_receiver(void);
unsigned char read_char(void);

int main(void);
_Noreturn void grant(void);

/* Not static: the attack, and whoever looks into it, find these by name. */
volatile int admin;
char banner[] = "vuln";
char line[LINE_SIZE];

static int is_printable(char byte)
{
    return byte >= ' ' && byte <= '~';
}

/* Prints text of unknown origin: what a terminal might obey becomes a dot. */
static void print_text(const char *text)
{
    for (; *text != '\0'; text++)
        put_char(is_printable(*text) ? *text : '.');
}

/* Reads up to CR or LF into `line`; a longer one is cut, so that this is not the hole. */
static void read_line(void)
{
    unsigned length = 0;

    for (;;) {
        char byte = read_char();

        if (byte == '\r' || byte == '\n')
            break;
        if (byte == '\b' || byte == 0x7f) {
            if (length > 0) {
                length--;
                print("\b \b");
            }
        } else if (length < LINE_SIZE - 1) {
            line[length++] = byte;
            put_char(is_printable(byte) ? byte : '.');
        }
    }
    line[length] = '\0';
    put_char('\n');
}

/* Returns what follows `command` and its space in `line`, or a null pointer if `line` is another command. */
static char *argument(const char *command)
{
    char *at = line;

    while (*command != '\0')
        if (*at++ != *command++)
            return 0;
    if (*at == ' ')
        return at + 1;
    return *at == '\0' ? at : 0;
}

static unsigned read_number(char **at)
{
    unsigned number = 0;

    while (**at == ' ')
        ++*at;
    while (**at >= '0' && **at <= '9')
        number = number * 10 + (unsigned)(*(*at)++ - '0');
    return number;
}

/* The hole: copies until the NUL, however far that is. */
static void copy(char *to, const char *from)
{
    while ((*to++ = *from++) != '\0')
        ;
}

__attribute__((noinline)) static void greet(const char *text)
{
    char name[64];

    copy(name, text);
    print("hello, ");
    print_text(name);
    put_char('\n');
}

__attribute__((used)) _Noreturn void grant(void)
{
    print("root: access granted\n");
    for (;;) {
        print(banner);
        print("# ");
        read_line();
        if (argument("flag"))
            print(admin ? "flag{replayed bit for bit}\n" : "admin is not set\n");
        else if (argument("halt"))
            finish(EXIT_SUCCESS);
        else
            print("flag, halt\n");
    }
}

static void serve(void)
{
    char *rest;

    if (argument("help")) {
        print("help, echo TEXT, sum N N, name TEXT, quit\n");
    } else if ((rest = argument("echo")) != 0) {
        print_text(rest);
        put_char('\n');
    } else if ((rest = argument("sum")) != 0) {
        unsigned first = read_number(&rest);

        print_decimal(first + read_number(&rest));
        put_char('\n');
    } else if ((rest = argument("name")) != 0) {
        greet(rest);
    } else if (argument("quit")) {
        print("bye\n");
        finish(EXIT_SUCCESS);
    } else if (line[0] != '\0') {
        print("no such command; try help\n");
    }
}

int main(void)
{
    open_receiver();
    print("vuln: a service for everyone\n");
    for (;;) {
        print(banner);
        print("> ");
        read_line();
        serve();
    }
}
