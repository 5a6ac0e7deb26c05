"""Shell. Commands about the state of the nodes: `stats`, `health`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from milena_client.admin import Node, NodeStats, problems
from milena_client.cli.terminal.failures import FAILED, printable
from milena_client.cli.terminal.output import (
    Column,
    Row,
    show_bytes,
    show_count,
    show_percent,
    show_seconds,
    write_json,
    write_rows,
)
from milena_client.cli.terminal.session import Session, cluster_options

# Counts that add up over the nodes.
SUMMED = (
    "hits",
    "misses",
    "hit_bytes",
    "miss_bytes",
    "requests",
    "errors",
    "entries",
    "bytes",
    "capacity_entries",
    "capacity_bytes",
    "evictions",
    "s3_requests",
    "s3_gets",
)

STATS = (
    Column("address", "NODE"),
    Column("hits", "HITS", show_count, True),
    Column("misses", "MISSES", show_count, True),
    Column("hit_ratio", "RATIO", show_percent, True),
    Column("entries", "ENTRIES", show_count, True),
    Column("bytes", "MEMORY", show_bytes, True),
    Column("capacity_bytes", "OF", show_bytes, True),
    Column("evictions", "EVICTED", show_count, True),
    Column("errors", "ERRORS", show_count, True),
    Column("s3_requests", "S3 REQ", show_count, True),
    Column("uptime_seconds", "UP", show_seconds, True),
    Column("state", "STATE"),
)


def hit_ratio(hits: float, misses: float) -> float | None:
    """Return the share of hits; None without requests."""
    return hits / (hits + misses) if hits + misses else None


def state_of(node: NodeStats) -> str:
    """Return the state of a node as text: why it does not respond, is not ready or is degraded; else "ready"."""
    degraded = f"degraded: {'; '.join(node.degraded)}" if node.degraded else ""
    return node.error or node.not_ready or degraded or "ready"


def stats_rows(nodes: Sequence[NodeStats]) -> list[Row]:
    """Return a row for each node: its counts, hit ratio and state."""
    return [
        {
            "address": node.address,
            **{name: node.values.get(name, 0.0) for name in (*SUMMED, "uptime_seconds")},
            "hit_ratio": hit_ratio(node.values.get("hits", 0.0), node.values.get("misses", 0.0)),
            "state": state_of(node),
        }
        for node in nodes
    ]


def total_row(nodes: Sequence[NodeStats]) -> Row:
    """Return the sums over `nodes`, as a row below theirs."""
    sums = {name: sum(node.values.get(name, 0.0) for node in nodes) for name in SUMMED}
    longest = max((node.values.get("uptime_seconds", 0.0) for node in nodes), default=0.0)
    ratio = hit_ratio(sums["hits"], sums["misses"])
    return {"address": "all", **sums, "hit_ratio": ratio, "uptime_seconds": longest, "state": ""}


def without_resp(nodes: Sequence[Node]) -> list[str]:
    """Return a line for each node without the Redis protocol, where others have it: it is reached by gRPC alone."""
    without = [node.address for node in nodes if not node.addresses.get("resp")]
    if len(without) == len(nodes):
        return []
    return [
        f"node {address}: it does not speak the Redis protocol, and others do (RESP_ADDR)" for address in without
    ]


@click.command()
@cluster_options
@click.pass_obj
def stats(session: Session) -> None:
    """Show what every node has counted since its start."""
    with session.admin() as admin:
        nodes = admin.stats()
    rows = stats_rows(nodes)
    if session.format == "json":
        write_json({"nodes": rows, "total": total_row(nodes)})
    elif session.format == "table":
        write_rows("table", STATS, [*rows, total_row(nodes)])
    else:
        write_rows("raw", STATS, rows)


@click.command()
@cluster_options
@click.pass_obj
@click.pass_context
def health(ctx: click.Context, session: Session) -> None:
    """Report the health of the cluster: exit code 0 if it is healthy, 1 if not, 3 without a router.

    It is healthy if every node is ready and none is degraded or missing. A node is degraded if it serves requests
    and needs an operator: S3 does not respond, writes wait for too long, S3 has rejected some permanently (dead
    letters). It is missing if it left the ring with dirty writes, until it is back or written off by `milena leave
    ADDRESS --forget`.
    """
    with session.admin() as admin:
        nodes, view = admin.stats(), admin.nodes()
    now = time.time()
    missing = [node.described(now) for node in view.missing]
    found = problems(nodes, view.nodes) + missing + without_resp(view.nodes)
    if session.format == "json":
        write_json({"healthy": not found, "nodes": len(nodes), "problems": found})
    else:
        for line in found or [f"healthy: {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'} ready"]:
            click.echo(printable(line))
    if found:
        ctx.exit(FAILED)
