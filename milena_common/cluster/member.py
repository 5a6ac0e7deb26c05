"""Pure. A node as a member of the ring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Names in `Member.addresses`: the RESP server, without and with TLS, gRPC with TLS, and the S3 endpoint, whose port
# may take connections of both kinds.
RESP, RESP_TLS, GRPC_TLS = "resp", "resp-tls", "grpc-tls"
S3_HTTP, S3_HTTPS = "s3", "s3-tls"


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the ring.

    - `address`: its gRPC host:port, its identity in the ring.
    - `node_id`: the id of its process, "" where unknown.
    - `weight`: its share of the slots relative to other members.
    - `addresses`: host:port of its other servers, by name.
    - `journal_id`: the id of its journal, "" where unknown.
    - `copies`: how many journals it wants an acknowledged write to be in; 0 if it makes and keeps no copies.
    - `zone`: where it runs, "" where unknown.
    """

    address: str
    node_id: str = ""
    weight: float = 1.0
    addresses: Mapping[str, str] = field(default_factory=dict)
    journal_id: str = ""
    copies: int = 0
    zone: str = ""
