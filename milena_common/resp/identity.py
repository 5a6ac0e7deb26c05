"""Pure. The identity that a caller expects of a node: Milena's own connections send it first.

An address may be taken over by another process: a restarted node, a node of another cluster, a Redis server. The
caller names the node that it expects, and another node rejects the connection, before a key or a value was sent.
Clients that are not Milena's send no identity, and are served.
"""

from __future__ import annotations

from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from milena_common.api.errors import WrongNode
from milena_common.resp.encoding import command

# The gRPC metadata that carries it, and the command of the Redis protocol.
METADATA = "milena-identity"
COMMAND = b"MILENA.HELLO"


class Identity(NamedTuple):
    """Cluster id, default bucket and process id of a node. "" is unknown to the caller, and not compared."""

    cluster_id: str = ""
    bucket: str = ""
    node_id: str = ""

    def check(self, meant: Identity) -> None:
        """Raise WrongNode, naming the difference, if this node must not serve a caller that expects `meant`."""
        for name, mine, theirs in zip(("cluster", "bucket", "node"), self, meant, strict=True):
            if theirs and mine and theirs != mine:
                raise WrongNode(
                    f"the connection is for {name} {theirs[:100]!r}, and at this address is {name} {mine!r}; "
                    "nothing was done"
                )

    def command(self) -> bytes:
        """Return the command that begins a connection in the Redis protocol."""
        return command(COMMAND, *(text.encode() for text in self))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a gRPC call."""
        return ((METADATA, " ".join(quote(text, safe="") for text in self)),)

    @classmethod
    def from_metadata(cls, text: str) -> Self:
        """Parse what `metadata` wrote; missing parts are ""."""
        parts = [unquote(part) for part in text.split(" ")[:3]]
        return cls(*parts)


# For callers that have only an address.
ANY = Identity()
