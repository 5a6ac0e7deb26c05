"""Coordination. Connections from this node to the RESP servers of other nodes: over them it invalidates keys there,
asks for promises, sends rings, and requests which of the keys that S3 has listed they have deleted.

A connection begins with the identity of the node that the ring has at the address. When the ring has another
process there, the connection is replaced, so that no request reaches a process for which it was not meant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from milena_cache.membership.promises import milliseconds
from milena_cache.objects.object_store import Info
from milena_cache.objects.unlisted import Names, Unlisted
from milena_cache.objects.version import Base
from milena_common.api.credentials import CurrentCredentials, no_credentials
from milena_common.api.errors import FailedPrecondition, InternalError, NodeLost, NodeUnreachable
from milena_common.api.keys import split_cache_key
from milena_common.api.methods import INVALIDATE
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap
from milena_common.network.addresses import parse_address
from milena_common.network.allowed_networks import NO_ADDRESS, why_not
from milena_common.resp.client_commands import call
from milena_common.resp.encoding import command
from milena_common.resp.identity import Identity
from milena_common.resp.link import RespLink
from milena_common.tls.outgoing import PLAIN, Outgoing

TIMEOUT_SECONDS = 2.0
# What the connections are called at the other node (CLIENT SETNAME).
NODE_NAME = "milena-node"


class Peers:
    """Connections by address, opened at the first use.

    - `identity_at`: returns the identity of the node that must be at an address.
    - `tls_address_at`: returns the encrypted address of the node at an address, "" if it has none.
    - `outgoing`: which of the two is called.
    - `credentials`: returns what each connection logs in with.
    - `name`: of each connection; those named NODE_NAME do not wait behind clients.

    Nodes are named by their address in the ring, which is not the one that is called if that is encrypted.
    """

    def __init__(
        self,
        identity_at: Callable[[str], Identity],
        tls_address_at: Callable[[str], str] = lambda address: "",
        outgoing: Outgoing = PLAIN,
        credentials: CurrentCredentials = no_credentials,
        *,
        name: str = NODE_NAME,
    ) -> None:
        self._name = name
        self._identity_at = identity_at
        self._tls_address_at = tls_address_at
        self._outgoing = outgoing
        self._credentials = credentials
        self._links: dict[str, tuple[Identity, RespLink]] = {}

    async def invalidate_at(self, address: str, key: bytes, timeout: float) -> None:
        """Have the node at `address` invalidate a cache key, within `timeout` seconds. Raises MilenaError."""
        bucket, object_key = split_cache_key(key)
        request = pb.InvalidateRequest(key=object_key, bucket=bucket).SerializeToString()
        await self.request(address, call(INVALIDATE.name, timeout, request), timeout)

    async def send_changes(
        self, address: str, changes: Sequence[tuple[bytes, Base]], heartbeat: float, timeout: float
    ) -> None:
        """Have the node at `address` apply changes of S3, each a cache key and the state of its object, and a
        heartbeat; see `milena_cache.events`. Raises MilenaError.
        """
        request = pb.InvalidateRequest(heartbeat=heartbeat)
        for key, state in changes:
            bucket, object_key = split_cache_key(key)
            request.changes.add(key=object_key, bucket=bucket, etag=state if isinstance(state, str) else "")
        await self.request(address, call(INVALIDATE.name, timeout, request.SerializeToString()), timeout)

    async def begin_listing(
        self, address: str, seconds: float, bucket: str, names: Names, timeout: float
    ) -> tuple[int, Unlisted]:
        """Announce to the node at `address` a listing that ends within `seconds`; return its number there, and what
        the node has written of a page with `names`.

        Raises MilenaError.
        """
        milliseconds = b"%d" % max(1, ceil(seconds * 1000))
        texts = (text.encode() for text in (bucket, names.prefix, names.delimiter, names.last, str(names.limit)))
        begin = command(b"MILENA.LISTING", b"BEGIN", milliseconds, *texts)
        reply = await self.request(address, begin, timeout)
        try:
            number, until, *parts = reply
            listed = zip(*[iter(parts)] * 4, strict=True)
            written = {
                name.decode(): None if size < 0 else Info(name.decode(), size, etag.decode(), at / 1000)
                for name, size, etag, at in listed
            }
            return int(number), Unlisted(written, None if until is None else until.decode())
        except (TypeError, ValueError, AttributeError):
            raise InternalError(f"node {address}: its reply to MILENA.LISTING BEGIN is {reply!r:.80}") from None

    async def end_listing(
        self, address: str, number: int, keys: Sequence[bytes], timeout: float
    ) -> Sequence[bytes] | None:
        """Return those of the listed cache keys that the node at `address` has deleted.

        Raises MilenaError.
        """
        deleted = await self.request(address, command(b"MILENA.LISTING", b"END", b"%d" % number, *keys), timeout)
        if deleted is not None and not isinstance(deleted, list):
            raise InternalError(f"node {address}: its reply to MILENA.LISTING END is no array: {deleted!r:.80}")
        return deleted

    async def promise(
        self, address: str, epoch: int, seconds: float, receiver: str, timeout: float
    ) -> bool | bytes:
        """Ask the node at `address` to stand by the ring with `epoch` for `seconds`; see `promises`.

        `receiver`: this node's RESP address, to which the other one may send a newer ring. Return True if it has
        promised, or the newer ring that it knows, as a serialized RingUpdate. Raises MilenaError.
        """
        sent = command(b"MILENA.PROMISE", b"%d" % epoch, milliseconds(seconds), receiver.encode())
        reply = await self.request(address, sent, timeout)
        if reply != 1 and not isinstance(reply, bytes):
            raise InternalError(
                f"node {address}: its reply to MILENA.PROMISE is neither 1 nor a ring: {reply!r:.80}"
            )
        return reply if isinstance(reply, bytes) else True

    async def offer_ring(self, address: str, ring: SlotMap, timeout: float) -> int:
        """Send `ring` to the node at `address`, and return the epoch of the ring that it has then; see `promises`.

        Raises MilenaError.
        """
        reply = await self.request(address, command(b"MILENA.RING", ring.to_update().SerializeToString()), timeout)
        if not isinstance(reply, int):
            raise InternalError(f"node {address}: its reply to MILENA.RING is no number: {reply!r:.80}")
        return reply

    def begin(self, address: str, sent: bytes, timeout: float) -> asyncio.Future[Any]:
        """Send an encoded command as `request` does, at once if there is a connection.

        The future's result is the reply, or an exception to raise; or it raises one: MilenaError.
        """
        known = self._links.get(address)
        if known is not None and known[1].stream is not None and known[0] == self._identity_at(address):
            return known[1].stream.begin(sent, timeout)
        return asyncio.get_running_loop().create_task(self.request(address, sent, timeout))

    async def request(self, address: str, sent: bytes, timeout: float, *, at_once: bool = False) -> Any:
        """Return the reply of the node with the RESP server `address` to an encoded command. Raises MilenaError.

        `at_once`: it is sent without waiting for the end of this iteration of the event loop.
        """
        identity = self._identity_at(address)
        known, link = self._links.get(address, (identity, None))
        if link is None or known != identity:
            encrypted = self._tls_address_at(address)
            where, security = self._outgoing.choose("" if address == encrypted else address, encrypted)
            if not where:
                raise NodeUnreachable(
                    f"node {address} has announced no address for the Redis protocol that this node may call: "
                    "compare TLS and RESP_TLS_ADDR of both"
                )
            if (reason := why_not(parse_address(where).host)) and reason != NO_ADDRESS:
                raise NodeUnreachable(f"node {address} must not be called: {where} {reason}")
            link = RespLink(
                where,
                timeout=TIMEOUT_SECONDS,
                identity=identity,
                who=f"node {address} ",
                name=self._name,
                security=security,
                credentials=self._credentials,
            )
            # Registered before the old one is closed. Closing waits, and a concurrent call in that time would find
            # the old link, and open a second new one.
            replaced = self._links.get(address)
            self._links[address] = identity, link
            if replaced is not None:
                await replaced[1].close(0, NodeLost(f"node {address} is another one now"))
        stream = await link.open(timeout)
        if stream is None:
            raise link.error or NodeLost(f"node {address} cannot be reached")
        return await stream.call(sent, timeout, at_once=at_once)

    async def close(self) -> None:
        error = FailedPrecondition("the node stops")
        await asyncio.gather(*(link.close(0, error) for _, link in self._links.values()))
