"""Shell. Makes the router's S3 endpoint."""

from __future__ import annotations

from milena_common.limits.token_bucket import TokenBucket
from milena_common.network.addresses import Address
from milena_common.network.security import ServerSecurity
from milena_common.runtime.clock import Clock
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.http_server import S3Server
from milena_common.s3.settings import EndpointSettings
from milena_router.s3.endpoint import ForwardingEndpoint, Nodes
from milena_router.s3.node_http import HttpNodes


class S3Endpoint:
    """The endpoint. `server` is not listening yet; `client` has connections to nodes. `timeout`: as for nodes."""

    def __init__(
        self,
        settings: EndpointSettings,
        nodes: Nodes,
        limiter: TokenBucket,
        clock: Clock,
        timeout: float,
        security: ServerSecurity | None,
        *,
        plain_too: bool,
    ) -> None:
        self.counts = EndpointCounts()
        self.client = HttpNodes(clock)
        self._listen = settings.listen
        endpoint = ForwardingEndpoint(
            nodes, self.client, limiter, clock, domain=settings.domain, timeout=timeout, counts=self.counts
        )
        self.server = S3Server(endpoint, clock, security, plain_too=plain_too, counts=self.counts)

    def start(self) -> Address:
        """Listen, and return the address with the real port. Raises CannotListen."""
        return self.server.start(self._listen, "S3_LISTEN_ADDR")
