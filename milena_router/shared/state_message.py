"""Pure. The shared state of a ring as bytes, for all routers and their successors.

Times are the routers' own, so only durations are written: a delay, and the change that began it. A router counts it
from when it has first read that change, so that no delay is shorter at any of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from milena_common.api.errors import FailedPrecondition
from milena_common.api.pb import ring_state_pb2 as pb
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_runs import Run
from milena_router.ring.joining import joining, lasting, member_request
from milena_router.ring.known_ring import copies_of
from milena_router.ring.losses.releases import Loss
from milena_router.ring.recovery import Lease
from milena_router.ring.shared_state import MemberState, SharedState
from milena_router.ring.watch_streams import Published, short_update

# Increased when a router that does not know the newest fields must not change the state.
FORMAT = 1
_PLANNING = ("planning",)


class _Delay(NamedTuple):
    seconds: float
    begun_by: bytes
    expires_at: float


class StateMessages:
    """Converts states, for one router, whose clock the times in them are of."""

    def __init__(self) -> None:
        self._delays: dict[Hashable, _Delay] = {}

    def to_bytes(self, state: SharedState, write_id: bytes, now: float) -> bytes:
        """Return the message of `state`, as the change `write_id`."""
        message = pb.RingState(
            format=FORMAT, write_id=write_id, recovering=state.recovering, longest_lease=state.promise_seconds
        )
        published = Published(state.ring, state.default_bucket, state.cluster_id, 0, state.missing)
        message.ring.CopyFrom(short_update(published, None, RUNS | MOVES | COPIES))
        for member in state.members:
            message.members.add(
                request=member_request(_lease(member)),
                replaced_id=member.replaced_id,
                member_epoch=member.member_epoch,
            )
        delays: dict[Hashable, _Delay] = {}

        def delay(name: Hashable, expires_at: float) -> pb.Delay:
            known = self._delays.get(name)
            if known is None or known.expires_at != expires_at:
                known = _Delay(max(0.0, expires_at - now), write_id, expires_at)
            delays[name] = known
            return pb.Delay(seconds=known.seconds, begun_by=known.begun_by)

        for name, loss in _named(state.losses):
            message.losses.add(
                address=loss.address,
                node_id=loss.node_id,
                journal_id=loss.journal_id,
                epoch=loss.epoch,
                over=delay(name, loss.over_at),
                awaited=sorted(loss.awaited),
                needs_witness=loss.witnesses is not None,
                witnesses=sorted(loss.witnesses or ()),
                acknowledge=loss.acknowledge,
                witnessed=loss.witnessed,
            )
        message.planning.CopyFrom(delay(_PLANNING, state.plan_at))
        for (owner, destination), times in sorted(state.abandoned.items()):
            message.abandoned.add(owner=owner, destination=destination, times=times)
        self._delays = delays
        return message.SerializeToString()

    def from_bytes(self, data: bytes, now: float) -> tuple[SharedState, bytes]:
        """Return the state, and the id of the change that made it.

        Raises FailedPrecondition if a newer version of Milena made it, or it is no state.
        """
        try:
            message = pb.RingState.FromString(data)
        except DecodeError as error:
            raise FailedPrecondition(f"the state of the ring in etcd cannot be read: {error}") from None
        if not 0 < message.format <= FORMAT:
            raise FailedPrecondition(
                f"the state of the ring in etcd has format {message.format}, and this router knows 1 to {FORMAT}: "
                "a newer version of Milena has changed it; upgrade this router"
            )
        delays: dict[Hashable, _Delay] = {}

        def expires_at(name: Hashable, delay: pb.Delay) -> float:
            known = self._delays.get(name)
            if known is None or (known.seconds, known.begun_by) != (delay.seconds, delay.begun_by):
                known = _Delay(delay.seconds, delay.begun_by, now + delay.seconds)
            delays[name] = known
            return known.expires_at

        try:
            members = tuple(map(_member, message.members))
            ring = _ring(message, members)
        except ValueError as error:
            raise FailedPrecondition(f"the state of the ring in etcd is not valid: {error}") from None
        losses = [_loss(each) for each in message.losses]
        for (name, loss), each in zip(_named(losses), message.losses, strict=True):
            loss.over_at = expires_at(name, each.over)
        state = SharedState(
            ring,
            message.ring.default_bucket,
            message.ring.cluster_id,
            members,
            tuple(map(MissingNode.from_message, message.ring.missing)),
            tuple(losses),
            message.recovering,
            message.longest_lease,
            expires_at(_PLANNING, message.planning),
            {(each.owner, each.destination): each.times for each in message.abandoned},
        )
        self._delays = delays
        return state, message.write_id


def _named(losses: Sequence[Loss]) -> Iterator[tuple[Hashable, Loss]]:
    """Yield `losses` with a name for each, which no other one of them has."""
    seen: dict[Hashable, int] = {}
    for loss in losses:
        key = (loss.address, loss.node_id, loss.epoch)
        seen[key] = seen.get(key, 0) + 1
        yield (*key, seen[key]), loss


def _lease(state: MemberState) -> Lease:
    return Lease(
        state.member,
        0.0,
        0.0,
        default_bucket=state.default_bucket,
        cluster_id=state.cluster_id,
        ring_status=state.status,
        acknowledged=state.acknowledged,
    )


def _member(message: pb.MemberState) -> MemberState:
    reported = joining(message.request, 0.0)
    return MemberState(
        reported.member,
        lasting(reported.status),
        message.replaced_id,
        message.request.default_bucket,
        message.request.cluster_id,
        message.member_epoch,
        message.request.acknowledged_epoch,
    )


def _loss(message: pb.LossState) -> Loss:
    return Loss(
        message.address,
        message.node_id,
        message.journal_id,
        message.epoch,
        0.0,
        {*message.awaited},
        {*message.witnesses} if message.needs_witness else None,
        message.acknowledge,
        message.witnessed,
    )


def _ring(message: pb.RingState, members: Sequence[MemberState]) -> Ring:
    by_address = {each.member.address: each.member for each in members}
    slot_map = SlotMap.from_update(message.ring)
    ranges = ((first, last, node.address, since) for first, last, node, since in slot_map.ranges)
    pending = (Run(first, last, node.address, since) for first, last, node, since in slot_map.pending)
    found = [by_address.get(node.address) or Member(node.address, node.node_id) for node in slot_map.nodes]
    return Ring.restored(message.ring.epoch, found, ranges, pending, copies_of(slot_map))
