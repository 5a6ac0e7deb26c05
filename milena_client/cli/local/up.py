"""Shell. The command `milena up`: runs a cluster on this machine until Ctrl-C, and shows its statistics.

On a terminal they are a table that is redrawn every second, otherwise a line when the state changes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from milena_client.admin import Admin, NodeStats, problems
from milena_client.cli.commands.health import STATS, stats_rows, total_row
from milena_client.cli.local.cluster import S3_ACCESS_KEY, ClusterFailed, LocalCluster, missing_packages
from milena_client.cli.local.ports import port_of
from milena_client.cli.local.processes import Process
from milena_client.cli.local.s3 import S3Choice, choose_s3
from milena_client.cli.terminal.failures import FAILED, printable
from milena_client.cli.terminal.output import Row, show_percent, table
from milena_client.core.retry import RetryPolicy
from milena_common.api.errors import MilenaError
from milena_common.process.distribution import install_command

_READY_SECONDS = 10.0
_REFRESH_SECONDS = 1.0
_LINE_SECONDS = 30.0  # between two lines if the output is not a terminal

# The columns that fit into 80 characters.
_LIVE_NAMES = ("address", "hits", "misses", "hit_ratio", "entries", "bytes", "s3_requests", "state")
_LIVE = [column for column in STATS if column.name in _LIVE_NAMES]


@click.command()
@click.option("--nodes", type=click.IntRange(1, 32), default=3, show_default=True, help="How many cache nodes.")
@click.option(
    "--logs", type=click.Path(path_type=Path), help="Directory for the log files. Default: a temporary one."
)
@click.pass_context
def up(ctx: click.Context, nodes: int, logs: Path | None) -> None:
    """Run a whole cluster on this machine: S3, router and cache nodes. Ctrl-C stops it.

    S3 is an embedded stand-in that keeps its objects in memory. With S3_ENDPOINT_URL the nodes use that S3, with
    S3_BUCKET alone that bucket on AWS. All variables of router and nodes apply, also from a file .env, except
    addresses and ports, which are chosen here. LRU_BYTES is 256MiB and DIRTY_MEMORY_BYTES 64MiB unless set.

    Each node has its journal in a directory of its own below JOURNAL_DIR. The default is ./milena-journal, so that
    the next cluster started here uploads the writes that this one left; with the embedded S3 it is among the logs.
    """
    require_local_packages()
    environ = _environment()
    s3 = choose_s3(environ)
    with stopped_by_signals(), log_directory(logs) as directory:
        with LocalCluster(s3, environ, directory) as cluster:
            try:
                cluster.start(nodes)
            except ClusterFailed as error:
                click.echo(f"milena: {error}", err=True)
                ctx.exit(FAILED)
            say_addresses(cluster, s3, environ)
            for name, reason in cluster.wait_ready(_READY_SECONDS).items():
                click.echo(f"milena: {name} is not ready: {printable(reason)}", err=True)
            finished = watch(cluster)
            click.echo("stopping …")
        left = [] if s3.embedded else cluster.undrained()
        if left:
            click.echo(
                f"milena: {', '.join(left)}: acknowledged writes may be left in {cluster.journals}, and not in S3; "
                "the next `milena up` with these journals uploads them",
                err=True,
            )
        for process in finished:
            click.echo(f"milena: {process.name} ended unexpectedly; its log ends with:", err=True)
            click.echo(process.last_lines(), err=True)
        if finished or left:
            ctx.exit(FAILED)


def require_local_packages() -> None:
    """Exit with a line that names the packages to install, if some are missing."""
    missing = missing_packages()
    if missing:
        click.echo(f"milena: missing {', '.join(missing)}: {install_command('local')}", err=True)
        click.get_current_context().exit(FAILED)


def _environment() -> dict[str, str]:
    """Return the environment, with variables of `.env` that it does not set, as router and nodes read it."""
    from dotenv import dotenv_values

    from_file = {name: value or "" for name, value in dotenv_values(Path(".env"), interpolate=False).items()}
    return from_file | {name: value for name, value in os.environ.items() if value.strip()}


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP (a closed terminal) as Ctrl-C, so that no process is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def log_directory(chosen: Path | None) -> Iterator[Path]:
    """Provide a directory for log files; a temporary one is removed unless the command failed."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen.absolute()
        return
    directory = Path(tempfile.mkdtemp(prefix="milena-"))
    try:
        yield directory
    except click.exceptions.Exit as error:
        if error.exit_code:
            click.echo(f"milena: the logs are in {directory}", err=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def say_addresses(cluster: LocalCluster, s3: S3Choice, environ: Mapping[str, str]) -> None:
    """Print the addresses, directories and example commands of the cluster."""
    assert cluster.router is not None
    kept = ", embedded: its objects are lost when this stops" if s3.embedded else ""
    limit = environ.get("RATE_LIMIT") or "100 (the default; 0 switches it off)"
    lines = [
        f"router   {cluster.router.address}   metrics {cluster.router.ops}/metrics",
        *(
            f"{node.name:8} {node.address}   metrics {node.ops}/metrics   redis {node.redis}"
            + (f"   s3 {node.s3}" if node.s3 else "")
            for node in cluster.nodes
        ),
        f"s3       {cluster.s3_endpoint or 'AWS'}, bucket {cluster.bucket}{kept}",
        f"logs     {cluster.logs}",
        f"journals {cluster.journals}",
        f"RATE_LIMIT of the router, requests a second: {limit}",
        f"export MILENA_URL=milena://{cluster.router.address}",
        f"redis-cli -c -p {port_of(cluster.nodes[0].redis)}",
    ]
    if cluster.s3_secret:
        keys = f"AWS_ACCESS_KEY_ID={S3_ACCESS_KEY} AWS_SECRET_ACCESS_KEY={cluster.s3_secret}"
        lines.append(f"{keys} aws --endpoint-url {cluster.nodes[0].s3} s3 ls s3://{cluster.bucket}")
    click.echo("\n".join(lines))


def watch(cluster: LocalCluster) -> list[Process]:
    """Show the cluster's statistics until Ctrl-C; return the processes that ended unexpectedly.

    Returns at once if the router, S3 or all nodes have ended; a single lost node is shown, and the rest keeps
    running.
    """
    assert cluster.router is not None
    # A busy cluster may reject the call or be slow; the next attempt is a second later, so there are no retries.
    with Admin(cluster.router.address, timeout=2.0, retry=RetryPolicy(tokens=0)) as admin:
        try:
            return _watch_live(cluster, admin) if sys.stdout.isatty() else _watch_lines(cluster, admin)
        except KeyboardInterrupt:
            return []


def _fatal(cluster: LocalCluster) -> list[Process]:
    lost = cluster.dead()
    nodes = {node.name for node in cluster.nodes}
    return lost if any(process.name not in nodes for process in lost) or len(lost) >= len(nodes) else []


def _watch_live(cluster: LocalCluster, admin: Admin) -> list[Process]:
    with Live(console=Console(highlight=False), auto_refresh=False, transient=True) as live:
        while not (finished := _fatal(cluster)):
            live.update(_picture(cluster, admin), refresh=True)
            time.sleep(_REFRESH_SECONDS)
    return finished


def _picture(cluster: LocalCluster, admin: Admin) -> Group:
    dead = [
        Text(f"{process.name} ended, exit code {process.exit_code()}: {process.log}") for process in cluster.dead()
    ]
    try:
        nodes = admin.stats()
    except MilenaError as error:
        return Group("", Text(f"no statistics: {error}"), *dead)
    return Group("", table(_LIVE, [*stats_rows(nodes), total_row(nodes)]), *dead, "Ctrl-C stops everything.")


def _watch_lines(cluster: LocalCluster, admin: Admin) -> list[Process]:
    """Print a line when the state changes, and every _LINE_SECONDS while there is traffic."""
    shown, reads, next_line = "", -1.0, 0.0
    while not (finished := _fatal(cluster)):
        try:
            nodes = admin.stats()
        except MilenaError as error:
            state, count, line = str(error), reads, str(error)
        else:
            total = total_row(nodes)
            count, state, line = total["hits"] + total["misses"], _state(nodes), _line(nodes, total)
        if state != shown or (count != reads and time.monotonic() >= next_line):
            click.echo(printable(line))
            shown, reads, next_line = state, count, time.monotonic() + _LINE_SECONDS
        time.sleep(_REFRESH_SECONDS)
    return finished


def _state(nodes: list[NodeStats]) -> str:
    return "; ".join([*(node.address for node in nodes), *problems(nodes)])


def _line(nodes: list[NodeStats], total: Row) -> str:
    counts = f"{total['hits']:.0f} hits, {total['misses']:.0f} misses, {total['entries']:.0f} entries"
    ratio = f"hit ratio {show_percent(total['hit_ratio'])}"
    return "; ".join([f"nodes: {len(nodes)}, {counts}, {ratio}", *problems(nodes)])
