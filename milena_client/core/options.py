"""Pure. The options of a client beside its address, and how a client is pickled: by these, and nothing else.

Connections, threads and the ring belong to one process. A client that is pickled, for a worker of a process pool,
a DataLoader or Spark, arrives as a new one with the same options, and connects at its first call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from milena_client.core.near_cache import NearCache
from milena_client.core.retry import DEFAULT_RETRY, RetryPolicy
from milena_common.api.credentials import Credentials
from milena_common.tls.settings import TlsFiles


@dataclass(frozen=True, slots=True)
class Options:
    """The keyword arguments of a client, as its constructor documents them; `timeout` is in seconds.

    `replaced`: True if it was given a transport or clock that replace network and time.
    """

    bucket: str
    timeout: float
    retry: RetryPolicy = DEFAULT_RETRY
    direct: bool = True
    near_cache: NearCache | None = None
    note: str = ""
    replaced: bool = False
    tls: TlsFiles | None = None
    credentials: Credentials | None = field(default=None, kw_only=True)


def reduced(client: Any, address: str, options: Options, names: tuple[str, ...]) -> tuple[Callable[..., Any], Any]:
    """Return the value of `client.__reduce__`: its class, called with `address` and the options `names`.

    Raises TypeError for a client whose network or time are replaced: the replacements exist in one process only.
    """
    if options.replaced:
        raise TypeError(f"a {type(client).__name__} with a transport or clock of its own cannot be pickled")
    kind: Callable[..., Any] = type(client)
    return partial(kind, address, **{name: getattr(options, name) for name in names}), ()


CLIENT = ("bucket", "timeout", "retry", "direct", "near_cache", "note", "tls", "credentials")
ADMIN = ("bucket", "timeout", "retry", "tls", "credentials")
