"""Pure. Errors of the client for etcd."""

from __future__ import annotations

from milena_common.api.errors import Unavailable


class EtcdError(Unavailable):
    """etcd did not carry the request out, or did not confirm it.

    `maybe_done`: True if it may have been carried out, or still will be.
    """

    def __init__(self, message: str, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class Compacted(EtcdError):
    """What was to be watched does not exist any more: read the keys, and watch from then on.

    `revision` is the first one that can be watched.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(f"etcd has compacted the revisions before {revision}")
        self.revision = revision
