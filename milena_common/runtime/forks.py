"""Shell. Resets what must not outlive a fork: locks, sockets and threads of the parent, and gRPC.

gRPC does not survive a fork. Its core has threads, which a child does not have: a call there, on the parent's
channel or on a new one, hangs beyond its deadline, and with gRPC's own fork handlers children of busy parents die
of SIGSEGV. So those are disabled (`milena_common/__init__.py`), and a child of a process that has used gRPC never
calls it: it connects straight to the nodes, over its own sockets. Which nodes there are it has from its parent: the
newest ring of each router is kept for the clients of a child, also for those that are made there, as one is that
was pickled for a worker. A child of a process that had a client and never called it starts its own gRPC, as do
processes that are spawned, or forked by a fork server.

The hook that Python calls in a child cannot be unregistered. So there is one for the process, with weak references:
a client for each request must not leak one each. This, the use of gRPC and the rings are state of a process and not
of a client, and the only state that this package keeps outside of objects.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final, Protocol
from weakref import WeakSet

from milena_common.api.errors import FailedPrecondition

NO_GRPC = (
    "this process was forked from one that has used gRPC, which does not survive a fork, so the router cannot be "
    "called here: start workers with spawn or forkserver, or fork before the first call of any client"
)


NO_KNOWN_NODE = (
    "the owner of this key cannot be reached, and no node that was known when this process was forked "
    "names another owner"
)

# Routers whose newest ring is kept.
_MAX_RINGS: Final = 16


class Inherited(Protocol):
    """An object with resources that a forked process must not use."""

    def forked(self) -> None:
        """Reset the object in the child; other threads of the parent may have held any lock. Must not raise or
        block.
        """


class _Process:
    """The state of the process.

    - `grpc_since`: the id of the process that first used gRPC, 0 if none did.
    - `rings`: the newest ring of the last MAX_RINGS routers, by their addresses.
    """

    def __init__(self) -> None:
        self.inherited: WeakSet[Inherited] = WeakSet()
        self.rings: dict[str, object] = {}
        self.grpc_since = 0
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        for each in list(self.inherited):
            each.forked()


@cache
def _process() -> _Process:
    return _Process()


def survive_forks(inherited: Inherited) -> None:
    """Register `inherited.forked()` for processes forked from this one, for the lifetime of the object."""
    _process().inherited.add(inherited)


def use_grpc() -> None:
    """Record that this process uses gRPC. Raises FailedPrecondition where that would hang."""
    process = _process()
    if process.grpc_since not in (0, os.getpid()):
        raise FailedPrecondition(NO_GRPC)
    process.grpc_since = os.getpid()


def remember_ring(routers: str, ring: object | None) -> None:
    """Keep the newest ring of `routers`, for processes that are forked from this one; None: there is none."""
    rings = _process().rings
    # Without a lock, which another thread could hold at a fork: each of these steps is a single one.
    rings.pop(routers, None)
    if ring is not None:
        rings[routers] = ring
        for oldest in [*rings][:-_MAX_RINGS]:
            rings.pop(oldest, None)


def inherited_ring(routers: str) -> object | None:
    """Return the ring of `routers` that this process has from its parent, if it cannot use gRPC; else None."""
    process = _process()
    return None if process.grpc_since in (0, os.getpid()) else process.rings.get(routers)


def leak(thing: object) -> None:
    """Keep `thing` for ever: a child's garbage collection must not destroy the parent's gRPC objects."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
