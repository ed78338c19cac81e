// The image's header; the rest of the guest is C.
#include "multiboot.h"

        multiboot_elf
