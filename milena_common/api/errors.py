"""Pure. Every error that Milena raises or answers with, in one tree.

    MilenaError
    ├── InvalidRequest      ValueError        INVALID_ARGUMENT      ERR
    ├── ConfigError         ValueError        (exit 2)              CONFIG
    ├── AccessDenied        PermissionError   PERMISSION_DENIED     NOPERM
    ├── RateLimited                           RESOURCE_EXHAUSTED    RATELIMIT
    ├── Overloaded                            RESOURCE_EXHAUSTED    BUSY
    ├── FailedPrecondition                    FAILED_PRECONDITION   PRECONDITION
    │   └── ConditionFailed                                         CONDITION
    ├── KeyNotFound         KeyError          (never on the wire)   NOTFOUND
    ├── Unavailable         ConnectionError   UNAVAILABLE           UNAVAILABLE
    │   ├── NoNodes                                                 CLUSTERDOWN
    │   ├── NodeLost                                                NODELOST
    │   │   └── NodeUnreachable                                     NODEUNREACHABLE
    │   ├── WrongNode                                               WRONGNODE
    │   ├── Moved                                                   MOVED
    │   └── OriginUnavailable                                       ORIGINDOWN
    ├── DeadlineExceeded    TimeoutError      DEADLINE_EXCEEDED     TIMEOUT
    ├── InternalError                         INTERNAL              INTERNAL
    └── BatchError                            (of the *_many calls) BATCH

The last column is the error's code word: stable, one for each class, sent beside the status so that the
receiver raises the same class that the sender did. Where a builtin fits, an error is one, so that
``except TimeoutError`` works for people who have never heard of Milena.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class MilenaError(Exception):
    """Root of the tree.

    Every error can be pickled and copied, also one whose constructor takes other arguments than `args`: process
    pools send errors to their parent that way, and a pool whose result cannot be read hangs or breaks.
    """

    code: ClassVar[str] = "ERROR"

    def __str__(self) -> str:
        # KeyError would print the repr of its argument.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default a copy is made by calling the class with `args`, which are not what every constructor takes.
        return _restored, (type(self), self.args), self.__dict__ or None


def _restored(kind: type[MilenaError], args: tuple[Any, ...]) -> MilenaError:
    """Return an error of `kind` without calling its constructor; pickle sets its attributes afterwards."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class InvalidRequest(MilenaError, ValueError):
    """The request can never work as it is: a field is outside what is allowed."""

    code = "ERR"


class ConfigError(MilenaError, ValueError):
    """The environment does not describe a process that could run, or a URL no cluster.

    `problems` has one line for each variable, or part of the URL, that is wrong.
    """

    code = "CONFIG"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class AccessDenied(MilenaError, PermissionError):
    """The bucket is not one that the nodes serve, or S3 denies Milena the access to it."""

    code = "NOPERM"


class RateLimited(MilenaError):
    """More requests than `RATE_LIMIT` allows; nothing was done.

    `retry_after` is after how many seconds to try again.
    """

    code = "RATELIMIT"

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(MilenaError):
    """The process has as many requests or bytes in flight as it accepts; nothing was done.

    `retry_after` is after how many seconds to try again.
    """

    code = "BUSY"

    def __init__(self, message: str, retry_after: float = 0.1) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after


class FailedPrecondition(MilenaError):
    """The state of the system, or of a client that is closed, does not allow it; repeating it does not help."""

    code = "PRECONDITION"


class ConditionFailed(FailedPrecondition):
    """The object is not what `if_match` or `if_none_match` asked for; nothing was written."""

    code = "CONDITION"


class KeyNotFound(MilenaError, KeyError):
    """There is no such object; raised by `cache[key]` alone."""

    code = "NOTFOUND"


class Unavailable(MilenaError, ConnectionError):
    """Cannot be served just now; a read may be tried again. Of a write it is not known whether it happened."""

    code = "UNAVAILABLE"


class NoNodes(Unavailable):
    """The ring has no node, or is not known yet; nothing was done.

    `retry_after` is after how many seconds to try again; 0 if that is not known.
    """

    code = "CLUSTERDOWN"

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NodeLost(Unavailable):
    """The node that owns the key cannot be reached, or does not answer."""

    code = "NODELOST"


class NodeUnreachable(NodeLost):
    """No connection can be made to the node that owns the key; nothing was sent to it, so nothing was done."""

    code = "NODEUNREACHABLE"


class WrongNode(Unavailable):
    """Another node, cluster or bucket than the caller wants is at the address; nothing was done."""

    code = "WRONGNODE"


class Moved(Unavailable):
    """The node that was asked does not own the key's slot; nothing was done.

    `slot` is the slot, and `address` where its owner speaks the Redis protocol, as host:port.
    """

    code = "MOVED"

    def __init__(self, slot: int, address: str) -> None:
        super().__init__(f"slot {slot} is owned by the node at {address}")
        self.slot = slot
        self.address = address


class OriginUnavailable(Unavailable):
    """S3 does not answer, or answers with errors, and there is no copy to serve."""

    code = "ORIGINDOWN"


class DeadlineExceeded(MilenaError, TimeoutError):
    """Not finished within the `timeout`; a write may or may not have happened."""

    code = "TIMEOUT"


class InternalError(MilenaError):
    """A defect of Milena; its log has the traceback."""

    code = "INTERNAL"


class BatchError(MilenaError):
    """Some keys of a ``*_many`` call failed; the others were done.

    `errors` maps each key that failed, as it was given, to its error; `results` each of the others to its value or
    what else the call returns, None for a key that does not exist.
    """

    code = "BATCH"

    def __init__(self, errors: Mapping[Any, MilenaError], results: Mapping[Any, Any]) -> None:
        key, first = next(iter(errors.items()))
        super().__init__(f"{len(errors)} keys failed; the first, {key!r}: {first}")
        self.errors = dict(errors)
        self.results = dict(results)
