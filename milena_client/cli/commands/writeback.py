"""Shell. Commands about writes that S3 does not have yet: `writeback status|flush|failed|retry|drop`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict

import click
from rich.console import Console

from milena_client.admin import Admin, NodeStats
from milena_client.cli.commands.health import state_of
from milena_client.cli.terminal.failures import FAILED, NOT_FOUND
from milena_client.cli.terminal.output import (
    Column,
    Row,
    show_bytes,
    show_count,
    show_seconds,
    show_time,
    write_json,
    write_rows,
)
from milena_client.cli.terminal.session import Session, cluster_options
from milena_client.core.limits import FLUSH_TIMEOUT
from milena_client.core.values import Flushed
from milena_common.api.errors import MilenaError

_REFRESH_SECONDS = 0.5

# What the nodes report, by the names of these commands, and how it adds up over the nodes.
_SUMS = {
    "entries": "dirty_entries",
    "bytes": "dirty_bytes",
    "limit_bytes": "dirty_limit_bytes",
    "dead_letters": "dead_letters",
}
_GREATEST = {
    "oldest_seconds": "dirty_oldest_seconds",
    "journal_full": "journal_full",
    "last_success": "writeback_last_success_timestamp",
}


def _ago(timestamp: float) -> str:
    """Return how long ago that was; 0 is never."""
    return f"{show_seconds(max(0.0, time.time() - timestamp))} ago" if timestamp else "never"


_STATUS = (
    Column("address", "NODE"),
    Column("entries", "DIRTY", show_count, True),
    Column("bytes", "BYTES", show_bytes, True),
    Column("limit_bytes", "OF", show_bytes, True),
    Column("oldest_seconds", "OLDEST", show_seconds, True),
    Column("dead_letters", "DEAD LETTERS", show_count, True),
    Column("journal_full", "JOURNAL", lambda full: "full" if full else "ok"),
    Column("last_success", "LAST UPLOAD", _ago, True),
    Column("state", "STATE"),
)

_FLUSHED = (
    Column("flushed", "FLUSHED", show_count, True),
    Column("remaining", "REMAINING", show_count, True),
    Column("failed", "FAILED", show_count, True),
)

_FAILED = (
    Column("key", "KEY"),
    Column("bucket", "BUCKET", lambda bucket: bucket or "default"),
    Column("operation", "OPERATION"),
    Column("size", "SIZE", show_bytes, True),
    Column("version", "VERSION"),
    Column("failed_at", "FAILED AT", show_time),
    Column("node", "NODE"),
    Column("reason", "REASON"),
)


@click.group()
def writeback() -> None:
    """Show and control the upload of acknowledged writes to S3."""


def status_rows(nodes: Sequence[NodeStats]) -> list[Row]:
    """Return a row for each node: its dirty writes, their bound, its dead letters, its journal."""
    return [
        {
            "address": node.address,
            **{name: node.values.get(reported, 0.0) for name, reported in (_SUMS | _GREATEST).items()},
            "state": state_of(node),
        }
        for node in nodes
    ]


def status_total(rows: Sequence[Row]) -> Row:
    """Return all nodes as one row: the oldest write, the newest upload, whether any journal is full."""
    sums = {name: sum(row[name] for row in rows) for name in _SUMS}
    greatest = {name: max((row[name] for row in rows), default=0.0) for name in _GREATEST}
    return {"address": "all", **sums, **greatest, "state": ""}


@writeback.command()
@cluster_options
@click.pass_obj
def status(session: Session) -> None:
    """Show what every node has acknowledged and S3 does not have yet."""
    with session.admin() as admin:
        rows = status_rows(admin.stats())
    total = status_total(rows)
    if session.format == "json":
        write_json({"nodes": rows, "total": total})
    elif session.format == "table":
        write_rows("table", _STATUS, [*rows, total])
    else:
        write_rows("raw", _STATUS, rows)


@writeback.command()
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@cluster_options
@click.pass_obj
@click.pass_context
def flush(ctx: click.Context, session: Session, keys: tuple[str, ...]) -> None:
    """Wait until S3 has the writes of the KEYs; without a KEY, all writes that are dirty now.

    It waits for --timeout, 60 seconds by default. Exit code 1 if writes remain then, or if S3 has rejected
    some permanently.
    """
    seconds = session.timeout or FLUSH_TIMEOUT
    with session.admin() as admin:
        done = _flush_visibly(admin, keys, seconds) if sys.stderr.isatty() else admin.flush(keys, timeout=seconds)
    row = asdict(done)
    if session.format == "json":
        write_json(row)
    else:
        write_rows(session.format, _FLUSHED, [row])
    if done.remaining:
        click.echo(f"milena: {done.remaining} writes are not in S3 after {seconds:g} s", err=True)
    if done.failed:
        click.echo(f"milena: S3 has rejected {done.failed} writes permanently: milena writeback failed", err=True)
    if done.remaining or done.failed:
        ctx.exit(FAILED)


def _flush_visibly(admin: Admin, keys: Sequence[str], seconds: float) -> Flushed:
    """Flush, and say on the terminal meanwhile how much is left."""
    pool = ThreadPoolExecutor(1)
    try:
        flushing = pool.submit(admin.flush, keys, timeout=seconds)
        with Console(stderr=True).status("flush") as shown:
            while not wait([flushing], timeout=_REFRESH_SECONDS).done:
                shown.update(_backlog(admin))
        return flushing.result()
    finally:
        # If this was interrupted, the call ends when the connection is closed.
        pool.shutdown(wait=False)


def _backlog(admin: Admin) -> str:
    try:
        total = status_total(status_rows(admin.stats()))
    except MilenaError:
        return "flush: no statistics now"
    return f"flush: {show_count(total['entries'])} writes remaining, {show_bytes(total['bytes'])}"


@writeback.command()
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Maximum number of writes."
)
@cluster_options
@click.pass_obj
def failed(session: Session, limit: int) -> None:
    """List the failed writes: acknowledged, and not accepted by S3.

    S3 has rejected dead letters permanently; stuck writes fail repeatedly while others succeed. They are kept, and
    reads return them. raw is one a line, beginning with the key.
    """
    with session.admin() as admin:
        letters = admin.failed(limit)
    rows = [asdict(write) for write in letters.writes]
    if session.format == "json":
        write_json({"total": letters.total, "writes": rows})
    else:
        write_rows(session.format, _FAILED, rows)
    if letters.total > len(rows):
        click.echo(f"milena: {letters.total - len(rows)} more; see --limit", err=True)


@writeback.command()
@click.argument("keys", nargs=-1, metavar="KEY...")
@click.option("--all", "everything", is_flag=True, help="All failed writes, in all buckets.")
@cluster_options
@click.pass_obj
@click.pass_context
def retry(ctx: click.Context, session: Session, keys: tuple[str, ...], everything: bool) -> None:
    """Upload failed writes again, when the cause is corrected: those of the KEYs, or --all."""
    _check_which(keys, everything)
    with session.admin() as admin:
        resolved = admin.retry(keys, all=everything)
    _show_resolved(ctx, session, resolved, "to be uploaded again", keys)


@writeback.command()
@click.argument("keys", nargs=-1, metavar="KEY...")
@click.option("--all", "everything", is_flag=True, help="All failed writes, in all buckets.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cluster_options
@click.pass_obj
@click.pass_context
def drop(ctx: click.Context, session: Session, keys: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete failed writes permanently: those of the KEYs, or --all. Readers then get S3's objects.

    It asks first; without a terminal it needs --yes.
    """
    _check_which(keys, everything)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("these writes are nowhere else: drop wants --yes where it cannot ask")
    with session.admin() as admin:
        if not yes:
            which = (
                f"all {admin.failed(1).total} failed writes"
                if everything
                else f"the failed writes of {len(keys)} keys"
            )
            click.confirm(f"Drop {which}? These writes are nowhere else.", abort=True, err=True)
        resolved = admin.drop(keys, all=everything)
    _show_resolved(ctx, session, resolved, "dropped", keys)


def _check_which(keys: Sequence[str], everything: bool) -> None:
    if everything == bool(keys):
        raise click.UsageError("wanted is one of them: KEY..., or --all")


def _show_resolved(ctx: click.Context, session: Session, resolved: int, done: str, keys: Sequence[str]) -> None:
    if session.format == "json":
        write_json({"settled": resolved})
    else:
        click.echo(f"failed writes {done}: {resolved}")
    if keys and not resolved:
        click.echo("milena: there are no failed writes of these keys", err=True)
        ctx.exit(NOT_FOUND)
