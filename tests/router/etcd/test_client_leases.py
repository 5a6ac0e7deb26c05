"""How leases of a real etcd behave: the reasons why the routers' leases are keys, and not these."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from time import sleep
from typing import Any

import grpc
import pytest

from milena_common.api.pb import etcd_pb2 as pb
from milena_common.runtime.clock import SystemClock
from milena_router.etcd.client import EtcdClient
from milena_router.etcd.security import EtcdSecurity
from tests.support.etcd_server import EtcdCluster, needs_etcd, running_etcd

pytestmark = needs_etcd
SECONDS = 5.0


class Leases:
    """Calls of etcd's API for leases."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def _call(self, method: str, request: Any, response: Any) -> Any:
        call = self._channel.unary_unary(
            f"/etcdserverpb.Lease/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await call(request, timeout=SECONDS, wait_for_ready=True)

    async def grant(self, seconds: int) -> pb.LeaseGrantResponse:
        granted: pb.LeaseGrantResponse = await self._call(
            "LeaseGrant", pb.LeaseGrantRequest(TTL=seconds), pb.LeaseGrantResponse
        )
        return granted

    async def revoke(self, lease: int) -> None:
        await self._call("LeaseRevoke", pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse)

    async def seconds_left(self, lease: int) -> int:
        request = pb.LeaseTimeToLiveRequest(ID=lease)
        response = await self._call("LeaseTimeToLive", request, pb.LeaseTimeToLiveResponse)
        return int(response.TTL)

    async def keep_alive(self, lease: int) -> int:
        """Return the seconds that the lease has then."""
        stream = self._channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=pb.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=pb.LeaseKeepAliveResponse.FromString,
        )(timeout=SECONDS)
        await stream.write(pb.LeaseKeepAliveRequest(ID=lease))
        response: Any = await stream.read()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        return int(response.TTL)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
async def leases(etcd: EtcdCluster) -> AsyncIterator[Leases]:
    async with grpc.aio.insecure_channel(str(etcd.endpoints[0])) as channel:
        yield Leases(channel)


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(etcd.endpoints, EtcdSecurity(), SystemClock())
    yield client
    await client.close()


async def put(client: EtcdClient, key: bytes, lease: int) -> int:
    operation = pb.RequestOp(request_put=pb.PutRequest(key=key, value=b"1", lease=lease))
    return (await client.txn(pb.TxnRequest(success=[operation]), SECONDS)).header.revision


@pytest.mark.parametrize("seconds", [-1, 0, 1, 2])
async def test_no_lease_is_shorter_than_two_seconds(leases: Leases, seconds: int) -> None:
    assert (await leases.grant(seconds)).TTL == 2


async def test_a_renewal_of_an_unknown_or_ended_lease_is_no_error_and_grants_0_seconds(leases: Leases) -> None:
    assert await leases.keep_alive(123456) == 0
    lease = (await leases.grant(30)).ID
    assert await leases.keep_alive(lease) == 30
    await leases.revoke(lease)
    assert await leases.keep_alive(lease) == 0
    assert await leases.seconds_left(lease) == -1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await leases.revoke(lease)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_key_that_is_written_without_its_lease_outlives_it(leases: Leases, client: EtcdClient) -> None:
    lease = (await leases.grant(30)).ID
    await put(client, b"kept", lease)
    await put(client, b"kept", 0)
    await leases.revoke(lease)
    assert (await client.range(pb.RangeRequest(key=b"kept"), SECONDS)).kvs


async def test_the_keys_of_a_lease_end_in_one_revision(leases: Leases, client: EtcdClient) -> None:
    lease = (await leases.grant(30)).ID
    for key in (b"end/c", b"end/a", b"end/b"):
        last = await put(client, key, lease)
    await leases.revoke(lease)
    async for changes in client.watch(b"end/", b"end0", last + 1):
        if changes.events:
            found = [(event.kv.key, event.kv.mod_revision) for event in changes.events]
            assert found == [(key, last + 1) for key in (b"end/a", b"end/b", b"end/c")]
            assert all(event.type == pb.Event.DELETE for event in changes.events)
            break


async def test_a_restart_makes_leases_as_long_as_at_their_beginning(leases: Leases, etcd: EtcdCluster) -> None:
    """So does a change of leaders: a node that is gone would keep its slots for up to twice its lease."""
    lease = (await leases.grant(60)).ID
    left = 60
    while left >= 59:
        left = await leases.seconds_left(lease)
        await asyncio.to_thread(sleep, 0.1)
    etcd.members[0].restart()
    assert await leases.seconds_left(lease) >= 59
