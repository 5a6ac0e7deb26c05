"""Shell. Commands about the ring: `nodes`, `leave`, `ring owner`."""

from __future__ import annotations

import click

from milena_client.cli.failures import NOT_FOUND
from milena_client.cli.output import Column, show_count, show_percent, show_seconds, write_json, write_rows
from milena_client.cli.session import Session, cluster_options
from milena_common.errors import NoNodes
from milena_common.slots import SLOTS

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
    """Show the nodes of the ring."""
    with session.admin() as admin:
        view = admin.nodes()
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
        }
        for node in view.nodes
    ]
    if session.format == "json":
        write_json({"epoch": view.epoch, "nodes": rows})
        return
    write_rows(session.format, _NODES, rows)
    if not rows:
        click.echo("the ring has no node", err=True)


@click.command()
@click.argument("address")
@cluster_options
@click.pass_obj
@click.pass_context
def leave(ctx: click.Context, session: Session, address: str) -> None:
    """Take the node at ADDRESS (host:port) out of the ring.

    A node that still runs joins again within seconds: stop it first, or stop it instead.
    """
    with session.admin() as admin:
        known = admin.leave(address)
    if not known:
        click.echo(f"milena: there is no node {address} in the ring", err=True)
        ctx.exit(NOT_FOUND)


@click.group()
def ring() -> None:
    """Ask the ring."""


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
