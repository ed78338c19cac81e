/*
 * A board that notes are pinned to, on TCP port 4444: one process for each connection, one command on each line.
 *
 *     sign NAME    say who you are
 *     post TEXT    pin a note to the board
 *     list         which notes there are
 *     show N       read one of them
 *     uptime       how long the host has been up
 *     quit
 *
 * It has two of the holes that services had when everybody wrote them like this:
 *
 *     sign         copies a name into 64 bytes of its stack, however long it is
 *     show         takes a note, which a stranger wrote, for a format of printf
 *
 * It is compiled without what compilers do against that (revirt/image/compiler.py).  attack.py uses either hole.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PORT = 4444,
    LINE_SIZE = 1024,
    NAME_SIZE = 64,
    NOTE_COUNT = 16,
};

struct command {
    const char *name;
    void (*run)(char *argument, size_t length);
};

static void sign(char *argument, size_t length);
static void post(char *argument, size_t length);
static void list(char *argument, size_t length);
static void show(char *argument, size_t length);
static void uptime(char *argument, size_t length);

/* Not static: the attack finds it by its name. */
struct command commands[] = {
    {"sign", sign}, {"post", post}, {"list", list}, {"show", show}, {"uptime", uptime},
};

static char author[NAME_SIZE] = "nobody";
static char *notes[NOTE_COUNT];
static unsigned note_count;

static __attribute__((noinline)) void sign(char *argument, size_t length)
{
    char name[NAME_SIZE];

    memcpy(name, argument, length);
    name[length] = '\0';
    snprintf(author, sizeof author, "%s", name);
    printf("hello, %s\n", author);
}

static void post(char *argument, size_t length)
{
    if (length == 0 || note_count == NOTE_COUNT) {
        puts(length == 0 ? "nothing to pin" : "the board is full");
        return;
    }
    notes[note_count++] = strdup(argument);
    printf("pinned as %u\n", note_count);
}

static void list(char *argument, size_t length)
{
    (void)argument;
    (void)length;
    for (unsigned i = 0; i < note_count; i++)
        printf("%u: %zu bytes by %s\n", i + 1, strlen(notes[i]), author);
    printf("%u notes\n", note_count);
}

static __attribute__((noinline)) void show(char *argument, size_t length)
{
    unsigned number = strtoul(argument, NULL, 10);

    (void)length;
    if (number == 0 || number > note_count) {
        puts("no such note");
        return;
    }
    printf(notes[number - 1]);
    putchar('\n');
}

static void uptime(char *argument, size_t length)
{
    (void)argument;
    (void)length;
    fflush(stdout);
    if (system("cat /proc/uptime") != 0)
        puts("nobody knows");
}

/* Reads a line, at most size - 1 bytes of it, and ends it with a NUL in place of its newline; -1 at the end. */
static ssize_t read_line(char *line, size_t size)
{
    size_t length = 0;

    while (length < size - 1) {
        if (read(STDIN_FILENO, line + length, 1) != 1)
            return -1;
        if (line[length] == '\n')
            break;
        length++;
    }
    line[length] = '\0';
    return length;
}

/* Runs the command in `line` of `length` bytes; 0 when the visitor wants to leave. */
static int obey(char *line, size_t length)
{
    size_t word = strcspn(line, " ");
    size_t start = word < length ? word + 1 : length;

    line[word] = '\0';
    if (strcmp(line, "quit") == 0)
        return 0;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(line, commands[i].name) == 0) {
            commands[i].run(line + start, length - start);
            return 1;
        }
    puts("sign NAME, post TEXT, list, show N, uptime, quit");
    return 1;
}

static void serve(void)
{
    char line[LINE_SIZE];
    ssize_t length;

    puts("The board. Tell us who you are.");
    do {
        printf("> ");
        fflush(stdout);
        length = read_line(line, sizeof line);
    } while (length >= 0 && obey(line, length));
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int yes = 1;

    signal(SIGCHLD, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0) {
        perror("daemon");
        return 1;
    }
    for (;;) {
        int visitor = accept(listener, NULL, NULL);

        if (visitor >= 0 && fork() == 0) {
            signal(SIGCHLD, SIG_DFL);
            for (int fd = 0; fd < 3; fd++)
                dup2(visitor, fd);
            close(visitor);
            close(listener);
            serve();
            return 0;
        }
        close(visitor);
    }
}
