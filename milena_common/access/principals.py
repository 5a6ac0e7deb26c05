"""Pure. The principals: in whose name requests are made, and what is checked for each of them.

A connection has a principal from its start: the default user if that needs no password, else ANONYMOUS, which may
do nothing but log in. The cluster's own processes have one of their own, which is no user.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal

from milena_common.access.rules import User

How = Literal["none", "password", "token", "certificate", "router", "signature"]

DEFAULT: Final = "default"
# The name of the cluster's own processes in lists and logs; no user has it, because of the parentheses.
CLUSTER_NAME: Final = "(cluster)"


@dataclass(frozen=True, slots=True)
class Principal:
    """In whose name requests are made.

    name: of the user
    guard: the user whose rules are checked; None: everything is allowed, and nothing is limited
    how: by what it was authenticated; "router": a process of the cluster says so, for one request
    credential: the SHA-256 of the password that was given, "" if none was necessary
    is_cluster: True for nodes and routers
    """

    name: str
    guard: User | None = None
    how: How = "none"
    credential: str = ""
    is_cluster: bool = False

    @property
    def authenticated(self) -> bool:
        """False if it may do nothing but log in."""
        return self.guard is None or self.guard.enabled

    @property
    def plain(self) -> bool:
        """True if it may read and write any object with GET and SET, without a limit."""
        guard = self.guard
        return guard is None or (
            not guard.rate
            and not guard.bytes_rate
            and guard.unrestricted_for("get")
            and guard.unrestricted_for("set")
        )


# The default user where there is no file of users, and no identity of the cluster.
EVERYONE: Final = Principal(DEFAULT)
# Shown as the default user, as in Redis.
ANONYMOUS: Final = Principal(DEFAULT, User(DEFAULT))
CLUSTER: Final = Principal(CLUSTER_NAME, how="token", is_cluster=True)

# The user in whose name the present task makes its requests to nodes, "" for the cluster itself. It is a variable
# of the context, and no argument, because nothing between the router's server and its connections to nodes looks at
# it.
END_USER: Final[ContextVar[str]] = ContextVar("end_user", default="")
