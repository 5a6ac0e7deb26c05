"""Pure. Jobs on all objects below a prefix, in parts: which call comes next, how far they are, how long they pause.

Nothing of a job runs but the call in progress: it is cancelled by making no further one. The admin clients make the
calls; `Admin.purge` and the others say what a job does.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from milena_client.core import operations
from milena_client.core.operations import Operation, Page
from milena_client.core.values import Key, encode_prefix
from milena_common.api.errors import InvalidRequest
from milena_common.api.methods import SWEEP, WARM
from milena_common.api.pb import router_server_pb2 as pb

# Objects in a call that warms, and entries that a call of a sweep changes, without a rate. With one, a call has
# those of a second.
WARM_AT_ONCE = 500
SWEEP_AT_ONCE = 20_000
# Objects in a row of which none was read since memory is full, or since they failed, after which a job ends.
MAX_NO_ROOM = 1000
MAX_FAILED = 200
# Calls in a row that did nothing, because slots move or S3 does not respond, and seconds between two of them.
MAX_IDLE_CALLS = 10
IDLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Swept:
    """How far `Admin.purge`, `invalidate`, `pin` or `unpin` is, at all nodes.

    - `done`: True at the end.
    - `examined`: entries that it has come to, of all keys.
    - `entries`: how many there were when it began.
    - `changed`: entries that were dropped, invalidated, pinned or unpinned, or in a dry run would be.
    - `bytes`: that they take in memory.
    - `dirty`: objects that were left as they are, because S3 does not have them yet; known at the end.
    - `nodes`: the same of each node, by its address.
    """

    done: bool
    examined: int
    entries: int
    changed: int
    bytes: int
    dirty: int
    nodes: Mapping[str, Swept] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Warmed:
    """How far `Admin.warm` is.

    - `done`: True at the end.
    - `listed`: objects that were listed, or asked about.
    - `warmed`: objects that were read into memory, or in a dry run would be.
    - `bytes`: of their values.
    - `present`: objects that were in memory, or not in S3 yet.
    - `too_large`: objects that are not kept as a whole; they are read in blocks, on demand.
    - `absent`: objects that S3 did not have any more.
    - `no_room`: objects that were not read because the memory of their owners is full.
    - `failed`: objects that could not be read.
    - `error`: why one of them could not; "" if none failed.
    - `stopped`: why it ended before the end of the listing; "" if it did not.
    - `nodes`: how many objects each node has read, by its address.
    """

    done: bool = False
    listed: int = 0
    warmed: int = 0
    bytes: int = 0
    present: int = 0
    too_large: int = 0
    absent: int = 0
    no_room: int = 0
    failed: int = 0
    error: str = ""
    stopped: str = ""
    nodes: Mapping[str, int] = field(default_factory=dict)


class Schedule:
    """The pauses of a job that does `rate` things a second; None: as fast as it can."""

    def __init__(self, rate: float | None, now: float) -> None:
        if rate is not None and not rate > 0:
            raise InvalidRequest(f"rate: got {rate:g}; allowed is more than 0")
        self._rate = rate
        self._began = now

    def at_once(self, limit: int) -> int:
        """Return how many things a call has, at most `limit`."""
        return limit if self._rate is None else max(1, int(min(limit, self._rate)))

    def pause(self, number: int, now: float) -> float:
        """Return the seconds until `number` things may have been done."""
        return 0.0 if self._rate is None else max(0.0, self._began + number / self._rate - now)


class SweepJob:
    """A job of all nodes on the entries below a prefix. `action`: "purge", "invalidate", "pin" or "unpin"."""

    def __init__(
        self, action: str, prefix: Key, bucket: str, rate: float | None, now: float, *, dry_run: bool
    ) -> None:
        schedule = Schedule(rate, now)
        self._schedule = Schedule(None, now) if dry_run else schedule
        self._action = action
        self._request = pb.SweepRequest(
            job=secrets.token_hex(16),
            bucket=bucket,
            prefix=encode_prefix(prefix),
            action=action,
            dry_run=dry_run,
            limit=self._schedule.at_once(SWEEP_AT_ONCE),
        )

    def part(self) -> Operation[Swept]:
        """Return the next call."""
        return Operation(SWEEP.name, self._request, _read_swept, SWEEP.repeatable, self._action)

    def forget(self) -> Operation[Swept]:
        """Return the call after the last part, or when the job is cancelled."""
        request = pb.SweepRequest(job=self._request.job, end=True)
        return Operation(SWEEP.name, request, _read_swept, SWEEP.repeatable, self._action)

    def pause(self, progress: Swept, now: float) -> float:
        """Return the seconds until the next call."""
        return 0.0 if progress.done else self._schedule.pause(progress.changed, now)


class WarmJob:
    """A job that has the owners of all keys below a prefix read them.

    It lists a page when no key of the one before is left, and asks about its keys a part at a time.
    """

    def __init__(self, prefix: Key, bucket: str, rate: float | None, now: float, *, dry_run: bool) -> None:
        self.progress = Warmed()
        self._prefix = prefix
        self._bucket = bucket
        self._dry_run = dry_run
        schedule = Schedule(rate, now)
        self._schedule = Schedule(None, now) if dry_run else schedule
        self._sizes: dict[bytes, int] = {}
        self._keys: deque[bytes] = deque()
        self._cursor: str | None = ""
        self._part: list[bytes] = []
        self._no_room = self._failed = self._idle = 0
        # In a dry run, what is still free of each node's memory: bytes and objects.
        self._room: dict[str, tuple[int, int]] = {}

    def listing(self) -> Operation[Page] | None:
        """Return the call that lists the next page; None while there are keys to ask about."""
        if self._keys or self._cursor is None:
            return None
        return operations.scan(self._prefix, self._bucket, self._cursor)

    def listed(self, page: Page) -> None:
        """Take the page that was listed."""
        self._sizes = {item.key.encode(): item.size for item in page.objects}
        self._keys.extend(self._sizes)
        self._cursor = page.cursor or None
        if not self._keys and self._cursor is None:
            self._end("")

    def part(self) -> Operation[pb.WarmResponse]:
        """Return the call about the next keys."""
        number = self._schedule.at_once(WARM_AT_ONCE)
        self._part = [self._keys.popleft() for _ in range(min(number, len(self._keys)))]
        request = pb.WarmRequest(
            keys=self._part,
            bucket=self._bucket,
            sizes=[self._sizes[key] for key in self._part],
            dry_run=self._dry_run,
        )
        return Operation(WARM.name, request, _whole, WARM.repeatable, "warm")

    def warmed(self, response: pb.WarmResponse, now: float) -> float:
        """Take the response about the last part, and return the seconds until the next call."""
        before = self.progress
        left = list(response.left)
        if self._dry_run:
            self._plan(response)
        nodes = dict(before.nodes)
        for node in response.nodes:
            nodes[node.address] = nodes.get(node.address, 0) + node.warmed
        self.progress = Warmed(
            listed=before.listed + len(self._part) - len(left),
            warmed=before.warmed + response.warmed,
            bytes=before.bytes + response.value_bytes,
            present=before.present + response.present,
            too_large=before.too_large + response.too_large,
            absent=before.absent + response.absent,
            no_room=before.no_room + response.no_room,
            failed=before.failed + response.failed,
            error=before.error or response.error,
            nodes=nodes,
        )
        self._keys.extendleft(reversed(left))
        useful = response.warmed or response.present
        self._no_room = 0 if useful else self._no_room + response.no_room
        self._failed = 0 if useful else self._failed + response.failed
        self._idle = self._idle + 1 if len(left) == len(self._part) else 0
        if self._no_room >= MAX_NO_ROOM:
            self._end("the memory of the nodes is full")
        elif self._failed >= MAX_FAILED:
            self._end("too many objects in a row could not be read")
        elif self._idle >= MAX_IDLE_CALLS:
            self._end(
                "the owners of some keys do nothing: their slots move or have no owner, or S3 does not respond"
            )
        elif not self._keys and self._cursor is None:
            self._end("")
        if self.progress.done:
            return 0.0
        read = self.progress.warmed + self.progress.absent + self.progress.failed
        return max(self._schedule.pause(read, now), IDLE_SECONDS if self._idle else 0.0)

    def _plan(self, response: pb.WarmResponse) -> None:
        """Count as `no_room` what a node has room for, and would not have after the parts before."""
        for node in response.nodes:
            room_bytes, room_entries = self._room.get(node.address, (node.room_bytes, node.room_entries))
            if node.memory_bytes > room_bytes or node.warmed > room_entries:
                response.warmed -= node.warmed
                response.value_bytes -= node.value_bytes
                response.no_room += node.warmed
                node.warmed = node.memory_bytes = 0
            self._room[node.address] = room_bytes - node.memory_bytes, room_entries - node.warmed

    def _end(self, stopped: str) -> None:
        self._keys.clear()
        self._cursor = None
        self.progress = replace(self.progress, done=True, stopped=stopped)


def _read_swept(response: pb.SweepResponse) -> Swept:
    return _swept(response, {node.address: _swept(node, {}) for node in response.nodes})


def _swept(part: pb.SweepResponse | pb.NodeSweep, nodes: Mapping[str, Swept]) -> Swept:
    return Swept(part.done, part.examined, part.entries, part.changed, part.bytes, part.dirty, nodes)


def _whole(response: pb.WarmResponse) -> pb.WarmResponse:
    return response
