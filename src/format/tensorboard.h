/* TensorBoard's event files, written: events.out.tfevents.TIME.HOST, records of an Event message each. The file appears in the
 * folder that TensorBoard is told to watch; it merges all files of a folder in the order of their names. */
#ifndef FATHOM_FORMAT_TENSORBOARD_H
#define FATHOM_FORMAT_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

enum { TENSORBOARD_MAX_TAG = 64 };

/* A new file in the folder dir, whose first records are the version and a session that starts after `step` steps: readers drop
 * what earlier files of the folder have of later ones. *path is the caller's (free), *out to be closed by fclose. */
fathom_status tensorboard_create(const char *dir, int64_t step, FILE **out, char **path, fathom_error *err);
/* One scalar at a training step. wall_time: seconds since 1970. The tag has at most TENSORBOARD_MAX_TAG bytes. A failed write is found
 * by ferror or the next fflush. */
void tensorboard_scalar(FILE *out, double wall_time, int64_t step, const char *tag, float value);
double tensorboard_wall_time(void);

/* CRC-32C (Castagnoli; RFC 3720, appendix B.4), with which the records are framed. */
uint32_t crc32c(const void *data, size_t size);

#endif
