"""Text from a prompt, piece by piece."""
from __future__ import annotations

import codecs
import ctypes
import threading
from typing import Iterator, NamedTuple

from ._handle import Handle
from ._library import CGenerateOptions, CGenerateStats, call, library


class GenerationStats(NamedTuple):
    """So far."""

    prompt_tokens: int
    tokens: int  # new ones
    prefill_seconds: float
    decode_seconds: float
    routed_fraction: float
    kv_bytes: int


class Generation(Iterator[str]):
    """An iterator of pieces of text; Model.generate makes one. Nothing is computed before a piece is asked for, and no more than that
    piece needs, so leaving a loop early costs nothing more. close(), `with`, the end, an exception or forgetting the object give the
    memory back."""

    def __init__(self, model: Handle, prompt: bytes, options: CGenerateOptions):
        self._options = options  # the library borrows it
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.Lock()
        self._stats = CGenerateStats()
        self._handle = Handle("generation", library.fathom_generation_free, model)
        with model as m:
            call(library.fathom_generation_new, m, prompt, len(prompt), ctypes.byref(options), ctypes.byref(self._handle.pointer))

    def __next__(self) -> str:
        with self._lock:
            if self._handle.closed:
                raise StopIteration
            try:
                text, size = ctypes.c_void_p(), ctypes.c_size_t()
                with self._handle as g:
                    while True:
                        call(library.fathom_generation_next, g, ctypes.byref(text), ctypes.byref(size))
                        self._stats = library.fathom_generation_stats(g)
                        piece = self._decoder.decode(ctypes.string_at(text.value, size.value) if text.value else b"", not text.value)
                        if piece or not text.value:
                            break
            except BaseException:
                self.close()
                raise
            if not text.value:
                self.close()
                if not piece:
                    raise StopIteration
            return piece

    @property
    def stats(self) -> GenerationStats:
        """As of the last piece."""
        stats = self._stats
        return GenerationStats(*(getattr(stats, name) for name in GenerationStats._fields))

    def close(self) -> None:
        self._handle.close()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
