"""Pure. Milena's errors as those of files, which libraries handle.

FileNotFoundError means that there is no such object, and nothing else: zarr takes it for a chunk that was never
written and returns zeros, and others for a file that may be created. Whatever else fails is another OSError, or a
ValueError if it is wrong in the request.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from milena_common.api.errors import (
    AccessDenied,
    ConditionFailed,
    KeyNotFound,
    MilenaError,
    Overloaded,
    RateLimited,
)


def not_found(path: str) -> FileNotFoundError:
    """Return the error for a path without an object."""
    return FileNotFoundError(errno.ENOENT, "No such file or directory", path)


def exists(path: str) -> FileExistsError:
    """Return the error for a path that has an object already."""
    return FileExistsError(errno.EEXIST, "File exists", path)


def file_error(error: MilenaError, path: str) -> Exception:
    """Return what `error` of an operation on `path` means for a file; itself if it is a builtin error already."""
    if isinstance(error, KeyNotFound):
        return not_found(path)
    if isinstance(error, AccessDenied) and str(error).startswith("bucket:"):
        return ValueError(f"{path}: {error}")
    if isinstance(error, OSError | ValueError):
        return error
    if isinstance(error, ConditionFailed):
        return OSError(errno.ESTALE, f"the object was replaced or deleted since it was opened ({error})", path)
    if isinstance(error, RateLimited | Overloaded):
        return OSError(errno.EBUSY, str(error), path)
    return OSError(errno.EIO, str(error), path)


@contextmanager
def file_errors(path: str) -> Iterator[None]:
    """Raise the errors of the block as `file_error` returns them."""
    try:
        yield
    except MilenaError as error:
        raised = file_error(error, path)
        if raised is error:
            raise
        raise raised from error


@contextmanager
def created(path: str) -> Iterator[None]:
    """Raise FileExistsError for the condition of the block, which is that there is no object."""
    try:
        yield
    except OSError as error:
        if isinstance(error.__cause__, ConditionFailed):
            raise exists(path) from None
        raise
