"""Coordination. Probes the S3 store's capabilities: conditional writes, metadata, copies, the order of listings.

A probe uses tiny objects below one random name, `<S3_PREFIX>.milena-probe/<random>`, and removes them afterwards;
those of a killed process are removed by a probe an hour later. A store that rejects these writes leaves everything
unknown, which is logged and does not stop the node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

from milena_cache.objects.etags import same_etag
from milena_cache.objects.object_store import Fault, Info, OriginFailure, Ref
from milena_cache.origin.conditions import CONDITIONAL_WRITES, Capability, Conditions, Finding, State
from milena_cache.origin.requests import Origin
from milena_common.api.etags import etag_of
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

DIRECTORY = ".milena-probe/"
# The timeout of a whole probe, in seconds. A slower store is probed again.
PROBE_SECONDS = 15.0
LEFT_BEHIND_SECONDS = 3600.0
# The maximum of objects from earlier probes that one probe removes.
MAX_LEFT_BEHIND = 100

WRONG_ETAG = '"00000000000000000000000000000000"'
# In the order of their UTF-8 bytes. Sorting by UTF-16 swaps the last two, a walk through folders `a-b` and `a/b`.
LISTED = ("B", "a-b", "a/b", "é", "\uff5e", "\U0001f600")
METADATA = {"milena-probe": "a b=c;d"}
WORKS = Finding(State.WORKS)
ATTRIBUTES = {"CacheControl": "max-age=60", "ContentType": "text/x-milena-probe"}


class Probed(NamedTuple):
    """The findings of a probe; `done` is False if a transient failure left some unknown, to be probed again."""

    findings: dict[Capability, Finding]
    done: bool


class StoreProbe:
    """Probes one bucket. `rng` returns random numbers from 0 to 1.

    Known capabilities are not probed again: a store at which one trial always fails, such as a gateway that
    responds to multipart uploads with 500, would otherwise get all 38 requests each time.
    """

    def __init__(
        self,
        store: Origin,
        bucket: str,
        prefix: str,
        conditions: Conditions,
        clock: Clock,
        rng: Callable[[], float],
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._directory = f"{prefix}{DIRECTORY}"
        self._conditions = conditions
        self._clock = clock
        self._rng = rng
        off = (*CONDITIONAL_WRITES, Capability.MULTIPART) if conditions.mode == "off" else ()
        self._untried = [each for each in _TRIALS if each not in off]
        self._logged: set[str] = set()  # reasons, of few capabilities with few findings each

    async def run(self) -> bool:
        """Probe, update `conditions` and log once what does not work; return False if a probe must be repeated.

        What was found is logged although a probe must be repeated: one that S3 always fails is repeated for ever.
        """
        findings, done = await self.probe()
        self._conditions.learn(findings)
        reasons = (*self._conditions.not_ready(), *self._conditions.degraded(found_only=not done))
        for reason in reasons:
            if reason not in self._logged:
                log.warning("%s", reason)
        self._logged.update(reasons)
        if Capability.ETAG in findings and not self._conditions.foretells_etags:
            log.info("S3: %s: puts of the S3 endpoint go through to S3", findings[Capability.ETAG].detail)
        if done and not self._conditions.degraded():
            log.info("S3 honours conditions, metadata and the order of listings")
        return done

    async def probe(self) -> Probed:
        """Probe the unknown capabilities, in at most PROBE_SECONDS, and remove the objects of the probe."""
        name = f"{self._directory}{int(self._rng() * 2**52):013x}"
        tried = _Trial(self._store, self._bucket, name)
        findings: dict[Capability, Finding] = {}

        async def try_one(capability: Capability) -> None:
            try:
                findings[capability] = await _TRIALS[capability](tried)
            except OriginFailure as failure:
                findings[capability] = _failed(failure)
                if failure.fault.retryable:
                    return
            self._untried.remove(capability)

        try:
            # At the same time: no two have an object in common, and a node that starts waits for all of them.
            async with asyncio.timeout(PROBE_SECONDS), asyncio.TaskGroup() as group:
                for capability in self._untried:
                    group.create_task(try_one(capability))
        except TimeoutError:
            pass  # the rest is left for the next probe
        finally:
            await self._clean_up(tried.written)
        return Probed(findings, not self._untried)

    async def _clean_up(self, written: set[Ref]) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                if not written:
                    return
                await asyncio.gather(*(self._store.delete(ref, inf) for ref in written))
                page = await self._store.list(self._bucket, self._directory, "", MAX_LEFT_BEHIND)
                oldest = self._clock.wall() - LEFT_BEHIND_SECONDS
                for info in page.objects:
                    if info.last_modified < oldest:
                        await self._store.delete(Ref(self._bucket, info.key), inf)
        except (OriginFailure, TimeoutError) as failure:
            log.warning("objects below %s could not be removed: %s", self._directory, failure or "no response")


def _failed(failure: OriginFailure) -> Finding:
    if failure.fault is Fault.UNSUPPORTED:
        return Finding(State.UNSUPPORTED, "S3 responded with 501")
    return Finding(State.UNKNOWN, f"the probe failed: {failure}")


class _Trial:
    """The single trials. `written` are the objects that may exist afterwards."""

    def __init__(self, store: Origin, bucket: str, name: str) -> None:
        self.written: set[Ref] = set()
        self._store = store
        self._bucket = bucket
        self._name = name

    def _ref(self, name: str) -> Ref:
        ref = Ref(self._bucket, f"{self._name}/{name}")
        self.written.add(ref)
        return ref

    async def create(self) -> Finding:
        """Try If-None-Match: * on PUT."""
        ref = self._ref("create")
        if not await _is_accepted(self._store.put(ref, b"1", inf, if_absent=True)):
            return Finding(State.NEVER_HOLDS, "If-None-Match: * is denied where there is no object")
        return _ignored_if(await _is_accepted(self._store.put(ref, b"2", inf, if_absent=True)))

    async def replace(self) -> Finding:
        """Try If-Match on PUT, with the ETag of a HEAD and with a wrong one."""
        ref = self._ref("replace")
        found = await self._stored(ref)
        if not await _is_accepted(self._store.put(ref, b"2", inf, if_match=found.etag)):
            return await self._denied(ref, found)
        return _ignored_if(await _is_accepted(self._store.put(ref, b"3", inf, if_match=WRONG_ETAG)))

    async def conditional_delete(self) -> Finding:
        """Try If-Match on DELETE, with a wrong ETag and with that of a HEAD."""
        ref = self._ref("delete")
        found = await self._stored(ref)
        await _is_accepted(self._store.delete(ref, inf, if_match=WRONG_ETAG))
        if await self._store.head(ref) is None:
            return _ignored_if(True)
        if not await _is_accepted(self._store.delete(ref, inf, if_match=found.etag)):
            return await self._denied(ref, found)
        return WORKS

    async def multipart(self) -> Finding:
        """Try If-None-Match: * on CompleteMultipartUpload."""
        ref = self._ref("parts")
        await self._store.put(ref, b"1", inf)
        upload = await self._store.create_multipart(ref, inf)
        try:
            etag = await self._store.upload_part(ref, upload, 1, b"2", inf)
            done = await _is_accepted(self._store.complete_multipart(ref, upload, [etag], inf, if_absent=True))
        except BaseException:
            await self._abandon(ref, upload)
            raise
        if not done:
            await self._abandon(ref, upload)
        return _ignored_if(done)

    async def _abandon(self, ref: Ref, upload: str) -> None:
        with suppress(OriginFailure):
            await self._store.abort_multipart(ref, upload, inf)

    async def user_metadata(self) -> Finding:
        """Try user metadata, by HEAD."""
        ref = self._ref("metadata")
        await self._store.put(ref, b"1", inf, metadata=METADATA)
        found = await self._store.head(ref)
        return _as_stored("metadata", METADATA, found.metadata if found else {})

    async def copy(self) -> Finding:
        """Try CopyObject onto itself, with other metadata and the same attributes."""
        ref = self._ref("copy")
        await self._store.put(ref, b"1", inf, metadata={"old": "1"}, attributes=ATTRIBUTES)
        before = await self._store.describe(ref, inf)
        attributes = before.attributes if before else {}
        await self._store.copy(ref, inf, metadata=METADATA, attributes=attributes)
        after = await self._store.describe(ref, inf)
        expected = {**METADATA, **ATTRIBUTES}
        finding = _as_stored("attributes", expected, {**after.metadata, **after.attributes} if after else {})
        if finding is WORKS and await _is_accepted(
            self._store.copy(ref, inf, if_match=WRONG_ETAG, metadata=METADATA, attributes=attributes)
        ):
            return Finding(State.WORKS, "but its condition is ignored")
        return finding

    async def listing(self) -> Finding:
        """Try the order of keys, over pages."""
        refs = [self._ref(f"listed/{name}") for name in LISTED]
        await asyncio.gather(*(self._store.put(ref, b"", inf) for ref in reversed(refs)))
        listed: list[str] = []
        cursor = ""
        for _ in refs:
            page = await self._store.list(self._bucket, f"{self._name}/listed/", cursor, 2)
            listed += [info.key for info in page.objects]
            cursor = page.cursor
            if not cursor:
                break
        if listed == [ref.key for ref in refs]:
            return WORKS
        shown = [key.removeprefix(f"{self._name}/listed/") for key in listed]
        return Finding(State.BROKEN, f"{list(LISTED)} were listed as {shown}")

    async def etag(self) -> Finding:
        """Try whether the ETag of a PUT is its MD5, and that of a HEAD."""
        ref = self._ref("etag")
        put = await self._store.put(ref, b"1", inf)
        found = await self._store.head(ref)
        expected = etag_of(b"1")
        if found is not None and same_etag(put, expected) and same_etag(found.etag, expected):
            return WORKS
        return Finding(State.BROKEN, f"the ETag of a PUT is {put}, which is not its MD5")

    async def _stored(self, ref: Ref) -> Info:
        await self._store.put(ref, b"1", inf)
        found = await self._store.head(ref)
        if found is None:
            raise OriginFailure(Fault.SERVER, "head", ref, "an object just stored is missing", "404")
        return found

    async def _denied(self, ref: Ref, found: Info) -> Finding:
        """Return the finding for a store that denies `If-Match` with the ETag of `found`."""
        again = await self._store.head(ref)
        if again is not None and same_etag(again.etag, found.etag):
            return Finding(State.NEVER_HOLDS, f"the ETag just looked up, {found.etag}, does not match itself")
        return Finding(
            State.NEVER_HOLDS, f"two HEADs of one object give the ETags {found.etag} and {again and again.etag}"
        )


_TRIALS: Mapping[Capability, Callable[[_Trial], Awaitable[Finding]]] = {
    Capability.CREATE: _Trial.create,
    Capability.REPLACE: _Trial.replace,
    Capability.DELETE: _Trial.conditional_delete,
    Capability.MULTIPART: _Trial.multipart,
    Capability.METADATA: _Trial.user_metadata,
    Capability.COPY: _Trial.copy,
    Capability.LISTING: _Trial.listing,
    Capability.ETAG: _Trial.etag,
}


async def _is_accepted(write: Awaitable[object]) -> bool:
    """Return True if the write was done, False if the store denied its condition. Raises OriginFailure."""
    try:
        await write
    except OriginFailure as failure:
        if failure.fault is not Fault.CHANGED:
            raise
        return False
    return True


def _ignored_if(accepted: bool) -> Finding:
    return Finding(State.IGNORED, "a write is done although its condition does not hold") if accepted else WORKS


def _as_stored(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Finding:
    wrong = {name: found.get(name) for name, text in expected.items() if found.get(name) != text}
    return Finding(State.BROKEN, f"{what} come back as {wrong}") if wrong else WORKS
