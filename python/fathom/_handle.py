"""Handles of the library and who uses them.

The invariant: a handle is freed once, when it is closed and no call, no child and no array uses it any longer; so closing one in the
middle of another thread's call, or under an array, is safe.
"""
from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any, Callable

import numpy as np

from .errors import InvalidArgumentError


class Handle:
    """`with handle as pointer:` around every use. pointer is filled by the call that makes the object; parent outlives it."""

    def __init__(self, kind: str, free: Callable[[ctypes.c_void_p], Any], parent: Handle | None = None):
        self._kind, self._free, self._parent = kind, free, None
        self._lock = threading.RLock()  # a finaliser may run inside any statement
        self._uses, self.closed = 1, False
        self.pointer = ctypes.c_void_p()
        if parent:
            parent.__enter__()
            self._parent = parent

    def __enter__(self) -> ctypes.c_void_p:
        with self._lock:
            if self.closed:
                raise InvalidArgumentError(f"the {self._kind} is closed")
            self._uses += 1
        return self.pointer

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._uses -= 1
            last = self._uses == 0
        if last:
            self._free(self.pointer)
            if self._parent:
                self._parent.__exit__()

    def close(self) -> None:
        with self._lock:
            first, self.closed = not self.closed, True
        if first:
            self.__exit__()

    def __del__(self) -> None:
        self.close()

    def view(self, address: int | None, kind: Any, count: int) -> np.ndarray:
        """A read-only array [count] on the library's memory, which stays as long as any array made from it."""
        if count == 0:
            return np.empty(0, kind)
        memory = (kind * count).from_address(address)
        self.__enter__()
        weakref.finalize(memory, self.__exit__).atexit = False
        array = np.frombuffer(memory, kind)
        array.flags.writeable = False
        return array
