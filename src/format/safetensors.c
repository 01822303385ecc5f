/* safetensors files: see safetensors.h. A tensor is handed out only after its byte range has been held against its
 * shape and its dtype, and all ranges, sorted, follow one another from the first byte of data to the last. */
#include "format/safetensors.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/json.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian and used as it lies");

enum { LENGTH_BYTES = 8, DATA_ALIGNMENT = 64, SHAPE_TEXT = SAFETENSORS_MAX_RANK * 22 + 3 };

#define METADATA_KEY "__metadata__"

struct safetensors {
    char *path;
    file_map map;
    json_t *header; /* owns the names and the metadata */
    safetensors **parts; /* of several files: they own all but the lists */
    size_t part_count;
    const unsigned char *data;
    size_t data_size, count;
    safetensors_tensor *tensors;        /* in the header's order */
    const safetensors_tensor **by_name; /* sorted; before that, by range for check_ranges */
};

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
#define DTYPE_ROW(name, bytes) {#name, bytes},
    SAFETENSORS_DTYPE_LIST(DTYPE_ROW)
#undef DTYPE_ROW
};

const char *safetensors_dtype_name(safetensors_dtype d)
{
    return dtypes[d].name;
}

size_t safetensors_dtype_bytes(safetensors_dtype d)
{
    return dtypes[d].bytes;
}

/* False when a dimension is negative or the size does not fit. */
static bool tensor_bytes(const safetensors_tensor *t, size_t *out)
{
    *out = safetensors_dtype_bytes(t->dtype);
    for (int i = 0; i < t->rank; i++)
        if (t->shape[i] < 0 || __builtin_mul_overflow(*out, (size_t)t->shape[i], out))
            return false;
    return true;
}

static const char *shape_text(int rank, const int64_t *shape, char text[SHAPE_TEXT])
{
    int used = snprintf(text, SHAPE_TEXT, "[");
    for (int i = 0; i < rank; i++)
        used += snprintf(text + used, SHAPE_TEXT - (size_t)used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + used, SHAPE_TEXT - (size_t)used, "]");
    return text;
}

/* --- reading --- */

static fathom_status read_dtype(const json_fields *f, safetensors_tensor *t, fathom_error *err)
{
    const char *name;
    TRY(json_field_string(f, "dtype", &name, err));
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (strcmp(name, dtypes[d].name) == 0) {
            t->dtype = (safetensors_dtype)d;
            return FATHOM_OK;
        }
    }
    return json_field_refuse(f, "dtype", FATHOM_UNSUPPORTED, "unknown dtype", err);
}

static fathom_status read_shape(const json_fields *f, safetensors_tensor *t, fathom_error *err)
{
    const json_t *shape;
    TRY(json_field_get(f, "shape", JSON_ARRAY, &shape, err));
    if (json_array_size(shape) > SAFETENSORS_MAX_RANK)
        return json_field_refuse(f, "shape", FATHOM_UNSUPPORTED, "more than 8 dimensions", err);
    t->rank = (int)json_array_size(shape);
    for (int i = 0; i < t->rank; i++)
        TRY(json_value_int(f, "shape", json_array_get(shape, (size_t)i), &t->shape[i], err));
    size_t bytes;
    if (!tensor_bytes(t, &bytes))
        return json_field_refuse(f, "shape", FATHOM_FORMAT, "negative dimension or size too large", err);
    return FATHOM_OK;
}

static fathom_status read_range(const safetensors *s, const json_fields *f, safetensors_tensor *t, fathom_error *err)
{
    const json_t *range;
    int64_t begin, end;
    TRY(json_field_get(f, "data_offsets", JSON_ARRAY, &range, err));
    if (json_array_size(range) != 2)
        return json_field_refuse(f, "data_offsets", FATHOM_FORMAT, "expected two integers", err);
    TRY(json_value_int(f, "data_offsets", json_array_get(range, 0), &begin, err));
    TRY(json_value_int(f, "data_offsets", json_array_get(range, 1), &end, err));
    if (begin < 0 || begin > end)
        return json_field_refuse(f, "data_offsets", FATHOM_FORMAT, "not a range", err);
    if ((uint64_t)end > s->data_size)
        return status_fail(err, FATHOM_FORMAT, "%s: %.100s.data_offsets: [%lld, %lld] is outside the %zu bytes of data",
                           s->path, t->name, (long long)begin, (long long)end, s->data_size);
    t->data = s->data + begin;
    t->bytes = (size_t)(end - begin);
    return FATHOM_OK;
}

static fathom_status read_tensor(const safetensors *s, const json_t *entry, safetensors_tensor *t, fathom_error *err)
{
    const json_fields f = {entry, s->path, t->name};
    if (!json_is_object(entry)) {
        const json_fields header = {s->header, s->path, NULL};
        return json_value_refuse(&header, t->name, entry, FATHOM_FORMAT, "expected an object", err);
    }
    TRY(read_dtype(&f, t, err));
    TRY(read_shape(&f, t, err));
    TRY(read_range(s, &f, t, err));
    size_t bytes = 0;
    char shape[SHAPE_TEXT];
    if (!tensor_bytes(t, &bytes) || bytes != t->bytes)
        return status_fail(err, FATHOM_FORMAT, "%s: %.100s: shape %s of %s needs %zu bytes, data_offsets has %zu",
                           s->path, t->name, shape_text(t->rank, t->shape, shape), safetensors_dtype_name(t->dtype),
                           bytes, t->bytes);
    return FATHOM_OK;
}

static int compare_ranges(const void *a, const void *b)
{
    const safetensors_tensor *x = *(const safetensors_tensor *const *)a, *y = *(const safetensors_tensor *const *)b;
    const unsigned char *p = x->data, *q = y->data;
    return p != q ? (p > q) - (p < q) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const safetensors_tensor *const *)a)->name, (*(const safetensors_tensor *const *)b)->name);
}

/* The format allows neither overlaps nor holes nor bytes that belong to no tensor. */
static fathom_status check_ranges(safetensors *s, fathom_error *err)
{
    qsort(s->by_name, s->count, sizeof *s->by_name, compare_ranges);
    size_t expected = 0;
    for (size_t i = 0; i < s->count; i++) {
        const safetensors_tensor *t = s->by_name[i];
        const size_t begin = (size_t)((const unsigned char *)t->data - s->data);
        if (begin != expected)
            return status_fail(err, FATHOM_FORMAT, "%s: %.100s.data_offsets: [%zu, %zu] %s: expected to begin at %zu",
                               s->path, t->name, begin, begin + t->bytes,
                               begin < expected ? "overlaps the tensor before" : "leaves a hole", expected);
        expected += t->bytes;
    }
    if (expected != s->data_size)
        return status_fail(err, FATHOM_FORMAT, "%s: %zu bytes after the last tensor's end at %zu", s->path,
                           s->data_size - expected, expected);
    return FATHOM_OK;
}

static fathom_status check_metadata(const safetensors *s, fathom_error *err)
{
    json_t *metadata = json_object_get(s->header, METADATA_KEY), *value;
    const json_fields root = {s->header, s->path, NULL}, f = {metadata, s->path, METADATA_KEY};
    if (!metadata)
        return FATHOM_OK;
    if (!json_is_object(metadata))
        return json_field_refuse(&root, METADATA_KEY, FATHOM_FORMAT, "expected an object", err);
    const char *key;
    json_object_foreach(metadata, key, value)
        if (!json_is_string(value))
            return json_value_refuse(&f, key, value, FATHOM_FORMAT, "expected a string", err);
    return FATHOM_OK;
}

static fathom_status read_header(safetensors *s, fathom_error *err)
{
    uint64_t length;
    if (s->map.size < LENGTH_BYTES)
        return status_fail(err, FATHOM_FORMAT, "%s: %zu bytes are no safetensors file", s->path, s->map.size);
    memcpy(&length, s->map.data, LENGTH_BYTES);
    if (length > SAFETENSORS_MAX_HEADER)
        return status_fail(err, FATHOM_FORMAT, "%s: header length %llu is over the format's limit of %zu", s->path,
                           (unsigned long long)length, SAFETENSORS_MAX_HEADER);
    if (length > s->map.size - LENGTH_BYTES)
        return status_fail(err, FATHOM_FORMAT, "%s: header length %llu reaches past the file's %zu bytes", s->path,
                           (unsigned long long)length, s->map.size);
    const char *text = (const char *)s->map.data + LENGTH_BYTES;
    if (length == 0 || text[0] != '{')
        return status_fail(err, FATHOM_FORMAT, "%s: the header is not a JSON object", s->path);
    s->data = s->map.data + LENGTH_BYTES + length;
    s->data_size = s->map.size - LENGTH_BYTES - (size_t)length;
    return json_parse(s->path, text, (size_t)length, &s->header, err);
}

static fathom_status read_tensors(safetensors *s, fathom_error *err)
{
    TRY(check_metadata(s, err));
    const size_t entries = json_object_size(s->header);
    s->tensors = calloc(entries + 1, sizeof *s->tensors); /* + 1: never of size 0 */
    s->by_name = calloc(entries + 1, sizeof *s->by_name);
    if (!s->tensors || !s->by_name)
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory for %zu tensors", s->path, entries);
    const char *name;
    json_t *entry;
    json_object_foreach(s->header, name, entry) {
        if (strcmp(name, METADATA_KEY) == 0)
            continue;
        safetensors_tensor *t = &s->tensors[s->count];
        t->name = name;
        TRY(read_tensor(s, entry, t, err));
        s->by_name[s->count++] = t;
    }
    TRY(check_ranges(s, err));
    qsort(s->by_name, s->count, sizeof *s->by_name, compare_names);
    return FATHOM_OK;
}

fathom_status safetensors_open(const char *path, safetensors **out, fathom_error *err)
{
    *out = NULL;
    safetensors *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path))) {
        free(s);
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    }
    fathom_status status = file_map_open(path, &s->map, err);
    if (status == FATHOM_OK)
        status = read_header(s, err);
    if (status == FATHOM_OK)
        status = read_tensors(s, err);
    if (status == FATHOM_OK)
        *out = s;
    else
        safetensors_close(s);
    return status;
}

fathom_status safetensors_join(const char *path, safetensors **parts, size_t count, safetensors **out, fathom_error *err)
{
    size_t tensors = 0;
    for (size_t i = 0; i < count; i++)
        tensors += parts[i]->count;
    safetensors *s = *out = calloc(1, sizeof *s);
    if (s)
        *s = (safetensors){.path = strdup(path), .tensors = calloc(tensors + 1, sizeof *s->tensors),
                           .by_name = calloc(tensors + 1, sizeof *s->by_name)};
    if (!s || !s->path || !s->tensors || !s->by_name) {
        safetensors_close(s);
        *out = NULL;
        return status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory for %zu tensors", path, tensors);
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < parts[i]->count; j++) {
            s->by_name[s->count] = &s->tensors[s->count];
            s->tensors[s->count++] = parts[i]->tensors[j];
        }
    qsort(s->by_name, s->count, sizeof *s->by_name, compare_names);
    s->parts = parts;
    s->part_count = count;
    return FATHOM_OK;
}

void safetensors_close(safetensors *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->part_count; i++)
        safetensors_close(s->parts[i]);
    free(s->parts);
    free(s->by_name);
    free(s->tensors);
    json_decref(s->header);
    file_map_close(&s->map);
    free(s->path);
    free(s);
}

size_t safetensors_count(const safetensors *s)
{
    return s->count;
}

const safetensors_tensor *safetensors_at(const safetensors *s, size_t i)
{
    return &s->tensors[i];
}

const safetensors_tensor *safetensors_find(const safetensors *s, const char *name)
{
    const safetensors_tensor key = {.name = name}, *pointer = &key;
    const safetensors_tensor **found = bsearch(&pointer, s->by_name, s->count, sizeof *s->by_name, compare_names);
    return found ? *found : NULL;
}

const char *safetensors_metadata(const safetensors *s, const char *key)
{
    return json_string_value(json_object_get(json_object_get(s->header, METADATA_KEY), key));
}

const char *safetensors_path(const safetensors *s)
{
    return s->path;
}

size_t safetensors_size(const safetensors *s)
{
    size_t size = s->map.size;
    for (size_t i = 0; i < s->part_count; i++)
        size += s->parts[i]->map.size;
    return size;
}

/* --- widening --- */

/* The bits of the float that a half stands for: 1 sign, 5 exponent (bias 15), 10 mantissa bits. */
static uint32_t widen_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
    if (exponent == 0x1f) /* infinity, NaN */
        return sign | 0x7f800000u | mantissa << 13;
    if (exponent)
        return sign | (exponent + 127 - 15) << 23 | mantissa << 13;
    const float magnitude = (float)mantissa * 0x1p-24f; /* zero, subnormal */
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    return sign | bits;
}

bool safetensors_widens(safetensors_dtype d)
{
    return d == DTYPE_F32 || d == DTYPE_F16 || d == DTYPE_BF16;
}

void safetensors_widen(const safetensors_tensor *t, size_t first, size_t count, float *out)
{
    const unsigned char *in = (const unsigned char *)t->data + first * safetensors_dtype_bytes(t->dtype);
    if (t->dtype == DTYPE_F32 && count)
        memcpy(out, in, count * sizeof *out);
    for (size_t i = 0; t->dtype != DTYPE_F32 && i < count; i++) {
        uint16_t narrow;
        memcpy(&narrow, in + i * sizeof narrow, sizeof narrow);
        const uint32_t bits = t->dtype == DTYPE_BF16 ? (uint32_t)narrow << 16 : widen_f16(narrow);
        memcpy(&out[i], &bits, sizeof bits);
    }
}

fathom_status safetensors_find_shaped(const safetensors *s, const char *name, int rank, const int64_t *shape,
                                      const safetensors_tensor **out, fathom_error *err)
{
    const safetensors_tensor *t = *out = safetensors_find(s, name);
    if (!t)
        return status_fail(err, FATHOM_FORMAT, "%s: %.100s: no such tensor", s->path, name);
    bool same = t->rank == rank;
    for (int i = 0; i < rank && same; i++)
        same = t->shape[i] == shape[i];
    char found[SHAPE_TEXT], wanted[SHAPE_TEXT];
    if (!same)
        return status_fail(err, FATHOM_FORMAT, "%s: %.100s: shape %s, expected %s", s->path, name,
                           shape_text(t->rank, t->shape, found), shape_text(rank, shape, wanted));
    return FATHOM_OK;
}

fathom_status safetensors_get(const safetensors *s, const char *name, safetensors_dtype dtype, int rank, const int64_t *shape,
                              const void **out, fathom_error *err)
{
    const safetensors_tensor *t;
    TRY(safetensors_find_shaped(s, name, rank, shape, &t, err));
    if (t->dtype != dtype)
        return status_fail(err, FATHOM_FORMAT, "%s: %.100s: dtype %s, expected %s", s->path, name,
                           safetensors_dtype_name(t->dtype), safetensors_dtype_name(dtype));
    *out = t->data;
    return FATHOM_OK;
}

fathom_status safetensors_read_f32(const safetensors *s, const char *name, int rank, const int64_t *shape, float *out,
                                   fathom_error *err)
{
    const safetensors_tensor *t;
    TRY(safetensors_find_shaped(s, name, rank, shape, &t, err));
    if (!safetensors_widens(t->dtype))
        return status_fail(err, FATHOM_UNSUPPORTED, "%s: %.100s: dtype %s, expected F32, F16 or BF16", s->path, name,
                           safetensors_dtype_name(t->dtype));
    safetensors_widen(t, 0, t->bytes / safetensors_dtype_bytes(t->dtype), out);
    return FATHOM_OK;
}

/* --- writing --- */

static json_t *metadata_json(const char *const *metadata)
{
    json_t *object = json_object();
    for (; object && *metadata; metadata += 2) {
        if (json_object_set_new(object, metadata[0], json_string(metadata[1])) != 0) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}

static json_t *tensor_json(const safetensors_tensor *t, size_t begin)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    if (json_array_size(shape) != (size_t)t->rank) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(t->dtype), "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + t->bytes));
}

static fathom_status check_tensor(const char *path, const safetensors_tensor *t, fathom_error *err)
{
    if (strcmp(t->name, METADATA_KEY) == 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %s: not a name for a tensor", path, t->name);
    if (t->rank < 0 || t->rank > SAFETENSORS_MAX_RANK)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %.100s: rank %d is not in [0, %d]", path, t->name,
                           t->rank, SAFETENSORS_MAX_RANK);
    char shape[SHAPE_TEXT];
    size_t bytes;
    if (!tensor_bytes(t, &bytes) || bytes != t->bytes)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %.100s: shape %s of %s does not make %zu bytes", path,
                           t->name, shape_text(t->rank, t->shape, shape), safetensors_dtype_name(t->dtype), t->bytes);
    return FATHOM_OK;
}

static fathom_status fill_header(json_t *header, const char *path, const safetensors_tensor *tensors, size_t count,
                                 const char *const *metadata, fathom_error *err)
{
    if (metadata && json_object_set_new(header, METADATA_KEY, metadata_json(metadata)) != 0)
        return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: metadata is not UTF-8, or out of memory", path);
    size_t begin = 0;
    for (size_t i = 0; i < count; i++) {
        const safetensors_tensor *t = &tensors[i];
        TRY(check_tensor(path, t, err));
        if (json_object_get(header, t->name))
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %.100s: two tensors of this name", path, t->name);
        if (t->bytes > (size_t)INT64_MAX - begin)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %.100s: too large: %zu bytes", path, t->name,
                               t->bytes);
        if (json_object_set_new(header, t->name, tensor_json(t, begin)) != 0)
            return status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: %.100s: name not UTF-8, or out of memory", path,
                               t->name);
        begin += t->bytes;
    }
    return FATHOM_OK;
}

/* The header's length and text, padded; malloc'd. */
static fathom_status make_header(const char *path, const safetensors_tensor *tensors, size_t count,
                                 const char *const *metadata, char **out, size_t *size, fathom_error *err)
{
    *out = NULL;
    json_t *header = json_object();
    fathom_status status = header ? fill_header(header, path, tensors, count, metadata, err)
                                  : status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    char *text = status == FATHOM_OK ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (status != FATHOM_OK)
        return status;
    const size_t length = text ? strlen(text) : 0;
    *size = (LENGTH_BYTES + length + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    const uint64_t padded = *size - LENGTH_BYTES;
    *out = text ? malloc(*size) : NULL;
    if (!*out)
        status = status_fail(err, FATHOM_OUT_OF_MEMORY, "%s: out of memory", path);
    else if (padded > SAFETENSORS_MAX_HEADER)
        status = status_fail(err, FATHOM_INVALID_ARGUMENT, "%s: header length %llu is over the format's limit of %zu",
                             path, (unsigned long long)padded, SAFETENSORS_MAX_HEADER);
    else {
        memset(*out, ' ', *size);
        memcpy(*out, &padded, LENGTH_BYTES);
        memcpy(*out + LENGTH_BYTES, text, length);
    }
    free(text);
    return status;
}

static bool write_all(FILE *stream, const void *data, size_t size)
{
    return size == 0 || fwrite(data, 1, size, stream) == size;
}

/* A tensor in pieces, as they come; one that stands in memory is a piece. */
static fathom_status write_tensor(const file_writer *w, const safetensors_tensor *tensors, size_t i, safetensors_source source,
                                  void *user, fathom_error *err)
{
    for (size_t done = 0, bytes; done < tensors[i].bytes; done += bytes) {
        const void *data = tensors[i].data;
        bytes = tensors[i].bytes;
        if (source)
            TRY(source(user, i, done, &data, &bytes, err));
        if (!write_all(w->stream, data, bytes))
            return status_fail(err, FATHOM_IO, "%s: cannot write: %s", w->path, strerror(errno));
    }
    return FATHOM_OK;
}

fathom_status safetensors_write_from(const char *path, const safetensors_tensor *tensors, size_t count, const char *const *metadata,
                                     safetensors_source source, void *user, fathom_error *err)
{
    file_writer w = {0};
    char *header;
    size_t size;
    fathom_status status = make_header(path, tensors, count, metadata, &header, &size, err);
    if (status == FATHOM_OK)
        status = file_writer_open(&w, path, err);
    if (status == FATHOM_OK) {
        /* ends at the first failure: what follows on a full disk would only hide the reason */
        if (!write_all(w.stream, header, size))
            status = status_fail(err, FATHOM_IO, "%s: cannot write: %s", path, strerror(errno));
        for (size_t i = 0; i < count && status == FATHOM_OK; i++)
            status = write_tensor(&w, tensors, i, source, user, err);
        if (status == FATHOM_OK)
            status = file_writer_commit(&w, err);
        else
            file_writer_abort(&w);
    }
    free(header);
    return status;
}

fathom_status safetensors_write(const char *path, const safetensors_tensor *tensors, size_t count,
                                const char *const *metadata, fathom_error *err)
{
    return safetensors_write_from(path, tensors, count, metadata, NULL, NULL, err);
}
