"""Coordination. Wires the RESP server from the parts of a node.

The number of connections is limited to what the limit of open files leaves after all other uses: at that limit
`accept` fails, and with it the health checks.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

from milena_cache.blocks.block_reads import BlockReads
from milena_cache.configuration.config import Config
from milena_cache.copies.held_copies import HeldCopies
from milena_cache.handover.handover import Handover
from milena_cache.membership.node_fence import NodeFence
from milena_cache.membership.ownership import Ownership
from milena_cache.membership.promises import PromisesGiven
from milena_cache.membership.slot_waiters import SlotWaiters
from milena_cache.membership.topology import NodeTopology
from milena_cache.objects.names import Buckets
from milena_cache.reads.peer_listings import PeerListings
from milena_cache.reads.reader import Node
from milena_cache.servers.api_methods import ApiMethods
from milena_cache.servers.resp.commands.registry import command_registry
from milena_cache.servers.resp.dispatch.session import FORWARDER_NAME, Session
from milena_cache.servers.resp.invalidations import Invalidations
from milena_cache.servers.resp.server import RespServer
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.cursors import Cursors
from milena_cache.servers.resp.state.forwarder import Forwarder
from milena_cache.servers.resp.state.keyspace_events import KeyspaceEvents
from milena_cache.servers.resp.state.other_nodes import OtherNodes
from milena_cache.servers.resp.state.permissions import Permissions
from milena_cache.servers.resp.state.plain_gets import PlainGets
from milena_cache.servers.resp.state.publisher import Links, Publisher
from milena_cache.servers.resp.state.tracking import Tracking
from milena_cache.service.requests import Requests
from milena_cache.service.status import Status
from milena_common.access.access import Access
from milena_common.access.api_guard import ApiGuard
from milena_common.forwarding.upstreams import Upstreams
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.open_files import open_files_limit
from milena_common.metrics.call_counts import CallCounts
from milena_common.process.facts import ProcessFacts
from milena_common.pubsub.channels import Channels
from milena_common.runtime.clock import Clock
from milena_common.tls.outgoing import Outgoing

log = logging.getLogger(__name__)

# File descriptors that RESP connections leave free: for metrics and health, gRPC, the journal, the router.
RESERVED_FILES = 256


def allowed_connections(requested: int, open_files: int, s3_concurrency: int) -> int:
    """Return how many connections, at most `requested`, leave enough of `open_files` descriptors for all else."""
    reserved = min(RESERVED_FILES + 2 * s3_concurrency, open_files // 2)
    return max(1, min(requested, open_files - reserved))


def _run(context: Context, session: Session, argv: list[bytes]) -> Any:
    return context.commands[argv[0].upper()].handler(context, session, argv)


def resp_server(
    *,
    config: Config,
    node: Node,
    buckets: Buckets,
    ownership: Ownership,
    fence: NodeFence,
    promises: PromisesGiven,
    requests: Requests,
    peer_listings: PeerListings,
    blocks: BlockReads,
    handover: Handover,
    copies: HeldCopies,
    slot_waiters: SlotWaiters,
    api: ApiMethods,
    status: Status,
    calls: CallCounts,
    clock: Clock,
    budget: ByteBudget,
    access: Access,
    outgoing: Outgoing,
    links: Links,
) -> RespServer:
    """Return the server, not yet listening.

    `budget` counts the process's bytes in flight. `outgoing`: how other nodes are called, to which clients'
    commands are sent; `links`: the connections for their messages.
    """
    allowed = allowed_connections(config.resp_max_connections, open_files_limit(), config.s3_concurrency)
    if allowed < config.resp_max_connections:
        log.warning(
            "RESP_MAX_CONNECTIONS is %d, and only %d fit below the limit of open files, which is %d (ulimit -n)",
            config.resp_max_connections,
            allowed,
            open_files_limit(),
        )
        config = replace(config, resp_max_connections=allowed)
    hits = PlainGets(node.memory, node.dirty, ownership, config.freshness, node.reads)
    tracking = Tracking(config.tracking_max_keys)
    clients = Clients()
    context = Context(
        node=node,
        buckets=buckets,
        ownership=ownership,
        fence=fence,
        promises=promises,
        requests=requests,
        peer_listings=peer_listings,
        blocks=blocks,
        handover=handover,
        copies=copies,
        slot_waiters=slot_waiters,
        api=api,
        status=status,
        calls=calls,
        tracking=tracking,
        clock=clock,
        config=config,
        timeout=config.request_timeout,
        clients=clients,
        plain_gets=hits,
        budget=budget,
        # Greater than any cursor that an earlier process of this node returned.
        cursors=Cursors(int(clock.wall() * 1e6)),
        facts=ProcessFacts(),
        commands=command_registry(),
        permissions=(permissions := Permissions(access, buckets)),
        api_guard=ApiGuard(access, lambda: buckets.default, clock.now),
        other_nodes=OtherNodes(ownership, links),
        channels=(channels := Channels(clients.by_id)),
        keyspace_events=(events := KeyspaceEvents(node.memory.change_feed, channels)),
        publisher=Publisher(ownership, links),
    )
    events.configure(config.notify_keyspace_events)
    if config.resp_forward:
        topology = NodeTopology(ownership, outgoing)
        context.forwarder = Forwarder(
            ownership,
            topology,
            Upstreams(topology, FORWARDER_NAME, access.credentials, budget, clock, config.request_timeout),
            buckets,
            context.scripts,
            budget,
            partial(_run, context),
        )
    tracking.may_see = lambda session, key: permissions.may_see(session, "get", key)
    invalidations = Invalidations(
        tracking, clients, channels, node.memory.change_feed, node.memory, node.dirty, clock
    )
    server = RespServer(context, invalidations)
    access.on_change.append(server.users_changed)
    return server
