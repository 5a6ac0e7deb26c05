"""Jobs on all objects below a prefix, as an operator's program runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from milena_client.admin import Admin, AsyncAdmin, Swept, Warmed
from milena_client.core.jobs import (
    IDLE_SECONDS,
    MAX_FAILED,
    MAX_IDLE_CALLS,
    MAX_NO_ROOM,
    SWEEP_AT_ONCE,
    WARM_AT_ONCE,
    WarmJob,
)
from milena_client.core.operations import Page
from milena_client.testing import FakeClock
from milena_common.api.errors import InvalidRequest, NodeLost, Overloaded
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.runtime.clock import Clock


class Nodes:
    """The replies of a router: `sweep` and `warm` return those to the requests, which are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self.objects = [pb.ObjectInfo(key=key.encode(), size=10) for key in keys]
        self.page = 1000
        self.requests: list[Any] = []
        self.sweep: Callable[[pb.SweepRequest], pb.SweepResponse] = lambda _: pb.SweepResponse(done=True)
        self.warm: Callable[[pb.WarmRequest], pb.WarmResponse] = lambda request: pb.WarmResponse(
            warmed=len(request.keys), value_bytes=10 * len(request.keys)
        )

    def call(self, method: str, request: Any, timeout: float) -> Any:
        self.requests.append(request)
        if isinstance(request, pb.ListRequest):
            first = int(request.cursor or 0)
            last = first + self.page
            return pb.ListResponse(
                objects=self.objects[first:last], cursor=str(last) if last < len(self.objects) else ""
            )
        if isinstance(request, pb.SweepRequest):
            return pb.SweepResponse() if request.end else self.sweep(request)
        return self.warm(request)

    def close(self) -> None:
        """Nothing is open."""

    def of(self, kind: type) -> list[Any]:
        return [request for request in self.requests if isinstance(request, kind)]


def admin(nodes: Nodes, clock: FakeClock | None = None) -> Admin:
    transport: Any = nodes
    return Admin(transport=transport, clock=clock or FakeClock())


def parts(*changed: int) -> Callable[[pb.SweepRequest], pb.SweepResponse]:
    """The replies of a job that has changed so many entries after each part."""
    left = list(changed)

    def reply(_: pb.SweepRequest) -> pb.SweepResponse:
        number = left.pop(0)
        return pb.SweepResponse(done=not left, changed=number, examined=number, entries=changed[-1])

    return reply


def test_a_sweep_is_called_until_it_is_done_and_then_ended() -> None:
    nodes = Nodes()
    nodes.sweep = parts(10, 20, 30)
    done = list(admin(nodes).purge("logs/"))
    assert [each.changed for each in done] == [10, 20, 30]
    assert [each.done for each in done] == [False, False, True]
    *calls, end = nodes.requests
    assert len({call.job for call in nodes.requests}) == 1
    assert {(call.action, call.prefix, call.limit) for call in calls} == {("purge", b"logs/", SWEEP_AT_ONCE)}
    assert (end.end, end.action) == (True, "")


def test_each_job_has_a_name_of_its_own_and_its_action() -> None:
    nodes = Nodes()
    for _ in range(2):
        list(admin(nodes).invalidate(b"\xc3\xa9", dry_run=True))
    first, _, second, _ = nodes.requests
    assert first.job != second.job
    assert (first.action, first.prefix, first.dry_run) == ("invalidate", "é".encode(), True)


def test_the_parts_of_each_node_are_known() -> None:
    nodes = Nodes()
    part = pb.NodeSweep(address="a:1", done=True, changed=2, bytes=3, dirty=1, examined=4, entries=5)
    nodes.sweep = lambda _: pb.SweepResponse(
        done=True, changed=2, bytes=3, dirty=1, examined=4, entries=5, nodes=[part]
    )
    (done,) = admin(nodes).purge("")
    assert done == Swept(True, 4, 5, 2, 3, 1, {"a:1": Swept(True, 4, 5, 2, 3, 1)})


def test_a_sweep_keeps_to_its_rate() -> None:
    nodes, clock = Nodes(), FakeClock()
    nodes.sweep = parts(50, 100, 130)
    times = [clock.now() for _ in admin(nodes, clock).purge("logs/", rate=50)]
    assert times == [0, 1, 2]
    assert nodes.requests[0].limit == 50


def test_a_dry_run_needs_no_rate() -> None:
    nodes, clock = Nodes(), FakeClock()
    nodes.sweep = parts(50, 100)
    list(admin(nodes, clock).purge("logs/", rate=1, dry_run=True))
    assert clock.now() == 0


def test_a_sweep_that_is_not_iterated_to_its_end_is_ended() -> None:
    nodes = Nodes()
    nodes.sweep = parts(10, 20, 30)
    job: Any = admin(nodes).purge("logs/")
    next(job)
    job.close()
    assert [request.end for request in nodes.requests] == [False, True]


def test_a_sweep_that_fails_is_ended_and_an_end_that_fails_hides_nothing() -> None:
    nodes = Nodes()

    def fail(_: pb.SweepRequest) -> pb.SweepResponse:
        raise InvalidRequest("no")

    nodes.sweep = fail
    with pytest.raises(InvalidRequest, match="no"):
        list(admin(nodes).purge("logs/"))
    assert nodes.requests[-1].end
    call = nodes.call

    def lost(method: str, request: Any, timeout: float) -> Any:
        if request.end:
            raise NodeLost("gone")
        return call(method, request, timeout)

    nodes.call = lost  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest, match="no"):
        list(admin(nodes).purge("logs/"))


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_is_more_than_nothing(rate: float) -> None:
    with pytest.raises(InvalidRequest, match="rate"):
        admin(Nodes()).purge("", rate=rate)
    with pytest.raises(InvalidRequest, match="rate"):
        admin(Nodes()).warm("", rate=rate)


def test_warming_lists_pages_and_requests_their_keys() -> None:
    keys = [f"k{number}" for number in range(WARM_AT_ONCE * 3)]
    nodes = Nodes(keys)
    *_, done = admin(nodes).warm("k")
    assert done == Warmed(done=True, listed=len(keys), warmed=len(keys), bytes=10 * len(keys))
    assert [key for request in nodes.of(pb.WarmRequest) for key in request.keys] == [key.encode() for key in keys]
    assert all([*request.sizes] == [10] * len(request.keys) for request in nodes.of(pb.WarmRequest))
    assert len(nodes.of(pb.ListRequest)) == 2
    assert nodes.of(pb.ListRequest)[0].prefix == b"k"


def test_warming_a_prefix_without_objects_is_done() -> None:
    assert list(admin(Nodes()).warm("none/")) == [Warmed(done=True)]


def test_an_empty_page_is_not_the_end() -> None:
    job = WarmJob("k", "", None, 0.0, dry_run=False)
    job.listed(Page([], [], "next"))
    assert not job.progress.done
    listing = job.listing()
    assert listing is not None
    assert listing.request.cursor == "next"  # type: ignore[attr-defined]


def test_keys_that_are_left_are_requested_again_first() -> None:
    nodes, clock = Nodes(f"k{number}" for number in range(WARM_AT_ONCE + 1)), FakeClock()
    tries = 0

    def warm(request: pb.WarmRequest) -> pb.WarmResponse:
        nonlocal tries
        tries += 1
        if tries == 1:
            return pb.WarmResponse(warmed=len(request.keys) - 2, left=request.keys[-2:])
        if tries == 2:
            return pb.WarmResponse(left=request.keys)
        return pb.WarmResponse(warmed=len(request.keys))

    nodes.warm = warm
    *_, done = admin(nodes, clock).warm("k")
    assert (done.warmed, done.listed, done.stopped) == (WARM_AT_ONCE + 1, WARM_AT_ONCE + 1, "")
    assert [*nodes.of(pb.WarmRequest)[1].keys] == [b"k498", b"k499", b"k500"]
    assert clock.now() == IDLE_SECONDS, "a pause where nothing could be done"


def test_warming_ends_where_nothing_can_be_done() -> None:
    nodes = Nodes(["k"])
    nodes.warm = lambda request: pb.WarmResponse(left=request.keys)
    *_, done = admin(nodes).warm("k")
    assert done.done
    assert "do nothing" in done.stopped
    assert len(nodes.of(pb.WarmRequest)) == MAX_IDLE_CALLS


def test_warming_ends_where_memory_is_full() -> None:
    nodes = Nodes(f"k{number}" for number in range(10 * MAX_NO_ROOM))
    nodes.warm = lambda request: pb.WarmResponse(no_room=len(request.keys))
    *_, done = admin(nodes).warm("k")
    assert done.stopped == "the memory of the nodes is full"
    assert done.no_room == MAX_NO_ROOM
    assert len(nodes.of(pb.ListRequest)) == 1


def test_warming_goes_on_while_some_have_room() -> None:
    nodes = Nodes(f"k{number}" for number in range(5 * MAX_NO_ROOM))
    nodes.warm = lambda request: pb.WarmResponse(no_room=len(request.keys) - 1, warmed=1)
    *_, done = admin(nodes).warm("k")
    assert (done.stopped, done.listed) == ("", 5 * MAX_NO_ROOM)


def test_warming_ends_where_all_fails() -> None:
    nodes = Nodes(f"k{number}" for number in range(10 * MAX_FAILED))
    nodes.warm = lambda request: pb.WarmResponse(failed=len(request.keys), error="S3: denied")
    *_, done = admin(nodes).warm("k")
    assert (done.stopped, done.error) == ("too many objects in a row could not be read", "S3: denied")
    assert done.failed < 10 * MAX_FAILED


def test_warming_keeps_to_its_rate_of_reads() -> None:
    nodes, clock = Nodes(f"k{number}" for number in range(40)), FakeClock()
    nodes.warm = lambda request: pb.WarmResponse(warmed=len(request.keys) // 2, present=len(request.keys) // 2)
    job = admin(nodes, clock).warm("k", rate=10)
    assert [(clock.now(), progress.warmed) for progress in job] == [(0, 5), (0.5, 10), (1.0, 15), (1.5, 20)]


def test_a_dry_run_of_warming_counts_what_fits_into_each_node() -> None:
    nodes = Nodes(f"k{number}" for number in range(4 * WARM_AT_ONCE))

    def warm(request: pb.WarmRequest) -> pb.WarmResponse:
        assert request.dry_run
        number = len(request.keys)
        room = 100 * (2 * WARM_AT_ONCE + 1)
        node = pb.NodeWarm(
            address="a:1",
            warmed=number,
            value_bytes=10 * number,
            memory_bytes=100 * number,
            room_bytes=room,
            room_entries=10**6,
        )
        return pb.WarmResponse(warmed=number, value_bytes=10 * number, nodes=[node])

    nodes.warm = warm
    *_, done = admin(nodes).warm("k", dry_run=True)
    assert (done.warmed, done.no_room, done.bytes) == (2 * WARM_AT_ONCE, 2 * WARM_AT_ONCE, 20 * WARM_AT_ONCE)
    assert done.nodes == {"a:1": 2 * WARM_AT_ONCE}


async def test_the_admin_client_for_asyncio_does_the_same() -> None:
    nodes = Nodes(["k1", "k2"])
    nodes.sweep = parts(10, 20)

    class Transport:
        async def call(self, method: str, request: Any, timeout: float) -> Any:
            return nodes.call(method, request, timeout)

        async def close(self) -> None:
            """Nothing is open."""

    class NoTime:
        def now(self) -> float:
            return 0.0

        async def sleep(self, seconds: float) -> None:
            """Return at once."""

    transport: Any = Transport()
    clock: Clock = NoTime()  # type: ignore[assignment]
    client = AsyncAdmin(transport=transport, clock=clock)
    assert [each.changed async for each in client.purge("k", rate=5)] == [10, 20]
    assert [each.warmed async for each in client.warm("k", rate=5)] == [2]
    ends = [request.end for request in nodes.of(pb.SweepRequest)]
    assert ends[2] is True


def test_a_busy_node_gets_another_call() -> None:
    nodes = Nodes()
    tries = 0

    def sweep(_: pb.SweepRequest) -> pb.SweepResponse:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Overloaded("8 jobs are in progress")
        return pb.SweepResponse(done=True)

    nodes.sweep = sweep
    assert [each.done for each in admin(nodes).purge("")] == [True]


def test_what_a_job_names_is_checked_when_it_is_made() -> None:
    nodes = Nodes()
    with pytest.raises(InvalidRequest, match="UTF-8"):
        admin(nodes).purge(b"\xff")
    assert not nodes.requests
