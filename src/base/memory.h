/* How much memory this process may still take. */
#ifndef FATHOM_BASE_MEMORY_H
#define FATHOM_BASE_MEMORY_H

#include <stddef.h>

/* Bytes: what the system calls available, or what the process's memory control group leaves where that is less. SIZE_MAX when
 * neither is known. */
size_t memory_available(void);

#endif
