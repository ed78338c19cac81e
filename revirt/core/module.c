/* The Python type: arguments in, results out, the GIL, and exceptions of callbacks.  _core.pyi documents it. */
#define PY_SSIZE_T_CLEAN
#include "module.h"

#include <string.h>
#include <structmember.h>

static CoreObject *object_of(Core *core)
{
    return (CoreObject *)((char *)core - offsetof(CoreObject, core));
}

/* ---- callbacks ---------------------------------------------------------------------------------------------- */

static uint64_t call(Core *core, int which, uint64_t first, uint64_t second, uint64_t third, size_t count)
{
    CoreObject *self = object_of(core);
    uint64_t result = UINT64_MAX;
    if (self->error != NULL || self->callbacks[which] == NULL)
        return result;
    sigjmp_buf *rescue = engine_rescue;
    engine_rescue = NULL; /* an abort of Python's is none of Unicorn's */
    PyEval_RestoreThread(self->thread);
    PyObject *arguments[3] = {PyLong_FromUnsignedLongLong(first), PyLong_FromUnsignedLongLong(second),
                              count == 3 ? PyLong_FromUnsignedLongLong(third) : NULL};
    PyObject *answer = NULL;
    if (arguments[0] != NULL && arguments[1] != NULL && (count == 2 || arguments[2] != NULL))
        answer = PyObject_Vectorcall(self->callbacks[which], arguments, count, NULL);
    if (answer != NULL && answer != Py_None)
        result = PyLong_AsUnsignedLongLongMask(answer);
    if (PyErr_Occurred()) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(value, traceback);
        self->error = value;
        Py_XDECREF(type);
        Py_XDECREF(traceback);
        core->attention |= ATTEND_REQUEST;
    }
    Py_XDECREF(answer);
    for (size_t i = 0; i < count; i++)
        Py_XDECREF(arguments[i]);
    self->thread = PyEval_SaveThread();
    engine_rescue = rescue;
    return result;
}

static uint64_t call_port_in(Core *core, uint32_t port, int size)
{
    return call(core, PORT_IN, port, (uint64_t)size, 0, 2);
}

static void call_port_out(Core *core, uint32_t port, int size, uint32_t value)
{
    call(core, PORT_OUT, port, (uint64_t)size, value, 3);
}

static uint64_t call_mmio_read(Core *core, uint64_t address, unsigned size)
{
    return call(core, MMIO_READ, address, size, 0, 2);
}

static void call_mmio_write(Core *core, uint64_t address, unsigned size, uint64_t value)
{
    call(core, MMIO_WRITE, address, size, value, 3);
}

static const Callbacks CALLBACK_TABLE = {call_port_in, call_port_out, call_mmio_read, call_mmio_write};

/* ---- life --------------------------------------------------------------------------------------------------- */

static void set_failure(const char *failure)
{
    if (strncmp(failure, NO_MEMORY, sizeof NO_MEMORY - 1) == 0)
        PyErr_SetString(PyExc_MemoryError, failure);
    else
        PyErr_Format(PyExc_RuntimeError, "Unicorn %s cannot be used here: %s", UNICORN_VERSION, failure);
}

#define MEMORY_LIMIT (1ull << 32) /* page numbers of checkpoints have 20 bits */

static int core_init(CoreObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ram_size", "store_size", "translation_buffer", "track_writes", NULL};
    unsigned long long ram_size, store_size = 0;
    Py_ssize_t translation_buffer = 0;
    int track_writes = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|$Knp", names, &ram_size, &store_size,
                                     &translation_buffer, &track_writes))
        return -1;
    if (unicorn.open == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "call load() first");
        return -1;
    }
    if (self->core.uc != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Core is initialised once");
        return -1;
    }
    if (ram_size == 0 || ram_size % PAGE_SIZE != 0 || ram_size > 0xc0000000ull || translation_buffer < 0 ||
        translation_buffer > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "ram_size must be a multiple of 4096 up to 3 GiB");
        return -1;
    }
    if (store_size % PAGE_SIZE != 0 || store_size > MEMORY_LIMIT - ram_size) {
        PyErr_SetString(PyExc_ValueError, "store_size must be a multiple of 4096, up to 4 GiB with ram_size");
        return -1;
    }
    self->core.ram_size = ram_size;
    self->core.memory_size = ram_size + store_size;
    self->core.callbacks = &CALLBACK_TABLE;
    const char *failure = engine_init(&self->core, (size_t)translation_buffer, track_writes);
    if (failure != NULL)
        set_failure(failure);
    return failure == NULL ? 0 : -1;
}

static void core_dealloc(CoreObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (unicorn.open != NULL && self->core.ram_size != 0)
        engine_deinit(&self->core);
    journal_deinit(&self->journal);
    for (int i = 0; i < CALLBACKS; i++)
        Py_CLEAR(self->callbacks[i]);
    Py_CLEAR(self->error);
    type->tp_free(self);
    Py_DECREF(type);
}

static int core_traverse(CoreObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < CALLBACKS; i++)
        Py_VISIT(self->callbacks[i]);
    Py_VISIT(self->error);
    return 0;
}

static int core_clear(CoreObject *self)
{
    for (int i = 0; i < CALLBACKS; i++)
        Py_CLEAR(self->callbacks[i]);
    Py_CLEAR(self->error);
    return 0;
}

/* ---- running ------------------------------------------------------------------------------------------------ */

bool core_refuse_while_running(CoreObject *self)
{
    if (self->core.uc == NULL)
        PyErr_SetString(PyExc_RuntimeError, "the core is not initialised");
    else if (self->thread != NULL)
        PyErr_SetString(PyExc_RuntimeError, "the guest is running");
    else
        return false;
    return true;
}

typedef struct {
    uint64_t count;
    bool whole_blocks;
} Steps;

/* Run to *limit*, or only *steps* if that is not NULL. */
static PyObject *run(CoreObject *self, uint64_t limit, const Steps *steps)
{
    if (PyErr_Occurred() || core_refuse_while_running(self))
        return NULL;
    self->thread = PyEval_SaveThread();
    Stop stop = steps == NULL ? engine_run(&self->core, limit)
                              : engine_step(&self->core, steps->count, limit, steps->whole_blocks);
    PyEval_RestoreThread(self->thread);
    self->thread = NULL;
    if (self->error != NULL) {
        PyObject *error = self->error;
        self->error = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
        return NULL;
    }
    return PyLong_FromLong(stop);
}

static PyObject *core_run(CoreObject *self, PyObject *limit)
{
    return run(self, PyLong_AsUnsignedLongLong(limit), NULL);
}

static PyObject *core_step(CoreObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 3 || (count == 3 && !PyBool_Check(args[2])))
        return PyErr_Format(PyExc_TypeError, "step takes a count and, perhaps, a limit and whole_blocks, a bool");
    Steps steps = {PyLong_AsUnsignedLongLong(args[0]), count == 3 && args[2] == Py_True};
    uint64_t limit = UINT64_MAX;
    if (!PyErr_Occurred() && count >= 2 && args[1] != Py_None)
        limit = PyLong_AsUnsignedLongLong(args[1]);
    return run(self, limit, &steps);
}

static PyObject *core_request_stop(CoreObject *self, PyObject *unused)
{
    (void)unused;
    self->core.attention |= ATTEND_REQUEST;
    Py_RETURN_NONE;
}

static PyObject *core_interrupt(CoreObject *self, PyObject *argument)
{
    long vector = PyLong_AsLong(argument);
    if (PyErr_Occurred() || core_refuse_while_running(self))
        return NULL;
    if (vector < 0 || vector > 255)
        return PyErr_Format(PyExc_ValueError, "%ld is not an interrupt vector", vector);
    engine_interrupt(&self->core, (int)vector);
    Py_RETURN_NONE;
}

static PyObject *core_flush_tlb(CoreObject *self, PyObject *unused)
{
    (void)unused;
    if (core_refuse_while_running(self))
        return NULL;
    uc_ctl_flush_tlb(self->core.uc);
    Py_RETURN_NONE;
}

/* ---- devices ------------------------------------------------------------------------------------------------ */

static PyObject *core_set_callbacks(CoreObject *self, PyObject *args)
{
    PyObject *functions[CALLBACKS];
    if (!PyArg_ParseTuple(args, "OOOO", &functions[0], &functions[1], &functions[2], &functions[3]))
        return NULL;
    for (int i = 0; i < CALLBACKS; i++)
        Py_XSETREF(self->callbacks[i], Py_NewRef(functions[i]));
    Py_RETURN_NONE;
}

static PyObject *core_map_mmio(CoreObject *self, PyObject *args)
{
    unsigned long long start, size;
    if (!PyArg_ParseTuple(args, "KK", &start, &size) || core_refuse_while_running(self))
        return NULL;
    const char *failure = intercept_map_mmio(&self->core, start, size);
    if (failure != NULL)
        return PyErr_Format(PyExc_ValueError, "cannot map MMIO at %#llx: %s", start, failure);
    Py_RETURN_NONE;
}

/* Take *count* 32-bit words from the tuple *words*. */
static bool parse_words(PyObject *words, uint32_t *values, Py_ssize_t count)
{
    if (!PyTuple_Check(words) || PyTuple_GET_SIZE(words) != count) {
        PyErr_Format(PyExc_ValueError, "CPUID takes %zd numbers here, not %R", count, words);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long long value = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(words, i));
        if (!PyErr_Occurred() && value > UINT32_MAX)
            PyErr_Format(PyExc_OverflowError, "%llu does not fit in 32 bits", value);
        if (PyErr_Occurred())
            return false;
        values[i] = (uint32_t)value;
    }
    return true;
}

static PyObject *core_set_cpuid(CoreObject *self, PyObject *leaves)
{
    if (!PyDict_Check(leaves) || PyDict_Size(leaves) > CPUID_LEAVES)
        return PyErr_Format(PyExc_ValueError, "CPUID takes a dict of at most %d leaves", CPUID_LEAVES);
    CpuidLeaf parsed[CPUID_LEAVES];
    PyObject *key, *value;
    Py_ssize_t at = 0;
    size_t count = 0;
    for (; PyDict_Next(leaves, &at, &key, &value); count++)
        if (!parse_words(key, parsed[count].key, 2) || !parse_words(value, parsed[count].registers, 4))
            return NULL;
    memcpy(self->core.cpuid, parsed, count * sizeof *parsed);
    self->core.cpuid_count = count;
    Py_RETURN_NONE;
}

static PyObject *core_set_clock(CoreObject *self, PyObject *args)
{
    Core *core = &self->core;
    unsigned long long base_ns, base_branches, ns_per_branch;
    if (!PyArg_ParseTuple(args, "KKK", &base_ns, &base_branches, &ns_per_branch))
        return NULL;
    core->clock_base_ns = base_ns;
    core->clock_base_branches = base_branches;
    core->ns_per_branch = ns_per_branch;
    Py_RETURN_NONE;
}

/* ---- properties --------------------------------------------------------------------------------------------- */

static PyObject *core_get_instructions(CoreObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(counting_now(&self->core));
}

static int core_set_instructions(CoreObject *self, PyObject *value, void *closure)
{
    (void)closure;
    uint64_t count = value == NULL ? 0 : PyLong_AsUnsignedLongLong(value);
    if (PyErr_Occurred() || core_refuse_while_running(self))
        return -1;
    self->core.instructions = count;
    return 0;
}

static PyObject *core_get_counting(CoreObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->core.counting);
}

static int core_set_counting(CoreObject *self, PyObject *value, void *closure)
{
    (void)closure;
    int on = value == NULL ? 0 : PyObject_IsTrue(value);
    if (on < 0 || core_refuse_while_running(self))
        return -1;
    const char *failure = engine_set_counting(&self->core, on);
    if (failure != NULL)
        set_failure(failure);
    return failure == NULL ? 0 : -1;
}

static PyObject *core_get_intr(CoreObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->core.attention & ATTEND_INTR);
}

static int core_set_intr(CoreObject *self, PyObject *value, void *closure)
{
    (void)closure;
    int level = value == NULL ? 0 : PyObject_IsTrue(value);
    if (level < 0)
        return -1;
    engine_set_intr(&self->core, level);
    return 0;
}

static PyObject *core_get_interruptible(CoreObject *self, void *closure)
{
    (void)closure;
    if (core_refuse_while_running(self))
        return NULL;
    return PyBool_FromLong((cpu_reg(&self->core, UC_X86_REG_RFLAGS) & EFLAGS_IF) != 0);
}

static PyObject *core_get_pc(CoreObject *self, void *closure)
{
    (void)closure;
    if (self->core.uc == NULL)
        return PyErr_Format(PyExc_RuntimeError, "the core is not initialised");
    return PyLong_FromUnsignedLongLong(cpu_reg(&self->core, UC_X86_REG_RIP));
}

static PyObject *core_get_tracks_writes(CoreObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->core.pages.uffd >= 0);
}

/* ---- the type ----------------------------------------------------------------------------------------------- */

#define METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))core_##name, flags, NULL}
static PyMethodDef CORE_METHODS[] = {
    METHOD(run, METH_O),
    METHOD(step, METH_FASTCALL),
    METHOD(request_stop, METH_NOARGS),
    METHOD(interrupt, METH_O),
    METHOD(flush_tlb, METH_NOARGS),
    METHOD(set_callbacks, METH_VARARGS),
    METHOD(map_mmio, METH_VARARGS),
    METHOD(set_cpuid, METH_O),
    METHOD(set_clock, METH_VARARGS),
    METHOD(set_watches, METH_VARARGS | METH_KEYWORDS),
    METHOD(take_hits, METH_NOARGS),
    METHOD(start, METH_VARARGS),
    METHOD(registers, METH_NOARGS),
    METHOD(digest_input, METH_NOARGS),
    METHOD(check, METH_NOARGS),
    METHOD(save, METH_NOARGS),
    METHOD(restore, METH_O),
    METHOD(written, METH_VARARGS),
    METHOD(translate, METH_O),
    METHOD(scan, METH_NOARGS),
    METHOD(note, METH_FASTCALL),
    METHOD(take_notes, METH_NOARGS),
    METHOD(take_changed, METH_NOARGS),
    METHOD(read_pages, METH_O),
    METHOD(write_pages, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef CORE_MEMBERS[] = {
    {"branches", T_ULONGLONG, offsetof(CoreObject, core.branches), READONLY, NULL},
    {"traps", T_BOOL, offsetof(CoreObject, core.traps), READONLY, NULL},
    {"traps_left", T_ULONGLONG, offsetof(CoreObject, core.traps_left), READONLY, NULL},
    {"sees_windows", T_BOOL, offsetof(CoreObject, core.window.is_looked_for), 0, NULL},
    {"stop_at_hits", T_BOOL, offsetof(CoreObject, core.stop_at_hits), 0, NULL},
    {"fault", T_STRING_INPLACE, offsetof(CoreObject, core.fault), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define READ_ONLY(name) {#name, (getter)core_get_##name, NULL, NULL, NULL}
#define READ_WRITE(name) {#name, (getter)core_get_##name, (setter)core_set_##name, NULL, NULL}
static PyGetSetDef CORE_PROPERTIES[] = {
    READ_WRITE(instructions),
    READ_WRITE(counting),
    READ_WRITE(intr),
    READ_ONLY(hits_noted),
    READ_ONLY(interruptible),
    READ_ONLY(pc),
    READ_ONLY(ram),
    READ_ONLY(store),
    READ_ONLY(tracks_writes),
    READ_ONLY(page_hashes),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot CORE_SLOTS[] = {
    {Py_tp_init, core_init},         {Py_tp_dealloc, core_dealloc},         {Py_tp_traverse, core_traverse},
    {Py_tp_clear, core_clear},       {Py_tp_new, PyType_GenericNew},        {Py_tp_methods, CORE_METHODS},
    {Py_tp_getset, CORE_PROPERTIES}, {Py_tp_members, CORE_MEMBERS},       {Py_bf_getbuffer, core_getbuffer},
    {0, NULL},
};

static PyType_Spec CORE_TYPE = {
    .name = "revirt.core._core.Core",
    .basicsize = sizeof(CoreObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = CORE_SLOTS,
};

/* ---- the module --------------------------------------------------------------------------------------------- */

static PyObject *module_load(PyObject *module, PyObject *argument)
{
    (void)module;
    const char *path = PyUnicode_AsUTF8(argument);
    if (path == NULL)
        return NULL;
    const char *failure = unicorn_load(path);
    if (failure != NULL)
        return PyErr_Format(PyExc_OSError, "%s", failure);
    unsigned version = UC(version)(NULL, NULL);
    if (version >> 8 != ((UNICORN_MAJOR << 16) | (UNICORN_MINOR << 8) | UNICORN_PATCH)) {
        unicorn = (UnicornApi){0};
        return PyErr_Format(PyExc_ImportError, "%s is Unicorn %u.%u.%u; this core knows %s", path, version >> 24,
                            version >> 16 & 0xff, version >> 8 & 0xff, UNICORN_VERSION);
    }
    Py_RETURN_NONE;
}

static PyObject *module_hash_pages(PyObject *module, PyObject *argument)
{
    (void)module;
    Py_buffer pages;
    if (PyObject_GetBuffer(argument, &pages, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *ret = NULL;
    Py_ssize_t count = pages.len / (Py_ssize_t)PAGE_SIZE;
    if (pages.len % (Py_ssize_t)PAGE_SIZE != 0)
        PyErr_SetString(PyExc_ValueError, "pages are 4096 bytes each");
    else
        ret = PyBytes_FromStringAndSize(NULL, count * 8);
    if (ret != NULL) {
        uint64_t *to = (uint64_t *)PyBytes_AS_STRING(ret);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++)
            to[i] = page_hash((uint8_t *)pages.buf + i * PAGE_SIZE);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&pages);
    return ret;
}

static PyMethodDef MODULE_METHODS[] = {
    {"load", module_load, METH_O, NULL},
    {"hash_pages", module_hash_pages, METH_O, NULL},
    {"encode_columns", module_encode_columns, METH_VARARGS, NULL},
    {"trim_heap", module_trim_heap, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    static const struct {
        const char *name;
        long value;
    } CONSTANTS[] = {
        {"PAGE_SIZE", PAGE_SIZE},
        {"STOP_LIMIT", STOP_LIMIT},
        {"STOP_REQUEST", STOP_REQUEST},
        {"STOP_INTERRUPTIBLE", STOP_INTERRUPTIBLE},
        {"STOP_HALT", STOP_HALT},
        {"STOP_SHUTDOWN", STOP_SHUTDOWN},
        {"STOP_STEPS", STOP_STEPS},
        {"STOP_WATCH", STOP_WATCH},
        {"WATCH_EXECUTE", WATCH_EXECUTE},
        {"WATCH_READ", WATCH_READ},
        {"WATCH_WRITE", WATCH_WRITE},
        {"WATCH_MAYBE", WATCH_MAYBE},
        {"WATCH_BLOCK", WATCH_BLOCK},
        {"WATCH_INTERRUPT", WATCH_INTERRUPT},
        {"WATCH_SYSTEM_CALL", WATCH_SYSTEM_CALL},
        {"WATCH_ADDRESS_SPACE", WATCH_ADDRESS_SPACE},
        {"WATCH_PRIVILEGE", WATCH_PRIVILEGE},
        {"WATCH_CALL", WATCH_CALL},
        {"WATCH_RETURN", WATCH_RETURN},
        {"MODE_REAL", MODE_REAL},
        {"MODE_PROTECTED", MODE_PROTECTED},
        {"MODE_LONG", MODE_LONG},
    };
    for (size_t i = 0; i < sizeof CONSTANTS / sizeof *CONSTANTS; i++)
        if (PyModule_AddIntConstant(module, CONSTANTS[i].name, CONSTANTS[i].value) < 0)
            return -1;
    if (PyModule_AddStringConstant(module, "UNICORN_VERSION", UNICORN_VERSION) < 0)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &CORE_TYPE, NULL);
    int ret = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return ret;
}

static PyModuleDef_Slot MODULE_SLOTS[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "revirt.core._core",
    .m_size = 0,
    .m_methods = MODULE_METHODS,
    .m_slots = MODULE_SLOTS,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&MODULE);
}
