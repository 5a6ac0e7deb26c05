"""Coordination. Passes the changes in messages to the nodes that own the objects, and heartbeats to all nodes.

The owner is looked up by this node's ring. If that is not the newest, the node that gets the change drops what it
has, says that it does not own the object, and the message stays in the queue (`changes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from milena_cache.events.changes import ForeignChanges, ReportedChange, state_of
from milena_cache.events.message import ObjectEvent
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.names import Buckets
from milena_common.api.errors import MilenaError, NodeUnreachable, NoNodes
from milena_common.cluster.slots import slot_of

# Seconds that a node may take to drop what it has.
TIMEOUT_SECONDS = 2.0


class ChangeSender(Protocol):
    """Connections to other nodes."""

    async def send_changes(
        self, address: str, changes: Sequence[ReportedChange], heartbeat: float, timeout: float
    ) -> None:
        """Have the node whose RESP server is at `address` apply changes and a heartbeat. Raises MilenaError."""


class _Parcel(NamedTuple):
    """What one node gets: changes, and the indices of the messages that they are from."""

    changes: list[ReportedChange]
    messages: set[int]


class Delivery:
    """The way of events from the node that has read them to all that they concern.

    foreign: changes of objects that no request can name, such as those of other prefixes
    last_error: why something was not delivered last
    """

    def __init__(
        self,
        ownership: Ownership,
        peers: ChangeSender,
        local: ForeignChanges,
        heartbeat_key: bytes,
        on_heartbeat: Callable[[float], None],
        buckets: Buckets,
    ) -> None:
        self.foreign = 0
        self.last_error: MilenaError | None = None
        self._ownership = ownership
        self._peers = peers
        self._local = local
        self._heartbeat_key = heartbeat_key
        self._on_heartbeat = on_heartbeat
        self._buckets = buckets

    async def deliver(self, messages: Sequence[Sequence[ObjectEvent]]) -> Sequence[bool]:
        """Deliver the events of messages; return for each if all nodes that it concerns have applied it."""
        delivered = [True] * len(messages)
        parcels: dict[str, _Parcel] = {}
        heartbeat = 0.0
        beating: set[int] = set()
        for index, events in enumerate(messages):
            for event in events:
                key = self._buckets.cache_key_at(event.bucket, event.key)
                if key is None:
                    self.foreign += 1
                    continue
                if key == self._heartbeat_key and event.at is not None:
                    heartbeat = max(heartbeat, event.at)
                    beating.add(index)
                try:
                    address = self._address(key)
                except MilenaError as error:
                    self.last_error = error
                    delivered[index] = False
                    continue
                parcel = parcels.setdefault(address, _Parcel([], set()))
                parcel.changes.append(ReportedChange(key, state_of(event.etag)))
                parcel.messages.add(index)
        if beating:
            for node in self._ownership.slot_map.nodes:
                address = "" if node.address == self._ownership.me else node.resp_address
                parcels.setdefault(address, _Parcel([], set())).messages.update(beating)
        for parcel, done in zip(
            parcels.values(),
            await asyncio.gather(*(self._send(to, parcel, heartbeat) for to, parcel in parcels.items())),
            strict=True,
        ):
            if not done:
                for index in parcel.messages:
                    delivered[index] = False
        return delivered

    def _address(self, key: bytes) -> str:
        """Return the RESP address of the node that owns a key, "" for this one. Raises MilenaError."""
        if self._ownership.mine_since(key) >= 0 or self._ownership.unfenced_since(key) >= 0:
            return ""
        if not self._ownership.epoch:
            raise NoNodes("no ring is known: nothing is known about the owner of a changed object")
        slot = slot_of(key)
        address = self._ownership.resp_address_of(slot)
        if not address:
            raise NodeUnreachable(f"slot {slot}: its owner has no Redis protocol, by which it would get it")
        return address

    async def _send(self, address: str, parcel: _Parcel, heartbeat: float) -> bool:
        """Return True if the node at `address`, "" for this one, has applied what it gets; heartbeat 0: none."""
        try:
            if address:
                await self._peers.send_changes(address, parcel.changes, heartbeat, TIMEOUT_SECONDS)
            else:
                self._local.apply(parcel.changes)
                if heartbeat:
                    self._on_heartbeat(heartbeat)
        except MilenaError as error:
            self.last_error = error
            return False
        return True
