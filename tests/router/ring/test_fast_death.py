"""Processes that have provably ended: what proves it, and what does not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from milena_common.api.errors import NodeLost
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import MOVES, RUNS
from milena_common.cluster.slot_assignment import Member
from milena_common.network.connecting import rejects_connections
from milena_common.network.exited import PAUSE_SECONDS
from milena_router.ring.fast_death import BETWEEN_SECONDS, TRIES, FastDeath, members_confirm, ports_reject
from milena_router.ring.leases import Leases
from milena_router.ring.membership import EXITED, Change, Membership
from milena_router.ring.ring_status import RingStatus
from tests.router.router_under_test import running_router
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.waiting import eventually

A, B = (Member(f"{name}:1", f"id-{name}", addresses={"resp": f"{name}:2"}) for name in "ab")


class Harness:
    """Members A and B; `refusing` are the ports that refuse connections."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.changes: list[Change] = []
        self.refusing: set[str] = set()
        self.tried: list[str] = []
        self.leases = Leases(Membership(5.0, self.clock.now()), self.clock, self.changes.append)
        # What other members reply, by address: True: the process has ended; those that are not here do not reply.
        self.replies = {"a:1": True, "b:1": True}
        self.calls: list[tuple[str, cache_pb.CheckMemberRequest]] = []
        proofs = [ports_reject(self.rejects_connections, self.clock), members_confirm(self.leases, self.call)]
        self.fast_death = FastDeath(self.leases, proofs)
        for member in (A, B):
            self.join(member)

    def join(self, member: Member, *, moves: bool = True) -> None:
        self.leases.join(member, "b", 0, status=RingStatus(moves))

    async def call(self, address: str, method: str, request: bytes, timeout: float) -> bytes:
        assert (method, timeout < 1) == ("CheckMember", True)
        self.calls.append((address, cache_pb.CheckMemberRequest.FromString(request)))
        if address not in self.replies:
            raise NodeLost("did not respond")
        return cache_pb.CheckMemberResponse(exited=self.replies[address]).SerializeToString()

    async def rejects_connections(self, address: str, timeout: float) -> bool:
        self.tried.append(address)
        return address in self.refusing

    @property
    def members(self) -> list[str]:
        return [member.address for member in self.leases.ring.members]


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    made = Harness()
    yield made
    await made.fast_death.close()


async def test_a_process_whose_ports_all_reject_twice_is_replaced_at_once_and_released(harness: Harness) -> None:
    harness.refusing = {"b:1", "b:2"}
    harness.fast_death.stream_closed(B.address, B.node_id)
    await run_ready_tasks()
    assert harness.members == ["a:1", "b:1"], "once is not enough"
    await harness.clock.advance(PAUSE_SECONDS)
    assert harness.members == ["a:1"]
    assert harness.changes[-1].reason == EXITED
    assert harness.leases.membership.released_epoch == harness.leases.ring.epoch
    assert [node.address for node in harness.leases.membership.missing.all()] == ["b:1"]


@pytest.mark.parametrize("refusing", [{"b:1"}, {"b:2"}, set()])
async def test_a_port_that_does_not_reject_is_no_proof(harness: Harness, refusing: set[str]) -> None:
    harness.refusing = refusing
    harness.fast_death.stream_closed(B.address, B.node_id)
    await harness.clock.advance(1)
    assert harness.members == ["a:1", "b:1"]
    assert sorted(harness.tried) == ["b:1"] * TRIES + ["b:2"] * TRIES


async def test_ports_that_close_after_the_stream_are_tried_again(harness: Harness) -> None:
    """Interleaving: (1) a process is killed; (2) its stream breaks; (3) the kernel closes its listening sockets."""
    harness.fast_death.stream_closed(B.address, B.node_id)
    await run_ready_tasks()
    harness.refusing = {"b:1", "b:2"}
    await harness.clock.advance(BETWEEN_SECONDS + PAUSE_SECONDS)
    assert harness.members == ["a:1"]


async def test_another_process_at_the_address_is_not_removed(harness: Harness) -> None:
    harness.refusing = {"b:1", "b:2"}
    harness.fast_death.stream_closed(B.address, B.node_id)
    await run_ready_tasks()
    harness.join(Member(B.address, "another", addresses=B.addresses))
    await harness.clock.advance(1)
    assert harness.members == ["a:1", "b:1"]


async def test_the_stream_of_a_process_that_is_no_member_is_ignored(harness: Harness) -> None:
    for address, node_id in ((B.address, "another"), (B.address, ""), ("c:1", "id-c")):
        harness.fast_death.stream_closed(address, node_id)
    older = Member(B.address, "older", addresses=B.addresses)
    harness.join(older, moves=False)
    harness.fast_death.stream_closed(older.address, older.node_id)
    await harness.clock.advance(1)
    assert harness.tried == [], "a node of the version before closes its ports first"


async def test_a_stream_that_breaks_again_is_checked_once(harness: Harness) -> None:
    harness.refusing = {"b:1", "b:2"}
    for _ in range(3):
        harness.fast_death.stream_closed(B.address, B.node_id)
    await harness.clock.advance(1)
    assert len(harness.tried) == 4


async def test_all_proofs_must_agree(harness: Harness) -> None:
    async def denies(_: Member) -> bool:
        return False

    harness.refusing = {"b:1", "b:2"}
    strict = FastDeath(harness.leases, [ports_reject(harness.rejects_connections, harness.clock), denies])
    strict.stream_closed(B.address, B.node_id)
    await harness.clock.advance(1)
    assert harness.members == ["a:1", "b:1"]


C, D, E = (Member(f"{name}:1", f"id-{name}", addresses={"resp": f"{name}:2"}) for name in "cde")


async def test_another_member_must_confirm_that_the_process_has_exited(harness: Harness) -> None:
    harness.refusing, harness.replies = {"b:1", "b:2"}, {"a:1": False}
    harness.fast_death.stream_closed(B.address, B.node_id)
    await harness.clock.advance(1)
    assert harness.members == ["a:1", "b:1"]
    ((address, request),) = harness.calls
    assert (address, request.address, request.node_id) == ("a:1", B.address, B.node_id)


@pytest.mark.parametrize(
    ("replies", "removed"),
    [
        ({"a:1": True, "c:1": True, "d:1": True}, True),
        ({"c:1": True}, True),
        ({"c:1": True, "d:1": False}, False),
        ({}, False),
    ],
)
async def test_one_member_confirms_and_none_that_replies_disagrees(
    harness: Harness, replies: dict[str, bool], removed: bool
) -> None:
    harness.join(C)
    harness.join(D)
    harness.refusing, harness.replies = {"b:1", "b:2"}, replies
    harness.fast_death.stream_closed(B.address, B.node_id)
    await harness.clock.advance(1)
    assert ("b:1" not in harness.members) is removed


async def test_the_members_that_were_heard_last_are_called(harness: Harness) -> None:
    for member in (C, D, E):
        harness.join(member)
    await harness.clock.advance(1)
    for member in (A, D, E):
        harness.join(member)
    harness.refusing = {"b:1", "b:2"}
    harness.fast_death.stream_closed(B.address, B.node_id)
    await harness.clock.advance(1)
    assert sorted(address for address, _ in harness.calls) == ["a:1", "d:1", "e:1"]


async def test_a_ring_without_other_members_needs_no_confirmation(harness: Harness) -> None:
    harness.leases.leave(A.address, A.node_id)
    harness.refusing = {"b:1", "b:2"}
    harness.fast_death.stream_closed(B.address, B.node_id)
    await harness.clock.advance(1)
    assert harness.members == []
    assert harness.calls == []


async def test_the_end_of_a_renewal_stream_is_noticed() -> None:
    async with running_router() as router:
        stream = router.stub.KeepLease()
        request = pb.JoinRequest(
            address=A.address, node_id=A.node_id, features=RUNS | MOVES, addresses=dict(A.addresses)
        )
        await stream.write(request)
        await stream.read()
        assert len(router.leases.ring.members) == 1
        router.refusing = {"a:1", "a:2"}
        stream.cancel()
        await eventually(lambda: router.clock.sleeping > 0)
        await router.clock.advance(PAUSE_SECONDS)
        assert router.leases.ring.members == ()


async def test_ports_are_tried() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert await rejects_connections(address, 5.0), "bound, and not listening"
        listening.listen()
        assert not await rejects_connections(address, 5.0)
    assert await rejects_connections(address, 5.0)
    assert not await rejects_connections("no-such-host.invalid:1", 5.0)
    assert not await rejects_connections(address, 0.0)
