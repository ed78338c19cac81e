/* What this process keeps of memory that it does not use any more. */
#define PY_SSIZE_T_CLEAN
#include "module.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

PyObject *module_trim_heap(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
#ifdef __GLIBC__
    Py_BEGIN_ALLOW_THREADS
    malloc_trim(0);
    Py_END_ALLOW_THREADS
#endif
    Py_RETURN_NONE;
}
