"""Pure. What a node reports with a Join or a renewal, validated and converted, and the shortest request with it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import check_bucket
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.runs_message import COPIES, MOVES
from milena_common.cluster.slot_assignment import Member
from milena_common.network.addresses import ALLOWED, parse_address
from milena_router.ring.known_ring import MAX_ADDRESS, MAX_COPIES, MAX_ID, MAX_WEIGHT, knowledge, node_status
from milena_router.ring.recovery import Knowledge, Lease
from milena_router.ring.ring_status import RingStatus, ring_status

# Addresses that a member may report; the router keeps them.
MAX_ADDRESSES = 16


class Joining(NamedTuple):
    """The arguments of `Membership.join` but for the times."""

    member: Member
    default_bucket: str
    seen_epoch: int
    known: Knowledge
    node_status: NodeStatus | None
    status: RingStatus


def joining(request: pb.JoinRequest, wall: float) -> Joining:
    """Return what `request` reports; `wall` in seconds since 1970. Raises InvalidRequest."""
    address = node_address(request.address)
    weight = request.weight or 1.0
    if not 0 < weight <= MAX_WEIGHT:
        raise InvalidRequest(f"weight: got {weight:g}; allowed: above 0, up to {MAX_WEIGHT:g}")
    for name, text in (
        ("node_id", request.node_id),
        ("journal_id", request.journal_id),
        ("zone", request.zone),
    ):
        if len(text) > MAX_ID:
            raise InvalidRequest(f"{name}: has {len(text)} characters; allowed are {MAX_ID}")
    if len(request.addresses) > MAX_ADDRESSES or any(
        len(name) + len(where) > MAX_ADDRESS for name, where in request.addresses.items()
    ):
        raise InvalidRequest(f"addresses: allowed are {MAX_ADDRESSES} of at most {MAX_ADDRESS} characters")
    if request.default_bucket:
        check_bucket(request.default_bucket)
    if request.copies > MAX_COPIES:
        raise InvalidRequest(f"copies: got {request.copies}; allowed: 0 to {MAX_COPIES}")
    copies = max(request.copies, 1) if request.features & COPIES else 0
    return Joining(
        Member(address, request.node_id, weight, dict(request.addresses), request.journal_id, copies, request.zone),
        request.default_bucket,
        request.epoch,
        knowledge(request, wall),
        node_status(request),
        ring_status(request, address),
    )


def node_address(text: str) -> str:
    """Return the canonical spelling of a node's address. Raises InvalidRequest."""
    try:
        address = parse_address(text)
    except ValueError as error:
        raise InvalidRequest(f"address: got {text[:100]!r}; allowed: {ALLOWED} ({error})") from None
    if address.is_wildcard:
        raise InvalidRequest(f"address: got {text!r}, which others cannot reach; set the node's ADVERTISE_ADDR")
    return str(address)


def lasting(status: RingStatus) -> RingStatus:
    """Return what stays of `status` until the node reports otherwise; the rest is in the ring, or nowhere."""
    return replace(status, acknowledged_epoch=0, taken=(), completed=(), failed_holders=(), copies_epoch=0)


def member_request(lease: Lease) -> pb.JoinRequest:
    """Return a request that reports what is known of a member, but for its writes: `joining` is the inverse."""
    member, status = lease.member, lease.ring_status
    return pb.JoinRequest(
        address=member.address,
        node_id=member.node_id,
        weight=member.weight,
        addresses=member.addresses,
        default_bucket=lease.default_bucket,
        cluster_id=lease.cluster_id,
        journal_id=member.journal_id,
        features=(MOVES if status.moves else 0) | (COPIES if member.copies else 0),
        copies=member.copies,
        zone=member.zone,
        acknowledged_epoch=lease.acknowledged,
        leaving=status.leaving,
        foreign_writes=status.foreign_writes,
        status_number=status.number,
    )
