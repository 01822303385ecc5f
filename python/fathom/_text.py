"""Text and ids on their way into the library."""
from __future__ import annotations

import ctypes
import os
from typing import Any, Callable, Sequence, Union

import numpy as np
from numpy.typing import NDArray

from ._library import ROUTINGS, call
from .errors import InvalidArgumentError

Ids = Union[Sequence[int], np.ndarray]


def ids_array(ids: Ids) -> NDArray[np.int32]:
    """int32 [n], contiguous; the very array where it is one already."""
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"ids: one dimension of integers is needed, not {array.ndim} of {array.dtype}")
    if array.dtype != np.int32:
        bounds = np.iinfo(np.int32)
        outside = (array < bounds.min) | (array > bounds.max)
        if outside.any():
            raise InvalidArgumentError(f"token {outside.argmax()}: id {array[outside.argmax()]} is no 32-bit number")
    return np.ascontiguousarray(array, np.int32)


def encode(function: Callable[..., int], text: str | bytes) -> NDArray[np.int32]:
    """function(text, bytes, ids, capacity, &count, &error): int32 [n]."""
    data = text.encode() if isinstance(text, str) else bytes(text)
    capacity, count = len(data) + 16, ctypes.c_size_t()
    while True:
        ids = np.empty(capacity, np.int32)
        try:
            call(function, data, len(data), ids.ctypes.data, capacity, ctypes.byref(count))
        except InvalidArgumentError:
            if count.value <= capacity:
                raise
            capacity = count.value
        else:
            return ids[:count.value]


def decode(function: Callable[..., Any], ids: Ids, vocab: int) -> bytes:
    """function(id, &bytes): the text of ids below vocab; what has no text, as padding of the embedding, adds none."""
    size, parts = ctypes.c_size_t(), []
    for i, token in enumerate(ids_array(ids).tolist()):
        if not 0 <= token < vocab:
            raise InvalidArgumentError(f"token {i}: id {token} is outside the vocabulary of {vocab}")
        text = function(token, ctypes.byref(size))
        parts.append(ctypes.string_at(text, size.value) if text else b"")
    return b"".join(parts)


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    data = os.fsencode(path)
    if b"\0" in data:
        raise InvalidArgumentError(f"{path!r}: a path has no NUL")
    return data


def integer(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidArgumentError(f"{name}: {value}: must be {least} to {most}")
    return int(value)


def routing_code(routing: str) -> int:
    if routing not in ROUTINGS:
        raise InvalidArgumentError(f"routing: {routing!r}: must be 'causal' or 'topk'")
    return ROUTINGS[routing]
