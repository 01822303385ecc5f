"""One sequence, token by token."""
from __future__ import annotations

import ctypes
import threading

import numpy as np
from numpy.typing import NDArray

from ._handle import Handle
from ._library import call, library
from ._text import Ids, ids_array, integer
from .errors import InvalidArgumentError


class Session:
    """A key/value cache and a position; Model.session makes one. Threads may share it: a call waits for the one before it."""

    def __init__(self, model: Handle, vocab: int, max_tokens: int, budget: float):
        self._vocab = vocab
        self._lock = threading.Lock()
        self._handle = Handle("session", library.fathom_session_free, model)
        with model as m:
            call(library.fathom_session_new, m, integer("max_tokens", max_tokens, 0, 2**63 - 1), ctypes.byref(self._handle.pointer))
        self.set_budget(budget)

    def append(self, ids: Ids) -> None:
        """Appends tokens, causally routed; an int32 array is read where it is. n at once or one by one: the same logits."""
        array = ids_array(ids)
        with self._lock, self._handle as s:
            call(library.fathom_session_append, s, array.ctypes.data, array.size)

    def logits(self) -> NDArray[np.float32]:
        """float32 [V] after the last token; InvalidArgumentError before any.

        Borrowed: a read-only view of the session's own memory, which the next append() overwrites; copy() to keep it. The memory
        itself stays as long as the array does, also after close().
        """
        with self._lock, self._handle as s:
            address = library.fathom_session_logits(s)
            if not address:
                raise InvalidArgumentError("logits: no token was appended yet")
            return self._handle.view(address, ctypes.c_float, self._vocab)

    def reset(self) -> None:
        """Forgets the sequence, keeps the memory and the budget."""
        with self._lock, self._handle as s:
            library.fathom_session_reset(s)

    def set_budget(self, budget: float) -> None:
        """Routed blocks take this mean share of the tokens from now on, where `fathom calibrate` has prepared the model; 0: the model's
        own rule."""
        with self._lock, self._handle as s:
            call(library.fathom_session_set_budget, s, budget)

    @property
    def length(self) -> int:
        with self._lock, self._handle as s:
            return library.fathom_session_length(s)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values held: routed layers hold routed tokens only, unless their keys are every token's."""
        with self._lock, self._handle as s:
            return library.fathom_session_kv_bytes(s)

    @property
    def routed_fraction(self) -> float:
        """Share of (token, router) pairs so far that were routed; 1 where no token passes anything by."""
        with self._lock, self._handle as s:
            return library.fathom_session_routed_fraction(s)

    def close(self) -> None:
        """Gives the memory back; so does forgetting the object."""
        self._handle.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
