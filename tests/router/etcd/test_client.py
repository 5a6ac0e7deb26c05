"""The client for etcd against real ones: endpoints, watches that hang, TLS, passwords, transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from milena_common.api.pb import etcd_pb2 as pb
from milena_common.network.addresses import Address
from milena_common.runtime.clock import SystemClock
from milena_router.etcd.client import SILENCE_SECONDS, Changes, EtcdClient
from milena_router.etcd.errors import Compacted, EtcdError
from milena_router.etcd.security import EtcdSecurity
from tests.support.certificates import make_certificates
from tests.support.etcd_server import EtcdCluster, needs_etcd, running_etcd
from tests.support.ports import ReservedPort

pytestmark = needs_etcd
SECONDS = 5.0
PLAIN = EtcdSecurity()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@asynccontextmanager
async def connected(endpoints: Sequence[Address], security: EtcdSecurity = PLAIN) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(endpoints, security, SystemClock())
    try:
        yield client
    finally:
        await client.close()


async def put(client: EtcdClient, key: bytes, value: bytes) -> int:
    """Return the revision."""
    operation = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))
    return (await client.txn(pb.TxnRequest(success=[operation]), SECONDS)).header.revision


async def read(client: EtcdClient, key: bytes) -> list[bytes]:
    return [kv.value for kv in (await client.range(pb.RangeRequest(key=key), SECONDS)).kvs]


async def value_watched(client: EtcdClient, key: bytes, revision: int) -> bytes:
    """Return the first value that a watch yields."""
    async with aclosing(client.watch(key, b"", revision)) as watched:
        async for changes in watched:
            for event in changes.events:
                return event.kv.value
    raise AssertionError


async def raw(address: Address, path: str, request: object, response: object) -> object:
    """Make a call that the client does not have."""
    async with grpc.aio.insecure_channel(str(address)) as channel:
        method = channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,  # type: ignore[attr-defined]
        )
        return await method(request, timeout=SECONDS)


async def test_a_transaction_takes_effect_only_if_its_comparisons_hold(etcd: EtcdCluster) -> None:
    async with connected(etcd.endpoints) as client:
        revision = await put(client, b"cas", b"1")
        compare = pb.Compare(target=pb.Compare.MOD, key=b"cas", mod_revision=revision)
        operation = pb.RequestOp(request_put=pb.PutRequest(key=b"cas", value=b"2"))
        request = pb.TxnRequest(compare=[compare], success=[operation])
        assert (await client.txn(request, SECONDS)).succeeded
        assert not (await client.txn(request, SECONDS)).succeeded
        assert await read(client, b"cas") == [b"2"]


async def test_an_absent_key_has_revision_0_also_after_its_deletion(etcd: EtcdCluster) -> None:
    async with connected(etcd.endpoints) as client:
        await put(client, b"absent", b"1")
        delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"absent"))
        await client.txn(pb.TxnRequest(success=[delete]), SECONDS)
        compare = pb.Compare(target=pb.Compare.MOD, key=b"absent", mod_revision=0)
        assert (await client.txn(pb.TxnRequest(compare=[compare]), SECONDS)).succeeded


async def test_what_etcd_rejects_is_certainly_not_done_and_costs_no_connection(etcd: EtcdCluster) -> None:
    async with connected(etcd.endpoints) as client:
        twice = [pb.RequestOp(request_put=pb.PutRequest(key=b"twice", value=b"1"))] * 2
        many = [pb.RequestOp(request_put=pb.PutRequest(key=b"%d" % n, value=b"1")) for n in range(129)]
        for operations in (twice, many):
            with pytest.raises(EtcdError, match="INVALID_ARGUMENT") as raised:
                await client.txn(pb.TxnRequest(success=operations), SECONDS)
            assert not raised.value.maybe_done
        assert client.rotations == 0
        with pytest.raises(EtcdError, match="RESOURCE_EXHAUSTED"):
            await put(client, b"large", bytes(2 * 2**20))


async def test_a_watch_yields_changes_from_the_revision_on_in_order(etcd: EtcdCluster) -> None:
    async with connected(etcd.endpoints) as client:
        first = await put(client, b"w/1", b"a")
        await put(client, b"other", b"x")
        second = await put(client, b"w/1", b"b")
        values: list[tuple[bytes, int]] = []
        async with aclosing(client.watch(b"w/", b"w0", first)) as watched:
            async for changes in watched:
                values += [(event.kv.value, event.kv.mod_revision) for event in changes.events]
                if len(values) == 2:
                    await put(client, b"w/2", b"c")
                if len(values) == 3:
                    break
        assert [value for value, _ in values] == [b"a", b"b", b"c"]
        assert [revision for _, revision in values][:2] == [first, second]


async def test_a_watch_of_compacted_revisions_ends_with_the_first_that_is_left(etcd: EtcdCluster) -> None:
    """etcd cancels it with revision 0 on a stream that stays open."""
    async with connected(etcd.endpoints) as client:
        first = await put(client, b"old", b"1")
        last = await put(client, b"old", b"2")
        request = pb.CompactionRequest(revision=last)
        await raw(etcd.endpoints[0], "/etcdserverpb.KV/Compact", request, pb.CompactionResponse)
        with pytest.raises(Compacted) as raised:
            await asyncio.wait_for(value_watched(client, b"old", first), SECONDS)
        assert raised.value.revision == last
        with pytest.raises(EtcdError, match="OUT_OF_RANGE"):
            await client.range(pb.RangeRequest(key=b"old", revision=first), SECONDS)
        assert await value_watched(client, b"old", last) == b"2"


async def test_a_quiet_watch_stays_open_by_its_signs_of_life(etcd: EtcdCluster) -> None:
    async with connected(etcd.endpoints) as client:
        revision = await put(client, b"quiet", b"1")
        watching = asyncio.create_task(value_watched(client, b"quiet", revision + 1))
        done, _ = await asyncio.wait((watching,), timeout=SILENCE_SECONDS + 1.5)
        assert not done
        await put(client, b"quiet", b"2")
        assert await asyncio.wait_for(watching, SECONDS) == b"2"


async def test_an_endpoint_that_cannot_be_reached_is_passed_over(etcd: EtcdCluster) -> None:
    with ReservedPort() as first, ReservedPort() as second:
        dead = [Address("127.0.0.1", port.number) for port in (first, second)]
        async with connected([*dead, *etcd.endpoints]) as client:
            await put(client, b"rotated", b"1")
            assert client.endpoint == str(etcd.endpoints[0])
        async with connected(dead) as client:
            with pytest.raises(EtcdError, match="cannot be reached") as raised:
                await client.txn(pb.TxnRequest(), 0.5)
            assert not raised.value.maybe_done


async def test_a_member_that_hangs_ends_watches_and_calls_in_time(tmp_path: Path) -> None:
    with running_etcd(tmp_path, 3) as etcd:
        async with connected(etcd.endpoints) as client:
            revision = await put(client, b"k", b"1")
            watching = asyncio.create_task(value_watched(client, b"k", revision + 1))
            await asyncio.sleep(0.2)
            hanging = etcd.members[0]
            hanging.stop_running()
            try:
                with pytest.raises(EtcdError):
                    await asyncio.wait_for(watching, SILENCE_SECONDS + 2)
                assert client.endpoint != str(hanging.address)
                assert await read(client, b"k") == [b"1"]
            finally:
                hanging.go_on()


async def test_a_member_without_a_leader_serves_neither_calls_nor_watches(tmp_path: Path) -> None:
    """Without `hasleader` a watch there stays silent for ever."""
    with running_etcd(tmp_path, 3) as etcd:
        async with connected(etcd.endpoints[:1]) as client:
            revision = await put(client, b"k", b"1")
            watching = asyncio.create_task(value_watched(client, b"k", revision + 1))
            await asyncio.sleep(0.2)
            for member in etcd.members[1:]:
                member.kill()
            with pytest.raises(EtcdError):
                await asyncio.wait_for(watching, 10)
            with pytest.raises(EtcdError):
                await client.range(pb.RangeRequest(key=b"k"), 1.0)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_watch_ends_with_etcd_and_goes_on_by_revision(tmp_path: Path, encrypted: bool) -> None:
    """Over TLS gRPC ends it with INTERNAL, not UNAVAILABLE, and an authority's client certificate is needed."""
    options: list[str] = []
    security = PLAIN
    if encrypted:
        make_certificates(tmp_path)
        options = [
            f"--cert-file={tmp_path}/server.pem",
            f"--key-file={tmp_path}/server.key",
            f"--trusted-ca-file={tmp_path}/ca.pem",
            "--client-cert-auth",
        ]
        security = EtcdSecurity(True, f"{tmp_path}/ca.pem", f"{tmp_path}/client.pem", f"{tmp_path}/client.key")
    with running_etcd(tmp_path, 1, options) as etcd:
        async with connected(etcd.endpoints, security) as client:
            revision = await put(client, b"k", b"1")
            watching = asyncio.create_task(value_watched(client, b"k", revision + 1))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(etcd.members[0].restart)
            with pytest.raises(EtcdError):
                await asyncio.wait_for(watching, SECONDS)
            await put(client, b"k", b"2")
            assert await value_watched(client, b"k", revision + 1) == b"2"
        if encrypted:
            async with connected(etcd.endpoints, EtcdSecurity(True, f"{tmp_path}/ca.pem")) as client:
                with pytest.raises(EtcdError, match="cannot be reached"):
                    await client.range(pb.RangeRequest(key=b"k"), 1.0)


async def test_callers_that_wait_together_all_get_an_error_in_time() -> None:
    """Each waits for the connection that one of them makes, and their times end at once."""
    with ReservedPort() as first, ReservedPort() as second:
        dead = [Address("127.0.0.1", port.number) for port in (first, second)]
        async with connected(dead) as client:
            for _ in range(20):
                calls = [client.range(pb.RangeRequest(key=b"k"), 0.05) for _ in range(4)]
                async with asyncio.timeout(SECONDS):
                    errors = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(error, EtcdError) for error in errors)


async def test_a_file_that_is_missing_is_named_in_the_error(etcd: EtcdCluster) -> None:
    async with connected(etcd.endpoints, EtcdSecurity(True, "/nowhere/ca.pem")) as client:
        with pytest.raises(EtcdError, match=r"/nowhere/ca\.pem"):
            await client.range(pb.RangeRequest(key=b"k"), 1.0)


async def test_a_user_logs_in_again_when_the_token_is_not_valid_any_more(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as etcd:
        await enable_passwords(etcd.endpoints[0], "secret")
        file = tmp_path / "password"
        file.write_text("secret\n")
        async with connected(etcd.endpoints, EtcdSecurity(username="root", password_file=str(file))) as client:
            revision = await put(client, b"k", b"1")
            assert client._connection is not None
            client._connection.token = "invalid.1"
            assert await read(client, b"k") == [b"1"]
            client._connection.token = "invalid.2"
            with pytest.raises(EtcdError, match="rejected"):
                await value_watched(client, b"k", revision)
            assert await value_watched(client, b"k", revision) == b"1"
        file.write_text("wrong")
        async with connected(etcd.endpoints, EtcdSecurity(username="root", password_file=str(file))) as client:
            with pytest.raises(EtcdError, match="authentication failed"):
                await read(client, b"k")
        async with connected(etcd.endpoints) as client:
            with pytest.raises(EtcdError, match=r"INVALID_ARGUMENT|PERMISSION_DENIED|UNAUTHENTICATED"):
                await read(client, b"k")


async def enable_passwords(address: Address, password: str) -> None:
    """Add the user root, and have etcd demand a login. Its messages are spelled out: nothing else needs them."""
    async with grpc.aio.insecure_channel(str(address)) as channel:

        async def call(method: str, *texts: str) -> None:
            fields = [bytes([8 * number + 2, len(text)]) + text.encode() for number, text in enumerate(texts, 1)]
            await channel.unary_unary(f"/etcdserverpb.Auth/{method}")(b"".join(fields), timeout=SECONDS)

        await call("UserAdd", "root", password)
        await call("RoleAdd", "root")
        await call("UserGrantRole", "root", "root")
        await call("AuthEnable")


async def test_a_client_that_is_closed_leaves_no_call_behind(etcd: EtcdCluster) -> None:
    client = EtcdClient(etcd.endpoints, PLAIN, SystemClock())
    revision = await put(client, b"k", b"1")
    first: asyncio.Future[Changes] = asyncio.get_running_loop().create_future()

    async def follow() -> None:
        async with aclosing(client.watch(b"k", b"", revision + 1)) as watched:
            async for changes in watched:
                first.set_result(changes)

    watching = asyncio.create_task(follow())
    assert not (await first).events
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await client.close()
