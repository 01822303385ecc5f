/* safetensors files: 8 bytes little-endian header length, a JSON header, then the tensors' bytes. The reader maps the
 * file and trusts nothing in it: every offset, size, name and shape is checked before a pointer is handed out. */
#ifndef FATHOM_FORMAT_SAFETENSORS_H
#define FATHOM_FORMAT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define SAFETENSORS_DTYPE_LIST(X) \
    X(F64, 8) X(F32, 4) X(F16, 2) X(BF16, 2) X(I64, 8) X(I32, 4) X(I16, 2) X(I8, 1) X(U64, 8) X(U32, 4) X(U16, 2) \
    X(U8, 1) X(BOOL, 1)
#define SAFETENSORS_ENUM(name, bytes) DTYPE_##name,
typedef enum safetensors_dtype { SAFETENSORS_DTYPE_LIST(SAFETENSORS_ENUM) DTYPE_COUNT } safetensors_dtype;
#undef SAFETENSORS_ENUM

enum { SAFETENSORS_MAX_RANK = 8 };
#define SAFETENSORS_MAX_HEADER ((size_t)100000000) /* the format's own limit */

typedef struct safetensors_tensor {
    const char *name;
    safetensors_dtype dtype;
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
    const void *data; /* in the map (reader) or the caller's (writer); may be unaligned */
    size_t bytes;
} safetensors_tensor;

typedef struct safetensors safetensors;

/* Opens and checks path: header within the file and the format's limit, valid JSON without duplicate names, known
 * dtypes, shape x dtype equal to the byte range, the ranges covering the data exactly: none overlapping, no hole,
 * nothing after the last. */
fathom_status safetensors_open(const char *path, safetensors **out, fathom_error *err);
/* The model in the folder dir: model.safetensors, or else the files that model.safetensors.index.json names, read as if they were
 * one. The index must name plain files in dir and say of every tensor in them which one holds it, and of no other. */
fathom_status safetensors_open_model(const char *dir, safetensors **out, fathom_error *err);
/* Several open files as one; path is what messages call it. Takes parts, malloc'd, unless it fails. */
fathom_status safetensors_join(const char *path, safetensors **parts, size_t count, safetensors **out, fathom_error *err);
void safetensors_close(safetensors *s);
size_t safetensors_count(const safetensors *s);
const safetensors_tensor *safetensors_at(const safetensors *s, size_t i); /* in the header's order */
const safetensors_tensor *safetensors_find(const safetensors *s, const char *name); /* NULL when absent */
/* A value of __metadata__; NULL when absent. */
const char *safetensors_metadata(const safetensors *s, const char *key);
const char *safetensors_path(const safetensors *s);
size_t safetensors_size(const safetensors *s); /* bytes of the files */
/* The tensor `name`, of exactly this shape. */
fathom_status safetensors_find_shaped(const safetensors *s, const char *name, int rank, const int64_t *shape,
                                      const safetensors_tensor **out, fathom_error *err);
/* Does every value of the type have its like in F32? */
bool safetensors_widens(safetensors_dtype d);
/* The elements [first, first + count) of a tensor of such a type, exactly. */
void safetensors_widen(const safetensors_tensor *t, size_t first, size_t count, float *out);
/* The tensor `name` as F32 of exactly this shape into out; the message names file, tensor and what differs. F16 and
 * BF16 are widened exactly. */
fathom_status safetensors_read_f32(const safetensors *s, const char *name, int rank, const int64_t *shape, float *out,
                                   fathom_error *err);

/* The bytes of tensor `name` in the map, of exactly this type and shape; may be unaligned. */
fathom_status safetensors_get(const safetensors *s, const char *name, safetensors_dtype dtype, int rank, const int64_t *shape,
                              const void **out, fathom_error *err);

/* Writes the tensors in the given order, atomically (see file.h). metadata: pairs key, value; NULL-terminated; may be
 * NULL. The header is padded with spaces so that the data starts on a multiple of 64 bytes. */
fathom_status safetensors_write(const char *path, const safetensors_tensor *tensors, size_t count,
                                const char *const *metadata, fathom_error *err);
/* The same from tensors without data: source gives the bytes of tensor i from `offset` on, as many as it has at hand (at least one), in
 * *data and *bytes; they must stay until it is called again. */
typedef fathom_status (*safetensors_source)(void *user, size_t i, size_t offset, const void **data, size_t *bytes, fathom_error *err);
fathom_status safetensors_write_from(const char *path, const safetensors_tensor *tensors, size_t count, const char *const *metadata,
                                     safetensors_source source, void *user, fathom_error *err);
const char *safetensors_dtype_name(safetensors_dtype d);
size_t safetensors_dtype_bytes(safetensors_dtype d);

#endif
