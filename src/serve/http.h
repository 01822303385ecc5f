/* What MHD calls: see exchange.c. The user pointer is the server. */
#ifndef FATHOM_SERVE_HTTP_H
#define FATHOM_SERVE_HTTP_H

#include "serve/exchange.h"

enum MHD_Result exchange_handle(void *user, struct MHD_Connection *mhd, const char *path, const char *method, const char *version,
                                const char *data, size_t *bytes, void **context);
void exchange_completed(void *user, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode how);
void exchange_connection(void *user, struct MHD_Connection *mhd, void **context, enum MHD_ConnectionNotificationCode what);

#endif
