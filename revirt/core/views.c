/* The Python type's view of the CPU's state and of memory. */
#define PY_SSIZE_T_CLEAN
#include "module.h"

#include <string.h>

/* ---- CPU state ---------------------------------------------------------------------------------------------- */

static bool parse_registers(PyObject *registers, uint64_t *values)
{
    static const char *const NAMES[GENERAL_REGISTERS] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(registers, &at, &key, &value)) {
        const char *name = PyUnicode_AsUTF8(key);
        int i = 0;
        if (name == NULL)
            return false;
        while (i < GENERAL_REGISTERS && strcmp(name, NAMES[i]) != 0)
            i++;
        if (i == GENERAL_REGISTERS) {
            PyErr_Format(PyExc_ValueError, "no general register is called %s", name);
            return false;
        }
        values[i] = PyLong_AsUnsignedLongLong(value);
        if (PyErr_Occurred())
            return false;
    }
    return true;
}

PyObject *core_start(CoreObject *self, PyObject *args)
{
    CpuStart start = {0};
    int mode;
    unsigned long long pc, gdt_base, cr3;
    PyObject *registers;
    if (!PyArg_ParseTuple(args, "iKO!KIK", &mode, &pc, &PyDict_Type, &registers, &gdt_base, &start.gdt_limit, &cr3))
        return NULL;
    if (core_refuse_while_running(self) || !parse_registers(registers, start.regs))
        return NULL;
    if (mode < MODE_REAL || mode > MODE_LONG)
        return PyErr_Format(PyExc_ValueError, "%d is not a CPU mode", mode);
    start.mode = (CpuMode)mode;
    start.pc = pc;
    start.gdt_base = gdt_base;
    start.cr3 = cr3;
    cpu_start(&self->core, &start);
    Py_RETURN_NONE;
}

static void add_register(void *data, const char *name, const StateValue *value, bool is_wide)
{
    PyObject *number = is_wide ? PyObject_CallMethod((PyObject *)&PyLong_Type, "from_bytes", "y#s", (char *)value,
                                                     (Py_ssize_t)sizeof *value, "little")
                               : PyLong_FromUnsignedLongLong(value->low);
    if (number != NULL)
        PyDict_SetItemString(data, name, number);
    Py_XDECREF(number);
}

PyObject *core_registers(CoreObject *self, PyObject *unused)
{
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    PyObject *ret = PyDict_New();
    if (ret == NULL)
        return NULL;
    state_visit(&self->core, add_register, ret);
    add_register(ret, "branches", &(StateValue){.low = self->core.branches}, false);
    add_register(ret, "clock_ns", &(StateValue){.low = engine_clock_ns(&self->core)}, false);
    if (PyErr_Occurred())
        Py_CLEAR(ret);
    return ret;
}

PyObject *core_digest_input(CoreObject *self, PyObject *unused)
{
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    struct {
        StateValue values[STATE_VALUES];
        uint64_t branches, clock_ns;
    } input = {.branches = self->core.branches, .clock_ns = engine_clock_ns(&self->core)};
    state_save(&self->core, input.values);
    return PyBytes_FromStringAndSize((char *)&input, sizeof input);
}

PyObject *core_check(CoreObject *self, PyObject *unused)
{
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    return PyLong_FromUnsignedLong(cpu_check(&self->core));
}

/* ---- saved states ------------------------------------------------------------------------------------------- */

typedef struct {
    char magic[8];
    uint64_t branches, straight, stopped_size;
    uint64_t clock_base_ns, clock_base_branches, ns_per_branch;
    StateValue values[STATE_VALUES];
} SavedState;

static const char SAVED_MAGIC[8] = "rvCPU" UNICORN_TAG;

PyObject *core_save(CoreObject *self, PyObject *unused)
{
    Core *core = &self->core;
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    SavedState saved = {
        .branches = core->branches,
        .straight = core->straight,
        .stopped_size = core->stopped_size,
        .clock_base_ns = core->clock_base_ns,
        .clock_base_branches = core->clock_base_branches,
        .ns_per_branch = core->ns_per_branch,
    };
    memcpy(saved.magic, SAVED_MAGIC, sizeof saved.magic);
    state_save(core, saved.values);
    return PyBytes_FromStringAndSize((char *)&saved, sizeof saved);
}

PyObject *core_restore(CoreObject *self, PyObject *argument)
{
    Core *core = &self->core;
    char *bytes;
    Py_ssize_t size;
    SavedState saved;
    if (core_refuse_while_running(self) || PyBytes_AsStringAndSize(argument, &bytes, &size) < 0)
        return NULL;
    if ((size_t)size == sizeof saved)
        memcpy(&saved, bytes, sizeof saved);
    if ((size_t)size != sizeof saved || memcmp(saved.magic, SAVED_MAGIC, sizeof saved.magic) != 0)
        return PyErr_Format(PyExc_ValueError, "not a CPU state of Unicorn %s", UNICORN_VERSION);
    state_restore(core, saved.values);
    core->branches = saved.branches;
    core->straight = saved.straight;
    core->stopped_size = (uint32_t)saved.stopped_size;
    core->clock_base_ns = saved.clock_base_ns;
    core->clock_base_branches = saved.clock_base_branches;
    core->ns_per_branch = saved.ns_per_branch;
    engine_adopt_state(core);
    Py_RETURN_NONE;
}

/* ---- memory ------------------------------------------------------------------------------------------------- */

int core_getbuffer(CoreObject *self, Py_buffer *view, int flags)
{
    if (self->core.ram == NULL) {
        PyErr_SetString(PyExc_BufferError, "the core is not initialised");
        return -1;
    }
    return PyBuffer_FillInfo(view, (PyObject *)self, self->core.ram, (Py_ssize_t)self->core.memory_size, 0, flags);
}

static PyObject *view_memory(CoreObject *self, uint64_t start, uint64_t end)
{
    PyObject *whole = PyMemoryView_FromObject((PyObject *)self);
    PyObject *ret = whole == NULL ? NULL : PySequence_GetSlice(whole, (Py_ssize_t)start, (Py_ssize_t)end);
    Py_XDECREF(whole);
    return ret;
}

PyObject *core_get_ram(CoreObject *self, void *closure)
{
    (void)closure;
    return view_memory(self, 0, self->core.ram_size);
}

PyObject *core_get_store(CoreObject *self, void *closure)
{
    (void)closure;
    return view_memory(self, self->core.ram_size, self->core.memory_size);
}

PyObject *core_written(CoreObject *self, PyObject *args)
{
    unsigned long long start, size;
    int comes_with_branch = 0;
    if (!PyArg_ParseTuple(args, "KK|p", &start, &size, &comes_with_branch))
        return NULL;
    Core *core = &self->core;
    engine_written(core, start, size);
    /* Nothing of the line that begins here has been executed: it is noted on the one before. */
    bool is_before = comes_with_branch && core->branches > 0;
    core->branches -= is_before;
    if (core->attention & ATTEND_WATCH)
        watch_written(core, start, size);
    if (core->traps)
        traps_written(core, start, size);
    core->branches += is_before;
    Py_RETURN_NONE;
}

PyObject *core_translate(CoreObject *self, PyObject *argument)
{
    uint64_t address = PyLong_AsUnsignedLongLong(argument), physical;
    if (PyErr_Occurred() || core_refuse_while_running(self))
        return NULL;
    cpu_load(&self->core);
    if (!cpu_is_linear(&self->core, address) || !cpu_translate(&self->core, address, &physical))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(physical);
}

PyObject *core_scan(CoreObject *self, PyObject *unused)
{
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    int64_t count;
    Py_BEGIN_ALLOW_THREADS
    count = pages_scan(&self->core);
    Py_END_ALLOW_THREADS
    return count < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLongLong(count);
}

PyObject *core_get_page_hashes(CoreObject *self, void *closure)
{
    (void)closure;
    /* A copy: the table changes with the next scan. */
    Py_ssize_t size = (Py_ssize_t)(self->core.memory_size / PAGE_SIZE * sizeof *self->core.pages.hashes);
    PyObject *bytes = PyBytes_FromStringAndSize((char *)self->core.pages.hashes, size);
    PyObject *ret = bytes == NULL ? NULL : PyMemoryView_FromObject(bytes);
    Py_XDECREF(bytes);
    return ret;
}

PyObject *core_take_changed(CoreObject *self, PyObject *unused)
{
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    uint8_t *changed = self->core.pages.changed;
    size_t pages = self->core.memory_size / PAGE_SIZE, count = 0;
    for (size_t page = 0; page < pages; page++)
        count += changed[page];
    PyObject *ret = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(uint32_t)));
    if (ret == NULL)
        return NULL;
    uint32_t *at = (uint32_t *)PyBytes_AS_STRING(ret);
    for (size_t page = 0; page < pages; page++)
        if (changed[page])
            *at++ = (uint32_t)page;
    memset(changed, 0, pages);
    return ret;
}

/* The page numbers in *numbers, or NULL with ValueError. */
static const uint32_t *check_numbers(CoreObject *self, const Py_buffer *numbers)
{
    const uint32_t *pages = numbers->buf;
    if (numbers->len % (Py_ssize_t)sizeof *pages != 0) {
        PyErr_SetString(PyExc_ValueError, "page numbers are 4 bytes each");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < numbers->len / (Py_ssize_t)sizeof *pages; i++)
        if (pages[i] >= self->core.memory_size / PAGE_SIZE) {
            PyErr_Format(PyExc_ValueError, "page %u is beyond the end of memory", pages[i]);
            return NULL;
        }
    return pages;
}

PyObject *core_read_pages(CoreObject *self, PyObject *argument)
{
    Py_buffer numbers;
    PyObject *ret = NULL;
    if (core_refuse_while_running(self) || PyObject_GetBuffer(argument, &numbers, PyBUF_SIMPLE) < 0)
        return NULL;
    const uint32_t *pages = check_numbers(self, &numbers);
    Py_ssize_t count = numbers.len / 4;
    if (pages != NULL)
        ret = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)PAGE_SIZE);
    if (ret != NULL) {
        char *to = PyBytes_AS_STRING(ret);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++)
            memcpy(to + i * PAGE_SIZE, self->core.ram + (size_t)pages[i] * PAGE_SIZE, PAGE_SIZE);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&numbers);
    return ret;
}

PyObject *core_write_pages(CoreObject *self, PyObject *args)
{
    Py_buffer numbers, contents;
    PyObject *ret = NULL;
    if (!PyArg_ParseTuple(args, "y*y*", &numbers, &contents))
        return NULL;
    const uint32_t *pages = core_refuse_while_running(self) ? NULL : check_numbers(self, &numbers);
    Py_ssize_t count = numbers.len / 4;
    if (pages != NULL && contents.len != count * (Py_ssize_t)PAGE_SIZE) {
        PyErr_Format(PyExc_ValueError, "%zd pages do not fit %zd bytes", count, contents.len);
    } else if (pages != NULL) {
        for (Py_ssize_t i = 0; i < count; i++) {
            memcpy(self->core.ram + (size_t)pages[i] * PAGE_SIZE, (char *)contents.buf + i * PAGE_SIZE, PAGE_SIZE);
            engine_written(&self->core, (uint64_t)pages[i] * PAGE_SIZE, PAGE_SIZE);
        }
        ret = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&numbers);
    PyBuffer_Release(&contents);
    return ret;
}

/* ---- watches ------------------------------------------------------------------------------------------------ */

static uint64_t *parse_code(PyObject *code, size_t *count)
{
    PyObject *items = PySequence_Fast(code, "watched instructions are a sequence");
    if (items == NULL)
        return NULL;
    *count = (size_t)PySequence_Fast_GET_SIZE(items);
    uint64_t *ret = PyMem_Calloc(*count + 1, sizeof *ret);
    if (ret == NULL)
        PyErr_NoMemory();
    for (size_t i = 0; ret != NULL && i < *count && !PyErr_Occurred(); i++)
        ret[i] = PyLong_AsUnsignedLongLong(PySequence_Fast_GET_ITEM(items, (Py_ssize_t)i));
    Py_DECREF(items);
    return ret;
}

static WatchRange *parse_ranges(PyObject *ranges, size_t *count)
{
    PyObject *items = PySequence_Fast(ranges, "watched ranges are a sequence");
    if (items == NULL)
        return NULL;
    *count = (size_t)PySequence_Fast_GET_SIZE(items);
    WatchRange *ret = PyMem_Calloc(*count + 1, sizeof *ret);
    if (ret == NULL)
        PyErr_NoMemory();
    for (size_t i = 0; ret != NULL && i < *count && !PyErr_Occurred(); i++) {
        PyObject *pair = PySequence_Fast_GET_ITEM(items, (Py_ssize_t)i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_Format(PyExc_ValueError, "a watched range is (start, size), not %R", pair);
            break;
        }
        ret[i].start = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(pair, 0));
        if (!PyErr_Occurred())
            ret[i].size = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(pair, 1));
    }
    Py_DECREF(items);
    return ret;
}

/* Set the bits of the interrupt vectors in the sequence *object*, all of them if it is None. */
static void parse_vectors(PyObject *object, uint64_t vectors[VECTORS / 64])
{
    memset(vectors, object == Py_None ? 0xff : 0, VECTORS / 8);
    PyObject *items = object == Py_None ? NULL : PySequence_Fast(object, "vectors are a sequence");
    for (Py_ssize_t i = 0; items != NULL && i < PySequence_Fast_GET_SIZE(items); i++) {
        unsigned long vector = PyLong_AsUnsignedLong(PySequence_Fast_GET_ITEM(items, i));
        if (!PyErr_Occurred() && vector >= VECTORS)
            PyErr_SetString(PyExc_ValueError, "a vector is below 256");
        if (PyErr_Occurred())
            break;
        vectors[vector / 64] |= 1ull << vector % 64;
    }
    Py_XDECREF(items);
}

static void parse_stack(PyObject *object, WatchStack *stack)
{
    unsigned long long values[6];
    *stack = (WatchStack){0};
    if (object == Py_None)
        return;
    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "a stack is a tuple");
    } else if (PyArg_ParseTuple(object, "KKKKKK", &values[0], &values[1], &values[2], &values[3], &values[4], &values[5])) {
        *stack = (WatchStack){values[0], values[1], values[2], values[3], values[4], values[5]};
        if (stack->size == 0 || stack->size > WATCH_STACK_LIMIT)
            PyErr_SetString(PyExc_ValueError, "a watched stretch of stack is 1 to 2**32 bytes");
    }
}

static void parse_watches(WatchList *list, PyObject *code, PyObject *writes, PyObject *reads, PyObject *vectors,
                          PyObject *stack)
{
    list->code = parse_code(code, &list->code_count);
    if (!PyErr_Occurred())
        list->writes = parse_ranges(writes, &list->write_count);
    if (!PyErr_Occurred())
        list->reads = parse_ranges(reads, &list->read_count);
    if (!PyErr_Occurred())
        parse_vectors(vectors, list->vectors);
    if (!PyErr_Occurred())
        parse_stack(stack, &list->stack);
    if (!PyErr_Occurred() && (list->system & ~(uint32_t)WATCH_SYSTEM))
        PyErr_SetString(PyExc_ValueError, "that is no part of the system to watch");
}

PyObject *core_set_watches(CoreObject *self, PyObject *args, PyObject *keywords)
{
    static char *NAMES[] = {"", "", "", "system", "vectors", "stack", "traps", NULL};
    PyObject *code, *writes, *reads, *vectors = Py_None, *stack = Py_None;
    WatchList list = {0};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOO|$IOOK", NAMES, &code, &writes, &reads, &list.system, &vectors,
                                     &stack, &list.traps) ||
        core_refuse_while_running(self))
        return NULL;
    parse_watches(&list, code, writes, reads, vectors, stack);
    if (!PyErr_Occurred()) {
        const char *failure = watch_set(&self->core, &list);
        if (failure != NULL)
            PyErr_SetString(strncmp(failure, NO_MEMORY, strlen(NO_MEMORY)) == 0 ? PyExc_MemoryError : PyExc_ValueError,
                            failure);
    } else if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ValueError, "a watched address has 64 bits");
    }
    PyMem_Free(list.code);
    PyMem_Free(list.writes);
    PyMem_Free(list.reads);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static bool append_hits(PyObject *list, const Hit *hits, size_t count)
{
    bool ok = true;
    for (const Hit *hit = hits; ok && hit < hits + count; hit++) {
        PyObject *row = Py_BuildValue("(KKKKKKK)", hit->kind, hit->branches, hit->instructions, hit->pc, hit->address,
                                      hit->size, hit->value);
        ok = row != NULL && PyList_Append(list, row) == 0;
        Py_XDECREF(row);
    }
    return ok;
}

PyObject *core_take_hits(CoreObject *self, PyObject *unused)
{
    const Hit *first = NULL, *second = NULL;
    size_t first_count, second_count;
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    PyObject *ret = PyList_New(0);
    watch_take(&self->core, &first, &first_count, &second, &second_count);
    if (ret != NULL && (!append_hits(ret, first, first_count) || !append_hits(ret, second, second_count)))
        Py_CLEAR(ret);
    return ret;
}

PyObject *core_get_hits_noted(CoreObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(watch_noted(&self->core));
}
