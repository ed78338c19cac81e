#include "unicorn_api.h"

#include <dlfcn.h>
#include <stddef.h>

UnicornApi unicorn;

const char *unicorn_load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return dlerror();
    UnicornApi found;
#define X(name)                                                                                                       \
    if ((found.name = (__typeof__(found.name))dlsym(library, "uc_" #name)) == NULL)                                   \
        return dlerror();
    UNICORN_FUNCTIONS(X)
#undef X
    unicorn = found;
    return NULL;
}
