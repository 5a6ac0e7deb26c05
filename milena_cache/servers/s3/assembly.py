"""Shell. Makes the S3 endpoint of a node, which needs the process's other parts."""

from __future__ import annotations

from milena_cache.configuration.config import Config
from milena_cache.servers.s3.cluster_objects import ClusterObjects
from milena_common.access.access import Access
from milena_common.access.api_guard import ApiGuard
from milena_common.limits.byte_budget import ByteBudget
from milena_common.network.security import ServerSecurity
from milena_common.runtime.clock import Clock
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.endpoint import Endpoint
from milena_common.s3.http_server import S3Server
from milena_common.s3.settings import EndpointSettings
from milena_common.s3.signing.keys_file import KeysFile
from milena_common.s3.signing.signatures import Verifier


class S3Endpoint:
    """The endpoint of a node. `server` is not listening yet; `keys` are to be watched."""

    def __init__(
        self,
        config: Config,
        settings: EndpointSettings,
        objects: ClusterObjects,
        access: Access,
        budget: ByteBudget,
        counts: EndpointCounts,
        clock: Clock,
        security: ServerSecurity | None,
    ) -> None:
        """Read the access keys. Raises ConfigError."""
        self.keys = KeysFile(settings.keys_file)
        bucket = config.buckets.default
        endpoint = Endpoint(
            objects,
            access,
            ApiGuard(access, lambda: bucket, clock.now),
            Verifier(lambda: self.keys.keys, settings.domain),
            budget,
            anonymous=settings.anonymous,
            domain=settings.domain,
            region=config.s3.region,
            timeout=config.request_timeout,
            max_value_bytes=config.max_value_bytes,
            counts=counts,
        )
        self.server = S3Server(endpoint, clock, security, plain_too=config.tls.mode != "on", counts=counts)
