"""Shell. Commands about the ring: `nodes`, `leave`, `ring owner`."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from milena_client.admin import Node
from milena_client.cli.terminal.failures import NOT_FOUND, printable
from milena_client.cli.terminal.output import Column, show_count, show_percent, show_seconds, write_json, write_rows
from milena_client.cli.terminal.session import Session, cluster_options
from milena_common.api.errors import NoNodes
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slots import SLOTS


def _count(number: int | None) -> str:
    return "?" if number is None else show_count(number)


_NODES = (
    Column("address", "NODE"),
    Column("slots", "SLOTS", show_count, True),
    Column("share", "SHARE", show_percent, True),
    Column("weight", "WEIGHT", "{:g}".format, True),
    Column("lease_remaining", "LEASE", show_seconds, True),
    Column("member_for", "IN RING FOR", show_seconds, True),
    Column("ops", "OPS"),
    Column("node_id", "ID"),
    Column("redis", "REDIS"),
    Column("dirty", "DIRTY", _count, True),
    Column("state", "STATE"),
)

_OWNER = (
    Column("key", "KEY"),
    Column("slot", "SLOT", right=True),
    Column("address", "OWNER"),
    Column("successor", "SUCCESSOR"),
    Column("epoch", "EPOCH", right=True),
    Column("owned_since", "OWNED SINCE", right=True),
    Column("redis", "REDIS"),
)


@click.command()
@cluster_options
@click.pass_obj
def nodes(session: Session) -> None:
    """Show the nodes of the ring, and those that are missing from it: they left without handing over.

    DIRTY is how many acknowledged writes S3 did not have when the node last said so.
    """
    with session.admin() as admin:
        view = admin.nodes()
    now = time.time()
    rows = [
        {
            "address": node.address,
            "slots": node.slots,
            "share": node.slots / SLOTS,
            "weight": node.weight,
            "lease_remaining": node.lease_remaining,
            "member_for": node.member_for,
            "ops": node.addresses.get("ops", ""),
            "node_id": node.node_id,
            "redis": node.addresses.get("resp", ""),
            "dirty": _writes(node),
            "state": f"degraded: {'; '.join(node.degraded)}" if node.degraded else "",
        }
        for node in view.nodes
    ]
    if session.format == "json":
        missing = [
            asdict(node) | {"dirty": _writes(node), "missing_for": max(0.0, now - node.since)}
            for node in view.missing
        ]
        write_json({"epoch": view.epoch, "nodes": rows, "missing": missing})
        return
    write_rows(session.format, _NODES, rows)
    if not rows:
        click.echo("the ring has no node", err=True)
    for node in view.missing:
        click.echo(f"milena: {printable(node.described(now))}", err=True)


def _writes(node: Node | MissingNode) -> int | None:
    """Return the acknowledged writes that were not in S3 when the node last reported; None if it never did."""
    return None if node.dirty_entries is None else node.dirty_entries + node.dead_letters


@click.command()
@click.argument("address")
@click.option("--forget", is_flag=True, help="Write off the missing node that was at ADDRESS.")
@cluster_options
@click.pass_obj
@click.pass_context
def leave(ctx: click.Context, session: Session, address: str, forget: bool) -> None:
    """Remove the node at ADDRESS (host:port) from the ring.

    A node that still runs joins again within seconds: stop it first, or stop it instead. If all nodes fell silent,
    the router keeps them in the ring, and this removes those that will not come back. With --forget a missing
    node, which is out of the ring already, is no longer shown and alerted on, and its slots are served by their new
    owners, because it will not come back: use it only if the node's process has ended. Its writes are not deleted,
    and are uploaded if its journal does come back.
    """
    with session.admin() as admin:
        known = admin.leave(address, forget=forget)
    if not known:
        what = f"no missing node {address}" if forget else f"no node {address} in the ring"
        click.echo(f"milena: there is {what}", err=True)
        ctx.exit(NOT_FOUND)


@click.group()
def ring() -> None:
    """Read the ring."""


@ring.command()
@click.argument("key")
@cluster_options
@click.pass_obj
def owner(session: Session, key: str) -> None:
    """Show which node owns KEY, and where it speaks the Redis protocol."""
    with session.admin() as admin:
        found = admin.owner(key)
        nodes = admin.nodes().nodes
    if not found.address:
        if nodes:
            raise NoNodes(f"slot {found.slot} has no owner: it waits for a lost node that has its writes")
        raise NoNodes(f"the ring has no node (slot {found.slot})")
    row = {
        "key": key,
        "slot": found.slot,
        "address": found.address,
        "successor": found.successor,
        "epoch": found.epoch,
        "owned_since": found.owned_since,
        "redis": next((node.addresses.get("resp", "") for node in nodes if node.address == found.address), ""),
    }
    if session.format == "json":
        write_json(row)
    else:
        write_rows(session.format, _OWNER, [row])
