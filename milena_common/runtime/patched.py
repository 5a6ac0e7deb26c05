"""Pure. Refuses to work where gevent or eventlet have replaced Python's sockets or threads.

The core of gRPC waits in C, where no greenlet can be switched: one call stops the whole process, and the stream
on which a client follows the ring is one call without an end. The client's own sockets rely on time limits and
flags of the system (SO_RCVTIMEO, MSG_DONTWAIT) that sockets which only seem to block do not heed. Two readers
were enough to hang for ever, so it is said at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from milena_common.api.errors import FailedPrecondition

# Library, the module that knows what is patched, its function that tells, and its names of what matters here.
_LIBRARIES = (
    ("gevent", "gevent.monkey", "is_module_patched", ("socket", "threading", "thread", "select")),
    ("eventlet", "eventlet.patcher", "is_monkey_patched", ("socket", "thread", "select")),
)


def reject_patched(modules: Mapping[str, ModuleType]) -> None:
    """Raise FailedPrecondition if one of `modules`, those that are loaded, has patched sockets or threads."""
    for library, name, function, kinds in _LIBRARIES:
        patcher = modules.get(name)
        is_patched = getattr(patcher, function, None)
        if is_patched is not None and any(is_patched(kind) for kind in kinds):
            raise FailedPrecondition(
                f"{library} has replaced Python's sockets or threads in this process (monkey patching), and gRPC, "
                "on which this client depends, would stop all greenlets: use Milena in a process without it, or "
                f"read from the nodes with a Redis Cluster client that works with {library}, such as redis-py's"
            )
