"""Shell. The command `milena demo`: starts a cluster, runs the tour of `demo_tour`, and prints example commands.

The processes get a minimal environment, so that variables of the user's own configuration do not change the tour.
"""

from __future__ import annotations

import base64
import os
import shutil
import sys
import time
from pathlib import Path

import click

from milena_client.cli.local.cluster import ClusterFailed, LocalCluster
from milena_client.cli.local.demo_data import standard_library
from milena_client.cli.local.demo_tour import LEASE_SECONDS, READERS, Tour
from milena_client.cli.local.ports import port_of
from milena_client.cli.local.s3 import DEFAULT_BUCKET, S3Choice, s3_client
from milena_client.cli.local.up import log_directory, require_local_packages, stopped_by_signals, watch
from milena_client.cli.terminal.failures import FAILED, printable
from milena_common.api.methods import GET

_NODES = 3

# Variables that every program needs. Others are dropped, because they may configure Milena differently.
_KEPT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV")
_KEPT_PREFIXES = ("LC_", "PYTHON")

_SETTINGS = {"RATE_LIMIT": "0", "LEASE_SECONDS": str(LEASE_SECONDS)}


@click.command()
@click.option("--once", is_flag=True, help="Stop after the tour; exit code 1 if a step of it failed.")
@click.pass_context
def demo(ctx: click.Context, once: bool) -> None:
    """Run a tour on this machine: an S3 stand-in, a router, three nodes, a few hundred files. Ctrl-C stops all."""
    require_local_packages()
    files = standard_library()
    s3 = S3Choice("", DEFAULT_BUCKET, embedded=True, create=True)
    with stopped_by_signals(), log_directory(None) as logs:
        with LocalCluster(s3, _environment(), logs) as cluster:
            try:
                failures = _tour(cluster, files)
            except ClusterFailed as error:
                click.echo(f"milena: {error}", err=True)
                ctx.exit(FAILED)
            if not once:
                _say_how(cluster, next(iter(files)))
                watch(cluster)
                click.echo("stopping …")
        if failures:
            click.echo(f"milena: {len(failures)} steps of the tour failed", err=True)
            ctx.exit(FAILED)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return kept | _SETTINGS


def _tour(cluster: LocalCluster, files: dict[str, bytes]) -> list[str]:
    """Start the cluster and run the tour; return a line for each failed check."""
    started = time.monotonic()
    _heading("Starting S3, a router and three cache nodes")
    cluster.start(_NODES)
    late = cluster.wait_ready()
    if late:
        raise ClusterFailed("; ".join(f"{name} is not ready: {why}" for name, why in late.items()))
    assert cluster.router is not None
    _say(f"s3 {cluster.s3_endpoint}, router {cluster.router.address}, nodes {_addresses(cluster)}")
    _say(f"logs in {cluster.logs}")
    _say("for this tour the router has RATE_LIMIT=0 (no limit; the default is 100 requests a second)")
    _say(f"and LEASE_SECONDS={LEASE_SECONDS} (a node that falls silent is replaced after that; the default is 5)")
    tour = Tour(cluster, s3_client(cluster.s3_endpoint, cluster.environ), files, _say)
    try:
        _heading("Loading files of the Python standard library")
        tour.load()
        _heading("Reading them: cold, then warm, then directly from S3")
        tour.compare()
        _heading(f"{READERS} readers read one cold key at the same time")
        tour.crowd()
        _heading("Writing: acknowledged by S3, and from a journal on disk")
        tour.write()
        _heading("Losing a node")
        tour.lose_a_node()
    finally:
        tour.close()
    _heading(f"The tour took {time.monotonic() - started:.0f} s")
    return tour.failures


def _addresses(cluster: LocalCluster) -> str:
    return ", ".join(node.address for node in cluster.nodes)


def _say(line: str) -> None:
    click.echo(printable(line))


def _heading(line: str) -> None:
    click.echo()
    click.secho(line, bold=True)


def _say_how(cluster: LocalCluster, key: str) -> None:
    assert cluster.router is not None
    router = cluster.router.address
    key64 = base64.b64encode(key.encode()).decode()
    program = shutil.which("milena") or str(Path(sys.executable).with_name("milena"))
    metrics = "\n".join(f"    {member.name:8} {member.ops}/metrics" for member in cluster.members)
    click.echo(f"""
The cluster stays up until Ctrl-C. From another terminal:

  command line
    export MILENA_URL=milena://{router}
    {program} ls stdlib/ | head
    {program} get {key} | head -3
    {program} -o table get {key}
    {program} stats

  Python
    {sys.executable} -i -c 'from milena_client import Milena; cache = Milena("{router}")'
    >>> cache["hello.txt"] = b"hello"
    >>> cache["hello.txt"]
    >>> cache.get_entry("{key}").outcome

  a Redis Cluster client, directly to the nodes; -c follows redirects to the owner of each key
    redis-cli -c -p {port_of(cluster.nodes[0].redis)} GET {key}
    redis-cli -c -p {port_of(cluster.nodes[0].redis)} SET hello.txt hello EX 60

  any gRPC client, with proto/router_server.proto (keys are bytes, so base64 here)
    grpcurl -plaintext -import-path proto -proto router_server.proto \\
      -d '{{"key": "{key64}"}}' {router} {GET.router_path[1:]}

  the S3 API: objects are plain objects
    AWS_ACCESS_KEY_ID=milena AWS_SECRET_ACCESS_KEY=milena-local AWS_REGION=us-east-1 \\
      aws --endpoint-url {cluster.s3_endpoint} s3 ls s3://{cluster.bucket}/stdlib/

  metrics, for Prometheus or curl
{metrics}
""")
