"""Pure. Validates what a joining node reports of the last ring, and converts the message to `Knowledge`.

Nodes are not trusted: every field has a bound, because the router keeps it and sends it to others.
"""

from __future__ import annotations

from math import isfinite

from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import check_bucket
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.copy_holders import CopyRun, Held, Listed
from milena_common.cluster.copy_losses import Awaited, WaitingRun
from milena_common.cluster.member import RESP, RESP_TLS
from milena_common.cluster.missing_node import MAX_REASON, MissingNode, NodeStatus, shortened
from milena_common.cluster.slot_assignment import Copies, Member, Ring
from milena_common.cluster.slot_map import MapNode, SlotMap
from milena_common.cluster.slot_runs import Run, overlaps, whole
from milena_router.ring.losses.missing_nodes import MAX_MISSING
from milena_router.ring.membership import MAX_AHEAD_MS, MAX_MEMBERS
from milena_router.ring.recovery import Knowledge, LastRing

MAX_WEIGHT = 1000.0
MAX_COPIES = 3
# Characters of a node's or a cluster's id.
MAX_ID = 200
# Characters of an address.
MAX_ADDRESS = 300
# As LEASE_SECONDS allows.
MAX_LEASE_SECONDS = 3600.0


def knowledge(request: pb.JoinRequest, wall: float) -> Knowledge:
    """Return what `request` reports of the ring; `wall` in seconds since 1970. Raises InvalidRequest."""
    if len(request.cluster_id) > MAX_ID:
        raise InvalidRequest(f"cluster_id: has {len(request.cluster_id)} characters; allowed are {MAX_ID}")
    newest = int(wall * 1000) + MAX_AHEAD_MS
    last = _last_ring(request, newest) if request.HasField("last_ring") else None
    return Knowledge(request.cluster_id, min(request.ring_epoch, newest), last)


def node_status(request: pb.JoinRequest | pb.LeaveRequest) -> NodeStatus | None:
    """Return a node's report of its writes, cut to the allowed size; None from a node that sends none."""
    if not request.HasField("dirty_entries"):
        return None
    degraded = shortened(request.degraded) if isinstance(request, pb.JoinRequest) else ()
    return NodeStatus(request.dirty_entries, request.dead_letters, degraded)


def _last_ring(request: pb.JoinRequest, newest: int) -> LastRing | None:
    update = request.last_ring.ring
    if not 0 < update.epoch <= newest:
        raise InvalidRequest(f"last_ring: epoch {update.epoch} is not in 1 to {newest}")
    if max(len(update.nodes), len(update.lost_holders)) > MAX_MEMBERS:
        number = max(len(update.nodes), len(update.lost_holders))
        raise InvalidRequest(f"last_ring: has {number} nodes; allowed are {MAX_MEMBERS}")
    if update.cluster_id != request.cluster_id:
        raise InvalidRequest("last_ring: is of another cluster than cluster_id")
    if update.default_bucket:
        check_bucket(update.default_bucket)
    try:
        slot_map = SlotMap.from_update(update)
        members = list(map(_member, slot_map.nodes))
        copies = copies_of(slot_map)
        lost = [member for part in copies.waiting for member in part.processes]
        if any(not 0 < member.weight <= MAX_WEIGHT for member in members) or any(
            len(name) > MAX_ID
            for member in (*members, *lost)
            for name in (member.node_id, member.journal_id, member.zone)
        ):
            raise ValueError("a node has a weight, an id or a zone that is not allowed")
        if copies.greatest_members > MAX_MEMBERS or any(member.copies > MAX_COPIES for member in members):
            raise ValueError(f"copies: allowed are {MAX_COPIES}, of {MAX_MEMBERS} members")
        if len(slot_map.missing) > MAX_MISSING or not all(map(_is_allowed, slot_map.missing)):
            raise ValueError(f"missing: allowed are {MAX_MISSING} nodes, with an address, ids and a reason")
        ranges = ((first, last, node.address, since) for first, last, node, since in slot_map.ranges)
        pending = (Run(first, last, node.address, since) for first, last, node, since in slot_map.pending)
        ring = Ring.restored(update.epoch, members, ranges, pending, copies)
        if slot_map.released_epoch > update.epoch:
            raise ValueError(f"released_epoch {slot_map.released_epoch} is above its epoch {update.epoch}")
    except ValueError as error:
        raise InvalidRequest(f"last_ring: {error}") from None
    lease_seconds = request.last_ring.lease_seconds
    if not 0 <= lease_seconds <= MAX_LEASE_SECONDS:
        raise InvalidRequest(
            f"last_ring: lease_seconds: got {lease_seconds:g}; allowed: 0 to {MAX_LEASE_SECONDS:g}"
        )
    bucket = update.default_bucket or request.default_bucket
    return LastRing(ring, bucket, update.cluster_id, lease_seconds, slot_map.missing, slot_map.released_epoch)


def _member(node: MapNode) -> Member:
    found = {RESP: node.plain_resp_address, RESP_TLS: node.resp_tls_address}
    addresses = {name: where for name, where in found.items() if where}
    return Member(node.address, node.node_id, node.weight, addresses, node.journal_id, node.copies, node.zone)


def copies_of(slot_map: SlotMap) -> Copies:
    """Return the copies of a ring, in which slots without an owner wait for the holders that they have."""
    owned = whole(((first, last, node.address, 0) for first, last, node, _ in slot_map.ranges), 0)
    runs, waiting = [], []
    for first, last, part, run in overlaps([(*part, 0) for part in slot_map.copies], owned):
        if run.address:
            listed = tuple(
                Listed(each.node.address, 0 if each.complete else max(each.since, 1)) for each in part[2]
            )
            runs.append(CopyRun(first, last, Held(run.address, listed)))
        else:
            processes = tuple(_member(each.node) for each in part[2])
            awaited = Awaited(processes, all(each.complete for each in part[2]))
            waiting.append(WaitingRun(first, last, awaited, slot_map.epoch))
    return Copies(slot_map.copies_wanted, slot_map.greatest_members, tuple(runs), tuple(waiting))


def _is_allowed(node: MissingNode) -> bool:
    return (
        0 < len(node.address) <= MAX_ADDRESS
        and max(len(node.node_id), len(node.journal_id)) <= MAX_ID
        and len(node.reason) <= MAX_REASON
        and isfinite(node.since)
    )
