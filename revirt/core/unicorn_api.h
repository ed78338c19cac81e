/* The functions of libunicorn that the core uses, looked up at run time in the very library that the unicorn
 * package ships: nothing is linked, so there is never a second copy of it in the process.
 *
 * They are called as UC(emu_start)(...); uc_ctl goes by its own name, for the header's uc_ctl_* macros. */
#ifndef REVIRT_UNICORN_API_H
#define REVIRT_UNICORN_API_H

#include <stdbool.h>
#include <unicorn/unicorn.h>

#define UNICORN_FUNCTIONS(X)                                                                                          \
    X(version) X(open) X(close) X(strerror) X(ctl) X(reg_read) X(reg_write) X(emu_start) X(emu_stop) X(hook_add)      \
    X(hook_del) X(mem_map_ptr) X(mmio_map) X(context_alloc) X(context_free) X(context_size) X(context_save)           \
    X(context_restore)

typedef struct {
#define X(name) __typeof__(uc_##name) *name;
    UNICORN_FUNCTIONS(X)
#undef X
} UnicornApi;

extern UnicornApi unicorn;

#define UC(name) unicorn.name
#define uc_ctl unicorn.ctl

/* Load the library at *path*.  Returns NULL, or what went wrong. */
const char *unicorn_load(const char *path);

#endif
