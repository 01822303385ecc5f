"""The C library: finding it, its structures and prototypes, calling it.

Prototypes stand here as they do in fathom.h, and a test gives both to a C compiler, as it does with the structures' sizes and offsets.
"""
from __future__ import annotations

import ctypes
import os
import pathlib
import re
import signal
from ctypes import c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any, Callable

from .errors import error_of

NAME = "libfathom.so.0"


class CError(ctypes.Structure):
    _fields_ = [("code", c_int), ("message", ctypes.c_char * 512)]


class CModelInfo(ctypes.Structure):
    _fields_ = [("vocab", c_int64), ("dim", c_int64), ("layers", c_int64), ("heads", c_int64), ("kv_heads", c_int64),
                ("ffn", c_int64), ("max_tokens", c_int64), ("params", c_int64), ("routed_layers", c_int64)]


class CLogitBias(ctypes.Structure):
    _fields_ = [("id", c_int32), ("bias", c_float)]


class CGenerateOptions(ctypes.Structure):
    _fields_ = [("max_tokens", c_int64), ("temperature", c_float), ("top_k", c_int32), ("top_p", c_float), ("min_p", c_float),
                ("seed", c_uint64), ("stop", ctypes.POINTER(ctypes.c_char_p)), ("stop_count", c_size_t), ("budget", c_double),
                ("presence_penalty", c_float), ("frequency_penalty", c_float), ("logit_bias", ctypes.POINTER(CLogitBias)),
                ("logit_bias_count", c_size_t)]


class CGenerateStats(ctypes.Structure):
    _fields_ = [("prompt_tokens", c_int64), ("tokens", c_int64), ("prefill_seconds", c_double), ("decode_seconds", c_double),
                ("routed_fraction", c_double), ("kv_bytes", c_int64)]


class CLossResult(ctypes.Structure):
    _fields_ = [("loss", c_double), ("predictions", c_int64), ("routed_fraction", c_double)]


class CTraceStage(ctypes.Structure):
    _fields_ = [("layer", c_int64), ("unit", ctypes.c_char_p), ("count", c_int64), ("selected", c_void_p), ("weights", c_void_p)]


STRUCTURES = {"fathom_error": CError, "fathom_model_info": CModelInfo, "fathom_logit_bias": CLogitBias,
              "fathom_generate_options": CGenerateOptions, "fathom_generate_stats": CGenerateStats, "fathom_loss_result": CLossResult,
              "fathom_trace_stage": CTraceStage}

PROTOTYPES = """
const char *fathom_version(void);
fathom_status fathom_model_load(const char *dir, int threads, fathom_model **out, fathom_error *err);
void fathom_model_free(fathom_model *model);
fathom_model_info fathom_model_describe(const fathom_model *model);
fathom_status fathom_encode(const fathom_model *model, const char *text, size_t bytes, int32_t *ids, size_t capacity, size_t *count,
    fathom_error *err);
const char *fathom_token_text(const fathom_model *model, int32_t id, size_t *bytes);
fathom_status fathom_session_new(const fathom_model *model, int64_t max_tokens, fathom_session **out, fathom_error *err);
void fathom_session_free(fathom_session *session);
void fathom_session_reset(fathom_session *session);
fathom_status fathom_session_set_budget(fathom_session *session, double budget, fathom_error *err);
fathom_status fathom_session_append(fathom_session *session, const int32_t *ids, size_t count, fathom_error *err);
const float *fathom_session_logits(const fathom_session *session);
int64_t fathom_session_length(const fathom_session *session);
int64_t fathom_session_kv_bytes(const fathom_session *session);
double fathom_session_routed_fraction(const fathom_session *session);
fathom_generate_options fathom_generate_defaults(void);
fathom_status fathom_generation_new(const fathom_model *model, const char *prompt, size_t prompt_bytes, const
    fathom_generate_options *options, fathom_generation **out, fathom_error *err);
void fathom_generation_free(fathom_generation *generation);
fathom_status fathom_generation_next(fathom_generation *generation, const char **text, size_t *bytes, fathom_error *err);
fathom_generate_stats fathom_generation_stats(const fathom_generation *generation);
fathom_status fathom_logits(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing routing, float *logits,
    fathom_error *err);
fathom_status fathom_loss(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing routing, fathom_loss_result
    *out, fathom_error *err);
fathom_status fathom_trace_new(const fathom_model *model, const int32_t *ids, size_t count, fathom_routing routing, fathom_trace
    **out, fathom_error *err);
void fathom_trace_free(fathom_trace *trace);
int64_t fathom_trace_stages(const fathom_trace *trace);
fathom_status fathom_trace_get(const fathom_trace *trace, int64_t stage, fathom_trace_stage *out, fathom_error *err);
const float *fathom_trace_losses(const fathom_trace *trace);
fathom_status fathom_tokenizer_load(const char *path, fathom_tokenizer **out, fathom_error *err);
void fathom_tokenizer_free(fathom_tokenizer *tokenizer);
int64_t fathom_tokenizer_vocab(const fathom_tokenizer *tokenizer);
fathom_status fathom_tokenizer_encode(const fathom_tokenizer *tokenizer, const char *text, size_t bytes, int special, int32_t *ids,
    size_t capacity, size_t *count, fathom_error *err);
const char *fathom_tokenizer_text(const fathom_tokenizer *tokenizer, int32_t id, size_t *bytes);
const fathom_tokenizer *fathom_model_tokenizer(const fathom_model *model);
"""

ROUTINGS = {"causal": 0, "topk": 1}

_TYPES = {"void": None, "int": c_int, "int32_t": c_int32, "int64_t": c_int64, "size_t": c_size_t, "double": c_double,
          "fathom_status": c_int, "fathom_routing": c_int, **STRUCTURES}


def _type(text: str) -> Any:
    """Of `type name` or `type`; every pointer is a c_void_p."""
    return c_void_p if "*" in text else _TYPES[text.split()[0]]


def _declare(loaded: ctypes.CDLL, prototypes: str) -> None:
    for result, name, parameters in re.findall(r"(\w[\w *]*?)(\w+)\(([^)]*)\);", " ".join(prototypes.split())):
        function = getattr(loaded, name)
        function.restype = _type(result)
        function.argtypes = [] if parameters == "void" else [_type(p) for p in parameters.split(", ")]


def _open() -> ctypes.CDLL:
    """Where FATHOM_LIBRARY names one, that one or none: another would be a surprise."""
    given = os.environ.get("FATHOM_LIBRARY") or None
    beside = pathlib.Path(__file__).resolve().parent / NAME
    tried = []
    for place, path in (("FATHOM_LIBRARY", given), (f"beside the package, {beside}", str(beside)),
                        (f"the system's loader, {NAME}", NAME)):
        if path is None:
            tried.append(f"{place}: not set")
        elif given and path != given:
            tried.append(f"{place}: not tried, FATHOM_LIBRARY is set")
        elif path == str(beside) and not beside.exists():
            tried.append(f"{place}: not there")
        else:
            try:
                return ctypes.CDLL(path)
            except OSError as error:
                tried.append(f"{place}: {error}")
    raise ImportError("the fathom library cannot be loaded (" + "; ".join(tried) + "). `make` builds it: "
                      "FATHOM_LIBRARY=build/libfathom.so; `make install` installs it")


library = _open()
try:
    _declare(library, PROTOTYPES)
except AttributeError as missing:
    raise ImportError(f"the fathom library is of another version than this package: {missing}") from None
VERSION = ctypes.string_at(library.fathom_version()).decode()

# Signal masks by libc itself: signal.pthread_sigmask runs Python's handlers, which may raise between a mask and the `try` that undoes it.
_libc = ctypes.PyDLL(None)
_SignalSet = ctypes.c_ulong * 16  # no system's is larger
_SYNCHRONOUS = [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS]
_held = _SignalSet()
_libc.sigfillset(_held)
for _number in _SYNCHRONOUS:
    _libc.sigdelset(_held, c_int(_number))


def call(function: Callable[..., int], *arguments: Any) -> None:
    """function(*arguments, &error); raises what it says. No signal handler runs on this thread's stack meanwhile, nor ever on those of
    the library's threads: fathom.h says why."""
    error = CError()
    before = _SignalSet()
    _libc.pthread_sigmask(signal.SIG_BLOCK, None, before)
    try:
        _libc.pthread_sigmask(signal.SIG_BLOCK, _held, None)
        status = function(*arguments, ctypes.byref(error))
    finally:
        _libc.pthread_sigmask(signal.SIG_SETMASK, before, None)
    if status != 0:
        raise error_of(status, error.message.decode("utf-8", "replace"))
