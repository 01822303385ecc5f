"""A tokenizer by itself."""
from __future__ import annotations

import ctypes
import os

from ._handle import Handle
from ._library import call, library
from ._text import Ids, decode, encode, path_bytes


class Tokenizer:
    """A tokenizer.json. It never changes: threads may share it. Tokenizer.load makes one."""

    def __init__(self, handle: Handle):
        self._handle = handle

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """path: a tokenizer.json, or a folder that holds one. Raises NotFoundError, FormatError, UnsupportedError."""
        handle = Handle("tokenizer", library.fathom_tokenizer_free)
        call(library.fathom_tokenizer_load, path_bytes(path), ctypes.byref(handle.pointer))
        return cls(handle)

    @property
    def vocab(self) -> int:
        with self._handle as t:
            return library.fathom_tokenizer_vocab(t)

    def encode(self, text: str | bytes, *, special: bool = True) -> list[int]:
        """Token ids; special: with those that the file wants before and behind a text."""
        with self._handle as t:
            return encode(lambda data, size, *rest: library.fathom_tokenizer_encode(t, data, size, int(special), *rest), text).tolist()

    def decode(self, ids: Ids) -> str:
        """Their text; bytes that are not UTF-8 become U+FFFD."""
        vocab = self.vocab
        with self._handle as t:
            return decode(lambda *rest: library.fathom_tokenizer_text(t, *rest), ids, vocab).decode("utf-8", "replace")

    def close(self) -> None:
        """Gives the memory back; so does forgetting the object."""
        self._handle.close()

    def __enter__(self) -> Tokenizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
