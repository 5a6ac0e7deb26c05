"""Shell. The command `size`: what more memory, or less, would mean for hits, requests to S3 and money."""

from __future__ import annotations

from dataclasses import asdict

import click

from milena_client.admin import NodeSizes, together
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

_MONTH_DAYS = 30


def _show_scale(scale: float) -> str:
    return f"{scale:g} x" + (" (now)" if scale == 1 else "")


_SIZES = (
    Column("scale", "MEMORY", _show_scale, True),
    Column("max_bytes", "LRU_BYTES", show_bytes, True),
    Column("max_entries", "LRU_SIZE", show_count, True),
    Column("hit_ratio", "HITS", show_percent, True),
    Column("gets", "GETS A DAY", show_count, True),
    Column("puts", "PUTS A DAY", show_count, True),
    Column("read_bytes", "READ A DAY", show_bytes, True),
    Column("cost_month", "COST A MONTH", lambda cost: f"{cost:,.2f}", True),
    Column("sample", "SAMPLE", show_percent, True),
)


def rows_of(sizes: NodeSizes) -> list[Row]:
    """Return a row for each size."""
    return [{**asdict(each), "cost_month": each.cost * _MONTH_DAYS} for each in sizes.estimates]


@click.command()
@click.option("--node", metavar="ADDRESS", help="Only this node; all of them together by default.")
@cluster_options
@click.pass_obj
@click.pass_context
def size(ctx: click.Context, session: Session, node: str | None) -> None:
    """Estimate hits, requests to S3 and money if each node had a quarter of its memory, up to eight times as much.

    Every node simulates these sizes for a sample of the keys that it serves, for up to a day. The sizes are of all
    nodes together. Prices are those of S3_PRICE_GET, S3_PRICE_PUT and S3_PRICE_GB at the nodes. Exit code 1 if a
    node does not respond; the others are shown.
    """
    with session.admin() as admin:
        nodes = admin.memory_sizes()
    if node is not None:
        nodes = [each for each in nodes if each.address == node]
        if not nodes:
            raise click.UsageError(f"no node has the address {node}: milena nodes")
    total = together(nodes)
    rows = rows_of(total)
    if session.format == "json":
        counted = {"seconds": total.seconds, "reads": total.reads, "hit_ratio": total.hit_ratio}
        listed = [{**asdict(each), "estimates": rows_of(each)} for each in nodes]
        write_json({**counted, "sizes": rows, "nodes": listed})
    else:
        write_rows(session.format, _SIZES, rows)
        if session.format == "table":
            counted_hits = f"{show_percent(total.hit_ratio)} of {show_count(total.reads)} reads a second were hits"
            click.echo(f"counted in the last {show_seconds(total.seconds)}: {counted_hits}")
    failed = [each for each in nodes if each.error]
    for each in failed:
        click.echo(f"milena: node {printable(each.address)}: {printable(each.error)}", err=True)
    if failed:
        ctx.exit(FAILED)
