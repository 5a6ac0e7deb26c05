"""Pure. Reports failures on the command line: exit codes and one-line messages.

0    done
1    failed
2    wrong usage: an option, the URL, or a key that can never exist
3    the cluster cannot be reached, or cannot serve just now: try again later
4    there is no such key or node
130  interrupted by Ctrl-C
141  the reader of the output went away
"""

from __future__ import annotations

from collections.abc import Iterable

from milena_common.api.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    KeyNotFound,
    MilenaError,
    Unavailable,
)

FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4
INTERRUPTED = 130
BROKEN_PIPE = 141


def exit_code(error: Exception) -> int:
    """Return the exit code for a command that ended with `error`."""
    if isinstance(error, KeyNotFound):
        return NOT_FOUND
    if isinstance(error, Unavailable | DeadlineExceeded):
        return UNREACHABLE
    if isinstance(error, ConfigError | InvalidRequest):
        return USAGE
    return FAILED


def common_exit_code(errors: Iterable[Exception]) -> int:
    """Return the exit code for a command of many keys: 0 without errors, their code if they agree, 1 otherwise."""
    codes = {exit_code(error) for error in errors}
    return codes.pop() if len(codes) == 1 else FAILED if codes else 0


def printable(text: str) -> str:
    """Return `text` on one line, and without characters that a terminal would act on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def reason(error: Exception) -> str:
    """Return what went wrong, without Python's decoration around errors of the system."""
    if isinstance(error, OSError) and not isinstance(error, MilenaError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
