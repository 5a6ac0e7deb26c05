"""Pure. Which node of which cluster a connection is for: what Milena's own links say before anything else.

An address may belong to another process a moment later: a restarted node, a node of another cluster, a Redis. The
caller names what it means to reach, and the node refuses the connection if it is something else, before a key or a
value was sent. Clients that are not Milena's say nothing, and are served.
"""

from __future__ import annotations

from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from milena_common.api.errors import WrongNode
from milena_common.resp.encoding import command

# The metadata of a gRPC call that says it, and the command of the Redis protocol.
METADATA = "milena-identity"
COMMAND = b"MILENA.HELLO"


class Identity(NamedTuple):
    """Cluster id, default bucket and the id of the process. "" is not known to the caller, and not compared."""

    cluster_id: str = ""
    bucket: str = ""
    node_id: str = ""

    def check(self, meant: Identity) -> None:
        """Raises WrongNode, naming what differs, if a caller that means `meant` must not be served by this one."""
        for name, mine, theirs in zip(("cluster", "bucket", "node"), self, meant, strict=True):
            if theirs and mine and theirs != mine:
                raise WrongNode(
                    f"the connection is for {name} {theirs[:100]!r}, and at this address is {name} {mine!r}; "
                    "nothing was done"
                )

    def command(self) -> bytes:
        """The command that begins a connection in the Redis protocol."""
        return command(COMMAND, *(text.encode() for text in self))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a gRPC call."""
        return ((METADATA, " ".join(quote(text, safe="") for text in self)),)

    @classmethod
    def from_metadata(cls, text: str) -> Self:
        """Read what `metadata` wrote; what is missing is ""."""
        parts = [unquote(part) for part in text.split(" ")[:3]]
        return cls(*parts)


# For callers that know nothing but an address.
ANY = Identity()
