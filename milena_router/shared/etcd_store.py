"""Coordination. A `RingStore` in etcd: the keys PREFIX/ring and PREFIX/leases/ADDRESS.

All keys are read and followed as one range. A change is one transaction.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from milena_common.api.pb import etcd_pb2 as pb
from milena_router.etcd.client import EtcdClient
from milena_router.shared.ring_store import ABSENT, Record, Snapshot, Update, Write

STATE = b"ring"
RECORDS = b"leases/"


class EtcdRingStore:
    """The keys below `prefix`, which ends with "/". `client` is closed with it."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self.client = client
        self._prefix = prefix.encode()
        # The first key after all that begin with the prefix.
        self._end = self._prefix[:-1] + bytes([self._prefix[-1] + 1])

    async def read(self, timeout: float) -> Snapshot:
        response = await self.client.range(pb.RangeRequest(key=self._prefix, range_end=self._end), timeout)
        found = self._sorted(pb.Event(kv=each) for each in response.kvs)
        return Snapshot(response.header.revision, found.state or ABSENT, found.records)

    async def write(self, change: Write, timeout: float) -> int | None:
        state = self._prefix + STATE
        request = pb.TxnRequest(compare=[_has_revision(state, change.expected)])
        request.compare.extend(
            _has_revision(self._record(name), revision) for name, revision in change.unchanged.items()
        )
        if change.state is not None:
            request.success.add(request_put=pb.PutRequest(key=state, value=change.state))
        for name, value in change.records.items():
            key = self._record(name)
            if value is None:
                request.success.add(request_delete_range=pb.DeleteRangeRequest(key=key))
            else:
                request.success.add(request_put=pb.PutRequest(key=key, value=value))
        response = await self.client.txn(request, timeout)
        return response.header.revision if response.succeeded else None

    async def follow(self, revision: int) -> AsyncGenerator[Update, None]:
        async for changes in self.client.watch(self._prefix, self._end, revision):
            yield self._sorted(changes.events)._replace(revision=changes.revision)

    async def close(self) -> None:
        await self.client.close()

    def _record(self, name: str) -> bytes:
        return self._prefix + RECORDS + name.encode()

    def _sorted(self, events: Iterable[pb.Event]) -> Update:
        """Return the state, None without, and the records of `events`, of which the last one of a key counts."""
        state: Record | None = None
        records = {}
        for event in events:
            name = event.kv.key.removeprefix(self._prefix)
            record = Record(event.kv.value, event.kv.mod_revision) if event.type == pb.Event.PUT else ABSENT
            if name == STATE:
                state = record
            elif name.startswith(RECORDS):
                records[name.removeprefix(RECORDS).decode(errors="replace")] = record
        return Update(0, state, records)


def _has_revision(key: bytes, revision: int) -> pb.Compare:
    return pb.Compare(target=pb.Compare.MOD, result=pb.Compare.EQUAL, key=key, mod_revision=revision)
