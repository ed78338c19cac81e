/* The Python type, for its sources. */
#ifndef REVIRT_MODULE_H
#define REVIRT_MODULE_H

#include <Python.h>

#include "core.h"

#define UNICORN_VERSION "2.1.4"
#define UNICORN_TAG "214" /* in saved states */
enum { UNICORN_MAJOR = 2, UNICORN_MINOR = 1, UNICORN_PATCH = 4 };

enum { PORT_IN, PORT_OUT, MMIO_READ, MMIO_WRITE, CALLBACKS };

typedef struct {
    uint8_t kind, halted;
    uint16_t check;
    uint32_t size; /* of the data */
    uint64_t branches, pc, number;
} Row;

typedef struct {
    Row *rows;
    uint8_t *data;
    size_t count, data_size, rows_room, data_room;
} Journal;

typedef struct {
    PyObject_HEAD
    Core core;
    Journal journal;
    PyObject *callbacks[CALLBACKS];
    PyObject *error; /* what a callback raised, to be raised from run() */
    PyThreadState *thread; /* while the guest runs without the GIL */
} CoreObject;

/* Returns whether it raised RuntimeError. */
bool core_refuse_while_running(CoreObject *self);

/* ---- views.c ------------------------------------------------------------------------------------------------ */

PyObject *core_start(CoreObject *self, PyObject *args);
PyObject *core_registers(CoreObject *self, PyObject *unused);
PyObject *core_digest_input(CoreObject *self, PyObject *unused);
PyObject *core_check(CoreObject *self, PyObject *unused);
PyObject *core_save(CoreObject *self, PyObject *unused);
PyObject *core_restore(CoreObject *self, PyObject *state);
PyObject *core_get_ram(CoreObject *self, void *closure);
PyObject *core_get_store(CoreObject *self, void *closure);
PyObject *core_written(CoreObject *self, PyObject *args);
PyObject *core_translate(CoreObject *self, PyObject *address);
PyObject *core_scan(CoreObject *self, PyObject *unused);
PyObject *core_get_page_hashes(CoreObject *self, void *closure);
PyObject *core_take_changed(CoreObject *self, PyObject *unused);
PyObject *core_read_pages(CoreObject *self, PyObject *numbers);
PyObject *core_write_pages(CoreObject *self, PyObject *args);
PyObject *core_set_watches(CoreObject *self, PyObject *args, PyObject *keywords);
PyObject *core_take_hits(CoreObject *self, PyObject *unused);
PyObject *core_get_hits_noted(CoreObject *self, void *closure);
int core_getbuffer(CoreObject *self, Py_buffer *view, int flags);

/* ---- journal.c ---------------------------------------------------------------------------------------------- */

PyObject *core_note(CoreObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *core_take_notes(CoreObject *self, PyObject *unused);
void journal_deinit(Journal *journal);
PyObject *module_encode_columns(PyObject *module, PyObject *args);

/* ---- heap.c ------------------------------------------------------------------------------------------------- */

PyObject *module_trim_heap(PyObject *module, PyObject *unused);

#endif
