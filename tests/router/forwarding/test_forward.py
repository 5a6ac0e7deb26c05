"""Forwarding: to the owner, within the deadline, a read twice if need be and a write once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from milena_common.api.errors import InvalidRequest, MilenaError, NodeLost, NodeUnreachable, NoNodes, WrongNode
from milena_common.cluster.slot_assignment import Member
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.topology import LEAVE_GRACE_SECONDS
from milena_common.resp.identity import Identity
from milena_common.runtime.deadlines import inner
from milena_router.forwarding.forward import WARN_AGAIN_SECONDS, Forwarder
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Membership
from tests.router.fake_nodes import FakeNodes
from tests.support.fake_clock import FakeClock

LEASE = 5.0
KEY = b"photos/1.jpg"


class Harness:
    """A forwarder over fake nodes; `owner` and `other` are the ring's two, by whose KEY is."""

    def __init__(self, *addresses: str) -> None:
        self.clock = FakeClock()
        self.nodes = FakeNodes(self.clock, str.encode)
        membership = Membership(LEASE, self.clock.now())
        self.forwarder = Forwarder(membership, self.nodes.connect, self.clock)
        self.leases = Leases(membership, self.clock, self.forwarder.member_changed)
        for address in addresses:
            self.leases.join(Member(address), "b", 0)

    @property
    def owner(self) -> str:
        return self.leases.ring.find(KEY).address

    @property
    def other(self) -> str:
        (other,) = {member.address for member in self.leases.ring.members} - {self.owner}
        return other

    async def only_renews(self, address: str) -> None:
        """Live through more than a lease, in which the node at `address` renews its lease and no other does."""
        expiry = asyncio.create_task(self.leases.run())
        for _ in range(6):
            await self.clock.advance(1)
            self.leases.join(Member(address), "b", 0)
        expiry.cancel()

    def send(
        self, *, read: bool = True, timeout: float = 5.0, build: Callable[[int], bytes] = lambda _: b"request"
    ) -> asyncio.Task[bytes]:
        if read:
            return asyncio.create_task(self.forwarder.read_at_owner("Get", KEY, build, timeout))
        return asyncio.create_task(self.forwarder.write_at_owner("Put", KEY, build, b"forget it", timeout))

    def move(self) -> None:
        """Let nodes join until another one owns KEY."""
        before, number = self.owner, 0
        while self.owner == before:
            number += 1
            self.leases.join(Member(f"newcomer:{number}"), "b", 0)


@pytest.fixture
async def harness() -> Harness:
    return Harness("a:1", "b:1")


async def test_a_request_goes_to_the_owner_and_its_reply_comes_back(harness: Harness) -> None:
    harness.nodes[harness.owner].reply = b"value"
    assert await harness.send() == b"value"
    ((method, request, timeout),) = harness.nodes[harness.owner].calls
    assert (method, request) == ("Get", b"request")
    assert timeout == pytest.approx(inner(5))
    assert harness.nodes[harness.other].calls == []


async def test_it_says_since_when_the_owner_has_the_slot(harness: Harness) -> None:
    await harness.send(build=b"%d".__mod__)
    assert harness.nodes[harness.owner].requests == [b"%d" % harness.leases.ring.find(KEY).owned_since]


async def test_a_connection_is_kept(harness: Harness) -> None:
    await harness.send()
    await harness.send()
    assert len(harness.nodes.connections) == 1


async def test_a_connection_is_made_with_the_addresses_of_the_nodes_other_doors() -> None:
    harness = Harness()
    harness.leases.join(Member("a:1", addresses={"resp": "a:6379"}), "b", 0)
    await harness.send()
    assert harness.nodes.doors == {"a:1": {"resp": "a:6379"}}


async def test_without_nodes_it_says_so_and_what_to_do() -> None:
    with pytest.raises(NoNodes, match=rf"no node in the ring \(slot {slot_of(KEY)}\).*ROUTER_ADDR.*'Join'"):
        await Harness().send()


# ---- keys that move while they are written


async def test_a_write_whose_key_moved_meanwhile_is_invalidated_at_its_new_owner(harness: Harness) -> None:
    """The new owner may have read S3 before the write arrived there, and would return the old value afterwards."""

    def move_and_reply(method: str, request: bytes) -> bytes:
        harness.move()
        return b"written"

    first = harness.owner
    harness.nodes[first].reply = move_and_reply
    assert await harness.send(read=False) == b"written"
    assert harness.nodes[harness.owner].calls[0][:2] == ("Invalidate", b"forget it")
    assert len(harness.nodes[first].calls) == len(harness.nodes[harness.owner].calls) == 1


async def test_a_write_whose_new_owner_cannot_be_notified_is_not_acknowledged(harness: Harness) -> None:
    def move_and_reply(method: str, request: bytes) -> bytes:
        harness.move()
        harness.nodes[harness.owner].reply = NodeLost("cannot be reached")
        return b"written"

    harness.nodes[harness.owner].reply = move_and_reply
    with pytest.raises(NodeLost, match="cannot be reached"):
        await harness.send(read=False)


async def test_a_write_after_which_the_ring_is_empty_sends_no_notification(harness: Harness) -> None:
    def leave_and_reply(method: str, request: bytes) -> bytes:
        for member in harness.leases.ring.members:
            harness.leases.leave(member.address)
        return b"written"

    harness.nodes[harness.owner].reply = leave_and_reply
    assert await harness.send(read=False) == b"written"


async def test_a_write_whose_key_did_not_move_sends_no_notification(harness: Harness) -> None:
    def change_and_reply(method: str, request: bytes) -> bytes:
        harness.leases.leave(harness.other)
        return b"written"

    harness.nodes[harness.owner].reply = change_and_reply
    assert await harness.send(read=False) == b"written"
    assert len(harness.nodes[harness.owner].calls) == 1


# ---- lost nodes


async def test_a_lost_node_is_named_with_the_keys_slot(harness: Harness) -> None:
    harness.nodes[harness.owner].reply = NodeLost("cannot be reached: connection refused")
    for read in (True, False):
        with pytest.raises(NodeLost) as lost:
            await harness.send(read=read)
        assert str(lost.value) == (
            f"node {harness.owner}, which owns slot {slot_of(KEY)}, cannot be reached: connection refused"
        )


async def test_a_node_that_was_not_reached_is_distinguished_from_one_that_may_have_done_it(
    harness: Harness,
) -> None:
    for kind in (NodeLost, NodeUnreachable):
        harness.nodes[harness.owner].reply = kind("gone")
        for read in (True, False):
            with pytest.raises(NodeLost) as lost:
                await harness.send(read=read)
            assert type(lost.value) is kind


@pytest.mark.parametrize(("read", "calls"), [(True, 2), (False, 1)])
async def test_a_read_is_sent_once_more_and_a_write_is_not(harness: Harness, read: bool, calls: int) -> None:
    harness.nodes[harness.owner].reply = NodeLost("gone")
    with pytest.raises(NodeLost):
        await harness.send(read=read)
    assert len(harness.nodes[harness.owner].calls) == calls


@pytest.mark.parametrize("read", [True, False])
async def test_an_error_of_the_node_is_not_repeated(harness: Harness, read: bool) -> None:
    rejection = InvalidRequest("key: no")
    harness.nodes[harness.owner].reply = rejection
    with pytest.raises(InvalidRequest) as raised:
        await harness.send(read=read)
    assert raised.value is rejection
    assert len(harness.nodes[harness.owner].calls) == 1


async def test_the_second_time_goes_by_the_newest_ring(harness: Harness) -> None:
    owner, other = harness.owner, harness.other
    old_since = harness.leases.ring.find(KEY).owned_since

    def leave_and_reject(_: str, __: bytes) -> bytes:
        harness.leases.leave(owner)
        raise NodeLost("gone")

    harness.nodes[owner].reply = leave_and_reject
    harness.nodes[other].reply = b"from the new owner"
    assert await harness.send(build=b"%d".__mod__) == b"from the new owner"
    assert harness.nodes[owner].requests == [b"%d" % old_since]
    assert harness.nodes[other].requests == [b"%d" % harness.leases.ring.epoch]


async def test_a_read_whose_last_node_left_meanwhile_learns_that_there_is_none() -> None:
    harness = Harness("a:1")

    def leave_and_reject(_: str, __: bytes) -> bytes:
        harness.leases.leave("a:1")
        raise NodeLost("gone")

    harness.nodes["a:1"].reply = leave_and_reject
    with pytest.raises(NoNodes):
        await harness.send()


# ---- deadlines


@pytest.mark.parametrize("read", [True, False])
async def test_a_silent_node_does_not_make_the_caller_wait_past_its_deadline(harness: Harness, read: bool) -> None:
    harness.nodes[harness.owner].reply = None
    call = harness.send(read=read, timeout=2.0)
    await harness.clock.advance(inner(2.0) - 0.01)
    assert not call.done()
    await harness.clock.advance(0.02)
    with pytest.raises(NodeLost, match=r"did not respond within 1\.8 s"):
        call.result()
    assert len(harness.nodes[harness.owner].calls) == 1, "no time is left to ask again"


async def test_the_second_attempt_gets_what_the_first_left(harness: Harness) -> None:
    def late_rejection(_: str, __: bytes) -> bytes:
        harness.clock.tick(1.0)
        raise NodeLost("gone")

    harness.nodes[harness.owner].reply = late_rejection
    with pytest.raises(NodeLost):
        await harness.send(timeout=2.0)
    assert [timeout for _, _, timeout in harness.nodes[harness.owner].calls] == pytest.approx([1.8, 0.8])


@pytest.mark.parametrize("timeout", [0.0, -3.0, 0.01])
async def test_a_caller_without_remaining_time_gets_an_error(harness: Harness, timeout: float) -> None:
    harness.nodes[harness.owner].reply = None
    call = harness.send(timeout=timeout)
    await harness.clock.advance(0.1)
    with pytest.raises(NodeLost):
        call.result()


# ---- the ring changing under calls


async def test_when_a_lease_ends_waiting_reads_go_to_the_new_owner(harness: Harness) -> None:
    owner, other = harness.owner, harness.other
    harness.nodes[owner].reply = None
    call = harness.send(timeout=60.0)
    await harness.only_renews(other)
    assert harness.nodes.connections[0][1].closed_with == 0
    assert await call == other.encode()


async def test_when_a_lease_ends_waiting_writes_fail_at_once(harness: Harness) -> None:
    owner, other = harness.owner, harness.other
    harness.nodes[owner].reply = None
    call = harness.send(read=False, timeout=60.0)
    await harness.only_renews(other)
    with pytest.raises(NodeLost, match=f"node {owner}, .* left the ring during the call"):
        call.result()
    assert harness.nodes[other].calls == []


async def test_a_node_that_leaves_may_finish_what_it_has(harness: Harness) -> None:
    owner = harness.owner
    harness.nodes[owner].reply = None
    call = harness.send(timeout=60.0)
    await harness.clock.advance(1)
    harness.leases.leave(owner)
    await harness.clock.advance(LEAVE_GRACE_SECONDS - 1)
    assert harness.nodes.connections[0][1].closed_with == LEAVE_GRACE_SECONDS
    assert not call.done()
    await harness.clock.advance(2)
    assert await call == harness.owner.encode(), "then it is a read that lost its node"


async def test_a_node_that_comes_back_gets_a_new_connection(harness: Harness) -> None:
    owner = harness.owner
    await harness.send()
    harness.leases.leave(owner)
    harness.leases.join(Member(owner), "b", 0)
    await harness.send()
    assert [address for address, _ in harness.nodes.connections] == [owner, owner]


async def test_a_restarted_node_gets_a_new_connection(harness: Harness) -> None:
    owner = harness.owner
    await harness.send()
    harness.leases.join(Member(owner, node_id="new"), "b", 0)
    await harness.send()
    assert len(harness.nodes.connections) == 2


async def test_a_node_that_cannot_be_called_is_a_warning_once_a_minute(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.nodes[harness.owner].reply = NodeLost("cannot be reached")
    for expected in (1, 1):
        with pytest.raises(NodeLost):
            await harness.send()
        assert len(caplog.records) == expected
    harness.clock.tick(WARN_AGAIN_SECONDS)
    with pytest.raises(NodeLost):
        await harness.send()
    assert caplog.messages == [f"node {harness.owner} is in the ring, and cannot be reached"] * 2


async def test_closing_closes_every_connection(harness: Harness) -> None:
    await harness.send()
    await harness.forwarder.request(harness.other, "Stats", b"", 1)
    harness.leases.leave(harness.other)
    closing = asyncio.create_task(harness.forwarder.close())
    await harness.clock.advance(LEAVE_GRACE_SECONDS)
    await closing
    assert {connection.closed_with for _, connection in harness.nodes.connections} == {0, LEAVE_GRACE_SECONDS}


async def test_a_cancelled_caller_gets_no_error_as_reply(harness: Harness) -> None:
    harness.nodes[harness.owner].reply = None
    call = harness.send()
    await harness.clock.advance(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(harness.nodes[harness.owner].calls) == 1


async def test_request_passes_on_the_reply_of_the_node(harness: Harness) -> None:
    assert await harness.forwarder.request("b:1", "Stats", b"q", 3) == b"b:1"
    assert harness.nodes["b:1"].calls == [("Stats", b"q", 3)]
    harness.nodes["b:1"].reply = NodeLost("gone")
    with pytest.raises(MilenaError, match="gone"):
        await harness.forwarder.request("b:1", "Stats", b"q", 3)


async def test_a_connection_is_for_the_process_that_the_ring_has(harness: Harness) -> None:
    await harness.send()
    assert harness.nodes.identities[harness.owner] == Identity("", "b", "")


async def test_a_restarted_node_is_waited_for_until_it_has_joined(harness: Harness) -> None:
    """It rejects what is meant for the process before it; nothing was done, so a write waits as a read does."""
    owner = harness.owner
    harness.nodes[owner].reply = WrongNode("is another process")
    reading, writing = harness.send(), harness.send(read=False)
    await harness.clock.advance(0.2)
    assert not reading.done()
    harness.nodes[owner].reply = b"ok"
    harness.leases.join(Member(owner, "new id"), "b", 0)
    await harness.clock.advance(0.2)
    assert (await reading, await writing) == (b"ok", b"ok")
    assert harness.nodes.identities[owner].node_id == "new id"


async def test_another_node_at_the_address_is_named_when_it_stays(harness: Harness) -> None:
    harness.nodes[harness.owner].reply = WrongNode("is another process")
    reading = harness.send()
    await harness.clock.advance(1.5)
    with pytest.raises(WrongNode, match=rf"node {harness.owner}, which owns slot"):
        await reading
