/* The server's log, which never holds up serving. Lines wait in a bounded queue for a thread that writes them. A line that finds
 * the queue full, or that cannot be written whole, is dropped and counted. A file keeps no half line: what was written of one is
 * cut off again. */
#ifndef FATHOM_SERVE_LOG_WRITER_H
#define FATHOM_SERVE_LOG_WRITER_H

#include <stdint.h>

#include "base/status.h"

typedef struct log_writer log_writer;

/* Writes to a copy of the descriptor. Errors: FATHOM_IO, FATHOM_OUT_OF_MEMORY. */
fathom_status log_writer_on(int descriptor, log_writer **out, fathom_error *err);
/* Opens the file for appending. path and faults are borrowed; faults gets a line when the file cannot be written, one for a fault
 * that lasts. Errors: FATHOM_IO, FATHOM_OUT_OF_MEMORY. */
fathom_status log_writer_open(const char *path, log_writer *faults, log_writer **out, fathom_error *err);
/* Queues the line, without its newline; it is copied. Returns at once. Any thread; w may be NULL. */
void log_writer_add(log_writer *w, const char *line);
/* Opens the file again before the next line, as log rotation expects. Where that fails, the old one stays. */
void log_writer_reopen(log_writer *w);
/* Lines that were dropped so far. */
int64_t log_writer_dropped(log_writer *w);
/* Waits up to `seconds` for the queue, then frees everything; a thread that still stands in a write keeps what it needs. */
void log_writer_close(log_writer *w, double seconds);

#endif
