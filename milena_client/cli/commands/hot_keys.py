"""Shell. The command `hotkeys`: the keys that are read most, in all nodes."""

from __future__ import annotations

from dataclasses import asdict

import click

from milena_client.cli.terminal.failures import FAILED, printable
from milena_client.cli.terminal.output import Column, show_bytes, show_count, show_percent, write_json, write_rows
from milena_client.cli.terminal.session import Session, cluster_options

_KEYS = (
    Column("key", "KEY"),
    Column("bucket", "BUCKET", lambda bucket: bucket or "default"),
    Column("reads", "READS/S", show_count, True),
    Column("read_bytes", "BYTES/S", show_bytes, True),
    Column("share", "SHARE", show_percent, True),
    Column("node", "NODE"),
)


@click.command()
@click.option("--by", type=click.Choice(("requests", "bytes")), default="requests", show_default=True)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=32, show_default=True, help="Maximum number of keys."
)
@click.option("--reset", is_flag=True, help="Have the nodes forget what they have counted, after it is shown.")
@cluster_options
@click.pass_obj
@click.pass_context
def hotkeys(ctx: click.Context, session: Session, by: str, limit: int, reset: bool) -> None:
    """Show the keys that are read most, by number of reads or by bytes, in the last ten seconds or so.

    Every node samples its reads, so the numbers are estimates; SHARE is of all reads, or bytes, of the cluster.
    Exit code 1 if a node does not respond; the others are shown.
    """
    with session.admin() as admin:
        found = admin.hot_keys(reset=reset)
    if by == "requests":
        keys, total = found.by_reads, found.reads
        rows = [{**asdict(key), "share": key.reads / total if total else 0.0} for key in keys[:limit]]
    else:
        keys, total = found.by_bytes, found.read_bytes
        rows = [{**asdict(key), "share": key.read_bytes / total if total else 0.0} for key in keys[:limit]]
    if session.format == "json":
        write_json({"reads": found.reads, "read_bytes": found.read_bytes, "keys": rows})
    else:
        write_rows(session.format, _KEYS, rows)
    for address, error in found.errors.items():
        click.echo(f"milena: node {printable(address)}: {printable(error)}", err=True)
    if found.errors:
        ctx.exit(FAILED)
