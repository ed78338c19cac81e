/* Events of a running guest, noted where they happen: rows of fixed size and, behind one another, the data they carry.
 * Rows wait here until Python takes them; made into columns (revirt/log/columns.py says how) they are a segment. */
#define PY_SSIZE_T_CLEAN
#include "module.h"

#include <string.h>

_Static_assert(sizeof(Row) == 32, "revirt/log/rows.py has the same layout");

enum { DATA_LIMIT = 8 << 20 }; /* bytes of one event, as in rows.py */

/* ---- noting ------------------------------------------------------------------------------------------------- */

/* Return *memory* with room for *size* bytes, moved if need be, or NULL. */
static void *reserve(void *memory, size_t *room, size_t size)
{
    if (size <= *room)
        return memory;
    size_t larger = size < 1 << 12 ? 1 << 12 : 2 * size;
    void *moved = PyMem_Realloc(memory, larger);
    if (moved != NULL)
        *room = larger;
    return moved;
}

static bool reserve_both(Journal *journal, size_t size)
{
    Row *rows = reserve(journal->rows, &journal->rows_room, (journal->count + 1) * sizeof *rows);
    if (rows != NULL)
        journal->rows = rows;
    uint8_t *data = reserve(journal->data, &journal->data_room, journal->data_size + size + 1);
    if (data != NULL)
        journal->data = data;
    return rows != NULL && data != NULL;
}

PyObject *core_note(CoreObject *self, PyObject *const *args, Py_ssize_t count)
{
    Journal *journal = &self->journal;
    if (count != 5 || !PyBytes_Check(args[4]))
        return PyErr_Format(PyExc_TypeError, "note takes kind, halted, checked, number and data (bytes)");
    unsigned long kind = PyLong_AsUnsignedLong(args[0]);
    int halted = PyObject_IsTrue(args[1]), checked = PyObject_IsTrue(args[2]);
    unsigned long long number = PyLong_AsUnsignedLongLong(args[3]);
    size_t size = (size_t)PyBytes_GET_SIZE(args[4]);
    if (PyErr_Occurred())
        return NULL;
    if (kind > UINT8_MAX || size > DATA_LIMIT)
        return PyErr_Format(PyExc_ValueError, "an event of kind %lu with %zu bytes of data", kind, size);
    /* While the guest runs this comes from a device's callback, where flags and registers are not to be had. */
    if ((checked || self->core.uc == NULL) && core_refuse_while_running(self))
        return NULL;
    if (!reserve_both(journal, size))
        return PyErr_NoMemory();
    journal->rows[journal->count++] = (Row){
        .kind = (uint8_t)kind,
        .halted = halted != 0,
        .check = checked ? cpu_check(&self->core) : 0,
        .size = (uint32_t)size,
        .branches = self->core.branches,
        .pc = cpu_reg(&self->core, UC_X86_REG_RIP),
        .number = number,
    };
    memcpy(journal->data + journal->data_size, PyBytes_AS_STRING(args[4]), size);
    journal->data_size += size;
    return PyLong_FromSize_t(journal->count * sizeof(Row) + journal->data_size);
}

PyObject *core_take_notes(CoreObject *self, PyObject *unused)
{
    (void)unused;
    Journal *journal = &self->journal;
    PyObject *rows = PyBytes_FromStringAndSize((char *)journal->rows, (Py_ssize_t)(journal->count * sizeof(Row)));
    PyObject *data = PyBytes_FromStringAndSize((char *)journal->data, (Py_ssize_t)journal->data_size);
    PyObject *ret = rows != NULL && data != NULL ? PyTuple_Pack(2, rows, data) : NULL;
    Py_XDECREF(rows);
    Py_XDECREF(data);
    if (ret != NULL)
        journal->count = journal->data_size = 0;
    return ret;
}

void journal_deinit(Journal *journal)
{
    PyMem_Free(journal->rows);
    PyMem_Free(journal->data);
    *journal = (Journal){0};
}

/* ---- columns ------------------------------------------------------------------------------------------------ */

enum { KINDS = 256, COLUMNS = 5, KIND_CLOCK = 1 };

static uint8_t *put_column(uint8_t *to, const uint64_t *values, size_t count)
{
    uint64_t all = 0;
    for (size_t i = 0; i < count; i++)
        all |= values[i];
    int width = all == 0 ? 0 : (71 - __builtin_clzll(all)) / 8;
    *to++ = (uint8_t)width;
    for (int plane = 0; plane < width; plane++)
        for (size_t i = 0; i < count; i++)
            *to++ = (uint8_t)(values[i] >> (8 * plane));
    return to;
}

static void make_differences(uint64_t *values, size_t count)
{
    for (size_t i = count; i-- > 1;)
        values[i] -= values[i - 1];
}

static void fold(uint64_t *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        values[i] = values[i] << 1 ^ -(values[i] >> 63);
}

/* Put the table of the events of *kind*; *values* has room for all of them. */
static uint8_t *put_table(uint8_t *to, const Row *rows, size_t count, uint8_t kind, uint64_t *values)
{
    for (int column = 0; column < COLUMNS; column++) {
        size_t found = 0;
        for (const Row *row = rows; row < rows + count; row++)
            if (row->kind == kind) {
                uint64_t columns[COLUMNS] = {row->branches * 2 + row->halted, row->pc, row->check, row->number, row->size};
                values[found++] = columns[column];
            }
        bool is_steady = column == 0 || (column == 3 && kind == KIND_CLOCK);
        if (is_steady)
            make_differences(values, found);
        if (is_steady || column == 1) {
            make_differences(values, found);
            fold(values, found);
        }
        to = put_column(to, values, found);
    }
    return to;
}

static uint8_t *put_data(uint8_t *to, const Row *rows, size_t count, uint8_t kind, const uint8_t *data)
{
    for (const Row *row = rows; row < rows + count; data += row->size, row++)
        if (row->kind == kind) {
            memcpy(to, data, row->size);
            to += row->size;
        }
    return to;
}

static uint8_t *put_columns(uint8_t *to, const Row *rows, size_t count, const uint8_t *data, uint64_t *values)
{
    bool occurs[KINDS] = {false};
    for (size_t i = 0; i < count; i++)
        occurs[*to++ = rows[i].kind] = true;
    for (int kind = 0; kind < KINDS; kind++)
        if (occurs[kind])
            to = put_table(to, rows, count, (uint8_t)kind, values);
    for (int kind = 0; kind < KINDS; kind++)
        if (occurs[kind])
            to = put_data(to, rows, count, (uint8_t)kind, data);
    return to;
}

static bool check_rows(const Row *rows, size_t count, size_t data_size)
{
    uint64_t before = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        if (rows[i].branches < before || rows[i].branches >> 63) {
            PyErr_Format(PyExc_ValueError, "event at %llu branches after one at %llu",
                         (unsigned long long)rows[i].branches, (unsigned long long)before);
            return false;
        }
        before = rows[i].branches;
        size += rows[i].size;
    }
    if (size != data_size)
        PyErr_Format(PyExc_ValueError, "rows of events with %llu bytes of data, and %zu bytes",
                     (unsigned long long)size, data_size);
    return size == data_size;
}

PyObject *module_encode_columns(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *raw, *data; /* bytes: nobody can change them meanwhile, and they are aligned */
    if (!PyArg_ParseTuple(args, "SS", &raw, &data))
        return NULL;
    Py_ssize_t raw_size = PyBytes_GET_SIZE(raw), data_size = PyBytes_GET_SIZE(data);
    const Row *rows = (const Row *)PyBytes_AS_STRING(raw);
    size_t count = (size_t)raw_size / sizeof(Row);
    if ((size_t)raw_size % sizeof(Row) != 0)
        return PyErr_Format(PyExc_ValueError, "rows are %zu bytes each", sizeof(Row));
    if (!check_rows(rows, count, (size_t)data_size))
        return NULL;
    uint64_t *values = PyMem_Malloc((count + 1) * sizeof *values);
    PyObject *ret = PyBytes_FromStringAndSize(
        NULL, (Py_ssize_t)(count * (1 + COLUMNS * sizeof *values) + KINDS * COLUMNS) + data_size);
    if (values == NULL || ret == NULL) {
        PyMem_Free(values);
        Py_XDECREF(ret);
        return PyErr_NoMemory();
    }
    uint8_t *start = (uint8_t *)PyBytes_AS_STRING(ret), *end;
    Py_BEGIN_ALLOW_THREADS
    end = put_columns(start, rows, count, (const uint8_t *)PyBytes_AS_STRING(data), values);
    Py_END_ALLOW_THREADS
    PyMem_Free(values);
    _PyBytes_Resize(&ret, end - start);
    return ret;
}
