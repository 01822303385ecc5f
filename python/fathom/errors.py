"""Exceptions: fathom.Error for every status, of a built-in kind too where Python has one that fits."""
from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """The library's statuses, FATHOM_STATUS_LIST in fathom.h."""

    OK = 0
    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    IO = 3
    FORMAT = 4
    OUT_OF_MEMORY = 5
    UNSUPPORTED = 6
    INTERRUPTED = 7
    DIVERGED = 8


class Error(Exception):
    """A call failed. Its text is the library's message, which names the file, the field and the value; `code` is the status."""

    code: Status


class InvalidArgumentError(Error, ValueError):
    code = Status.INVALID_ARGUMENT


class NotFoundError(Error, FileNotFoundError):
    code = Status.NOT_FOUND


class InputOutputError(Error, OSError):
    code = Status.IO


class FormatError(Error, ValueError):
    code = Status.FORMAT


class OutOfMemoryError(Error, MemoryError):
    code = Status.OUT_OF_MEMORY


class UnsupportedError(Error, NotImplementedError):
    code = Status.UNSUPPORTED


_KINDS: dict[int, type[Error]] = {kind.code: kind for kind in (InvalidArgumentError, NotFoundError, InputOutputError, FormatError,
                                                               OutOfMemoryError, UnsupportedError)}


def error_of(code: int, message: str) -> Error:
    error = _KINDS.get(code, Error)(message)
    error.code = Status(code)
    return error
