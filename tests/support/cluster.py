"""Shell. A router and its cache nodes as real processes, in front of an S3 that is given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.support.processes import READY_SECONDS, ROOT, Node, Router, Server
from tests.support.s3.moto_server import AWS_VARIABLES
from tests.support.waiting import wait_until


class Cluster:
    """`nodes` cache nodes and a router, for use in a with statement, which starts all of them at once.

    `router_env` and `node_env` add to what it sets itself: addresses and ports, the S3 of `endpoint_url` and
    `bucket`, and a router without rate limit. Logs are in `directory`. They run the code of the tree `build`.
    """

    def __init__(
        self,
        directory: Path,
        endpoint_url: str,
        bucket: str,
        nodes: int = 3,
        *,
        router_env: Mapping[str, str] | None = None,
        node_env: Mapping[str, str] | None = None,
        build: Path = ROOT,
    ) -> None:
        self.bucket = bucket
        self.nodes: list[Node] = []
        self._number = nodes
        self._directory = directory
        self._endpoint_url = endpoint_url
        self._router_env = dict(router_env or {})
        self._node_env = dict(node_env or {})
        self._build = build
        self._stack = ExitStack()

    @property
    def address(self) -> str:
        """Where clients connect: the router's ``host:port``."""
        return self.router.address

    def __enter__(self) -> Cluster:
        try:
            # The nodes are started with it, so that there is no ring before to wait for.
            variables = {"RATE_LIMIT": "0", "RING_RECOVERY_SECONDS": "0", **self._router_env}
            s3 = "S3_KEYS_FILE" in self._node_env or "S3_ANONYMOUS" in self._node_env
            self.router = Router(variables, self._directory, self._build, s3=s3)
            self._stack.callback(self.router.close)
            for _ in range(self._number):
                self.add_node(wait=False)
            for server in (self.router, *self.nodes):
                server.wait_ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_node(self, env: Mapping[str, str] | None = None, *, wait: bool = True) -> Node:
        """Start one more node, by default until it is ready; `env` adds to the environment of all nodes."""
        variables = {
            **AWS_VARIABLES,
            "ROUTER_ADDR": f"{'https' if self._node_env.get('TLS') == 'on' else 'http'}://{self.address}",
            "S3_ENDPOINT_URL": self._endpoint_url,
            "S3_BUCKET": self.bucket,
            **self._node_env,
            **(env or {}),
        }
        node = Node(f"cache{len(self.nodes) + 1}", variables, self._directory, self._build)
        self._stack.callback(node.close)
        self.nodes.append(node)
        if wait:
            node.wait_ready()
        return node

    def kill_node(self, node: Server) -> None:
        """SIGKILL: no leave, no reply to what is in flight."""
        node.kill()

    def wait_for_ring(self, size: int, timeout: float = READY_SECONDS) -> None:
        """Block until the router's ring has `size` nodes and no slot moves any more. Raises TimeoutError."""

        def complete() -> bool:
            metrics = self.router.metrics()
            return (
                metrics.value("milena_router_ring_nodes") == size
                and metrics.value("milena_router_ring_pending_slots") == 0
            )

        wait_until(f"the ring has {size} nodes, and no slot moves", complete, timeout)

    def tracebacks(self) -> list[str]:
        """What processes logged about defects; nothing that S3 or a client does should bring one about."""
        return [f"{s.name}: {line}" for s in (self.router, *self.nodes) for line in s.lines("Traceback")]

    def total(self, name: str, **labels: str) -> float:
        """A metric's sum over the nodes that run."""
        return sum(node.metrics().value(name, **labels) for node in self.nodes if node.running)
