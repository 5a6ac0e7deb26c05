"""Shell. What must not outlive a fork: locks, sockets and threads of the parent, and gRPC.

gRPC does not survive a fork. Its core has threads, which a child does not have: a call there, on the parent's
channel or on a new one, hangs beyond its deadline, and with gRPC's own fork handlers busy parents have children
that die of SIGSEGV. So those are switched off (`milena_common/__init__.py`), and a child of a process that has
used gRPC never calls it: it goes straight to the nodes, over sockets of its own. A child of a process that had
a client and never called it begins with its own gRPC, as do processes that are spawned, or forked by a fork
server.

The hook that Python calls in a child cannot be taken back. So there is one for the process, and it has weak
references: a client for each request must not leave one behind each. This, and whether gRPC is in use, are the
state of a process and not of a client, and the only state that this package keeps outside of objects.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Protocol
from weakref import WeakSet

from milena_common.api.errors import FailedPrecondition

NO_GRPC = (
    "this process was forked from one that has used gRPC, which does not survive a fork, so the router cannot be "
    "asked here: start workers with spawn or forkserver, or fork before the first call of any client"
)


class Inherited(Protocol):
    """An object that has something which a forked process must not use."""

    def forked(self) -> None:
        """Begin anew, in the child; other threads of the parent may have held any lock. Must not raise or block."""


class _Process:
    """`grpc_since`: the process that began to use gRPC, 0 if none did."""

    def __init__(self) -> None:
        self.inherited: WeakSet[Inherited] = WeakSet()
        self.grpc_since = 0
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        for each in list(self.inherited):
            each.forked()


@cache
def _process() -> _Process:
    return _Process()


def survive_forks(inherited: Inherited) -> None:
    """Have `inherited.forked()` called in processes that are forked from this one, while the object is there."""
    _process().inherited.add(inherited)


def use_grpc() -> None:
    """Note that this process uses gRPC from now on. Raises FailedPrecondition where that would hang."""
    process = _process()
    if process.grpc_since not in (0, os.getpid()):
        raise FailedPrecondition(NO_GRPC)
    process.grpc_since = os.getpid()


def leak(thing: object) -> None:
    """Keep `thing` for ever: what is the parent's in gRPC must not be ended by a child's garbage collection."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
