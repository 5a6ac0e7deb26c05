"""Pure. What other sizes of memory would mean: the estimates of the nodes, and all of them put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from milena_client.core.operations import Operation
from milena_common.api.methods import SIZE
from milena_common.api.pb import router_server_pb2 as pb


@dataclass(frozen=True, slots=True)
class SizeEstimate:
    """What a memory of `scale` times the present one would mean.

    - `scale`: 1 is the present size.
    - `max_entries`, `max_bytes`: that size; of all nodes together, where several are put together.
    - `hit_ratio`: reads that do not wait for S3, in parts of all.
    - `gets`, `puts`: requests to S3 a day that cost as much as a GET, and as a PUT.
    - `read_bytes`: bytes read from S3 a day.
    - `cost`: of these, a day, by the prices that the nodes are configured with.
    - `sample`: the share of the keys that was simulated; of several nodes the least.
    """

    scale: float
    max_entries: float
    max_bytes: float
    hit_ratio: float
    gets: float
    puts: float
    read_bytes: float
    cost: float
    sample: float


@dataclass(frozen=True, slots=True)
class NodeSizes:
    """The estimates of one node, or of several.

    - `address`: the node.
    - `error`: why the router got no reply from it; "" if it did.
    - `seconds`: of which time until now the estimates are; of several nodes the shortest.
    - `reads`: reads a second in it.
    - `hit_ratio`: what was counted in it, not an estimate.
    - `estimates`: by growing scale; empty with an `error`.
    """

    address: str
    error: str
    seconds: float
    reads: float
    hit_ratio: float
    estimates: tuple[SizeEstimate, ...]


def read_sizes() -> Operation[list[NodeSizes]]:
    """Return the operation that reads the estimates of all nodes."""
    return Operation(SIZE.name, pb.SizeRequest(), _read_sizes, SIZE.repeatable, "size")


def together(nodes: Iterable[NodeSizes]) -> NodeSizes:
    """Return the estimates of all `nodes` that have any as those of one: if each had `scale` times its memory."""
    known = [node for node in nodes if node.estimates]
    reads = sum(node.reads for node in known)

    def ratio(ratios: Iterable[float]) -> float:
        """Return the mean of a ratio of each node, by its reads."""
        return sum(one * node.reads for one, node in zip(ratios, known, strict=True)) / reads if reads else 1.0

    return NodeSizes(
        "all",
        "",
        min((node.seconds for node in known), default=0.0),
        reads,
        ratio(node.hit_ratio for node in known),
        tuple(
            SizeEstimate(
                same[0].scale,
                sum(each.max_entries for each in same),
                sum(each.max_bytes for each in same),
                ratio(each.hit_ratio for each in same),
                sum(each.gets for each in same),
                sum(each.puts for each in same),
                sum(each.read_bytes for each in same),
                sum(each.cost for each in same),
                min(each.sample for each in same),
            )
            for same in zip(*(node.estimates for node in known), strict=False)
        ),
    )


def _read_sizes(response: pb.SizeResponse) -> list[NodeSizes]:
    return [
        NodeSizes(
            node.address,
            node.error,
            node.seconds,
            node.reads / node.seconds if node.seconds else 0.0,
            node.hit_ratio,
            tuple(
                SizeEstimate(
                    each.scale,
                    each.max_entries,
                    each.max_bytes,
                    each.hit_ratio,
                    each.gets,
                    each.puts,
                    each.read_bytes,
                    each.cost,
                    each.sample,
                )
                for each in node.points
            ),
        )
        for node in response.nodes
    ]
