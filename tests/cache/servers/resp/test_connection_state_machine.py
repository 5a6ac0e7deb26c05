"""Two connections against a model: whatever waits, for S3, for the disk or for the client, every reply is the one
that a server would give which carries out one command after the other, and comes in its place.

One connection is an ordinary one. The other defers: of what it sends, nothing touches a key of which a reply is
due, so its replies too are certain, whenever they come. What is held back at random: the reads and writes of S3,
the disk, and the client that takes its replies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

import hiredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from milena_cache.servers.resp.output_buffer import HIGH_WATER
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import command, encode
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient
from tests.support.fake_clock import run_ready_tasks

T = TypeVar("T")
Argv = list[bytes]

ORDINARY = (b"a", b"b\r\n$1\r\nb", b"{c}")
DEFERRING = (b"v", b"w", b"x", b"y", b"z")
# One is as much as a client leaves before it is taken for one that does not read.
VALUES = (b"", b"1", b"two", b"\r\n$3\r\n", b"l" * 40_000, b"h" * HIGH_WATER)
CLASSES = (b"memory", b"back", b"through")
ROUNDS = 200

OK = b"+OK\r\n"
HANDSHAKE = b"what HELLO answers"
READS = ("GET", "GET", "GET", "GET", "STRLEN", "GETRANGE", "MGET", "EXISTS", "CALL")
WRITES = ("SET", "SET", "SET NX", "SET GET", "GETDEL", "DEL", "MSET")
NAMES = (*READS, *WRITES, "PING", "HELLO", "SKIP")

numbers = st.integers(0, 5)
# What a command is about is made of these by `words_of`, so that it can be fitted to the keys that are free.
commands = st.tuples(
    st.sampled_from(NAMES),
    st.lists(numbers, min_size=1, max_size=4),
    numbers,
    st.sampled_from((b"", *CLASSES)),
)
Drawn = tuple[str, list[int], int, bytes]
pipelines = st.lists(commands, min_size=1, max_size=8)


class Model:
    """What one connection may expect: a server that does one thing after the other."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.protocol = 2
        self.skip = False

    def reply(self, argv: Argv) -> bytes:
        """b"" for none."""
        reply = self._reply(argv)
        skipped, self.skip = self.skip, argv[:2] == [b"CLIENT", b"REPLY"]
        return b"" if skipped or self.skip else reply

    def _reply(self, argv: Argv) -> bytes:
        name, keys = argv[0], [_bare(key) for key in argv[1:]]
        values = self.values
        before = values.get(keys[0]) if keys else None
        match name:
            case b"PING":
                return b"+PONG\r\n"
            case b"HELLO":
                self.protocol = int(argv[1])
                return HANDSHAKE
            case b"GET":
                return self._encoded(before)
            case b"STRLEN":
                return self._encoded(len(before or b""))
            case b"GETRANGE":
                return self._encoded((before or b"")[:2])
            case b"GETDEL":
                values.pop(keys[0], None)
                return self._encoded(before)
            case b"MILENA.CALL":
                return self._encoded(values.get(_bare(pb.GetRequest.FromString(argv[3]).key)))
            case b"MGET":
                return self._encoded([values.get(key) for key in keys])
            case b"EXISTS":
                return self._encoded(sum(key in values for key in keys))
            case b"DEL":
                return self._encoded(sum(values.pop(key, None) is not None for key in dict.fromkeys(keys)))
            case b"MSET":
                values.update(zip(keys[0::2], argv[2::2], strict=True))
                return OK
            case b"SET":
                return self._set(keys[0], argv, before)
        return b""

    def _set(self, key: bytes, argv: Argv, before: bytes | None) -> bytes:
        if b"NX" not in argv[3:] or before is None:
            self.values[key] = argv[2]
        elif b"GET" not in argv[3:]:
            return self._encoded(None)
        return self._encoded(before) if b"GET" in argv[3:] else OK

    def _encoded(self, value: Any) -> bytes:
        return encode(value, self.protocol)


class Conversation:
    """A client, what it has been promised, and what it has got."""

    def __init__(self, client: WireClient, model: Model) -> None:
        self.client = client
        self.model = model
        self.due: deque[tuple[Argv, bytes]] = deque()
        self.deferred: dict[int, tuple[Argv, bytes]] = {}
        self._reader = hiredis.Reader()

    def send(self, sent: list[Argv], cut: int) -> None:
        for argv in sent:
            reply = self.model.reply(argv)
            if reply:
                self.due.append((argv, reply))
        data = b"".join(command(*argv) for argv in sent)
        for piece in (data[:cut], data[cut:]):
            if piece:
                self.client.send(piece)

    def listen(self) -> None:
        """Compare what has come."""
        if not self.client.transport.client_reads:
            return
        self._reader.feed(self.client.take())
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, list) and reply[:1] == [b"deferred"]:
                self._compare(self.deferred.pop(reply[1]), reply[2])
                continue
            assert self.due, f"no command has the reply {reply!r:.80}"
            pending = self.due.popleft()
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("DEFERRED "):
                self.deferred[int(str(reply).split()[1])] = pending
            else:
                self._compare(pending, reply)

    def _compare(self, pending: tuple[Argv, bytes], reply: Any) -> None:
        argv, response = pending
        if response == HANDSHAKE:
            assert b"proto" in reply, f"no greeting: {reply!r:.80}"
            return
        if argv[0] == b"MILENA.CALL":
            returned = pb.GetResponse.FromString(reply)
            reply = returned.value if returned.successful else None
        reader = hiredis.Reader()
        reader.feed(response)
        expected = reader.gets()
        assert reply == expected, argv

    @property
    def outstanding(self) -> set[bytes]:
        """The keys of which something is due."""
        pending = [*self.due, *self.deferred.values()]
        return {_bare(word) for argv, _ in pending for word in argv[1:]} | {
            pb.GetRequest.FromString(argv[3]).key for argv, _ in pending if argv[0] == b"MILENA.CALL"
        }


def _bare(key: bytes) -> bytes:
    return key.removeprefix(b"s3://bucket/").removeprefix(b"s3://default/")


def argv_of(drawn: Drawn, keys: list[bytes]) -> Argv:
    """A command about some of `keys`; PING if there is none."""
    name, chosen, number, durability = drawn
    value = VALUES[number]
    if name == "SKIP":
        return [b"CLIENT", b"REPLY", b"SKIP"]
    if name == "HELLO":
        return [b"HELLO", b"2" if chosen[0] % 2 else b"3"]
    if name == "PING" or not keys:
        return [b"PING"]
    several = [keys[number % len(keys)] for number in chosen]
    one = several[0]
    if chosen[0] == 5:
        one = b"s3://bucket/" + one
    ending = [b"DURABILITY", durability] if durability else []
    match name:
        case "CALL":
            return [b"MILENA.CALL", b"Get", b"5000", pb.GetRequest(key=several[0]).SerializeToString()]
        case "MSET":
            return [b"MSET", *(word for key in several for word in (key, value))]
        case "GETRANGE":
            return [b"GETRANGE", one, b"0", b"1"]
        case "SET" | "SET NX" | "SET GET":
            return [*name.encode().split()[:1], one, value, *name.encode().split()[1:], *ending]
        case "MGET" | "EXISTS" | "DEL":
            return [name.encode(), *several]
        case _:
            return [name.encode(), one]


class ConnectionMachine(RuleBasedStateMachine):
    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(
        mode=st.sampled_from(["memory", "back", "through"]),
        there=st.dictionaries(st.sampled_from(DEFERRING), st.just(b"s3")),
    )
    def start(self, mode: str, there: dict[bytes, bytes]) -> None:
        self.loop = asyncio.new_event_loop()
        self.run(self._start(mode, there))

    async def _start(self, mode: str, there: dict[bytes, bytes]) -> None:
        self.server = ServerUnderTest(
            mode=mode,
            max_value_bytes=2 * HIGH_WATER,
            max_bytes=10**9,
            dirty_max_bytes=10**9,
            dirty_memory_bytes=10**9,
        )
        await self.server.t.start()
        self.ordinary = Conversation(self.server.connect(), Model())
        self.deferring = Conversation(self.server.connect(resp3=True), Model())
        assert self.deferring.client.now(b"CLIENT", b"DEFER", b"ON") == OK
        self.deferring.model.protocol = 3
        for key, value in {**there, b"a": b"s3"}.items():
            self.server.t.in_s3(key.decode(), value)
            (self.ordinary if key in ORDINARY else self.deferring).model.values[key] = value
        self.talks = (self.ordinary, self.deferring)

    @property
    def held(self) -> bool:
        t = self.server.t
        return not all(gate.is_set() for gate in (t.store.gate, t.store.read_gate, t.store.write_gate, t.disk.gate))

    @rule(drawn=pipelines, cut=st.integers(0, 300), wait=st.booleans())
    def send(self, drawn: list[Drawn], cut: int, wait: bool) -> None:
        self.run(self._send(self.ordinary, [argv_of(each, list(ORDINARY)) for each in drawn], cut, wait))

    @rule(drawn=pipelines, cut=st.integers(0, 300), wait=st.booleans())
    def send_deferring(self, drawn: list[Drawn], cut: int, wait: bool) -> None:
        self.run(run_ready_tasks())
        self.deferring.listen()
        free = set(DEFERRING) - self.deferring.outstanding
        sent = []
        for each in drawn:
            if each[0] in ("HELLO", "SKIP"):
                continue  # the one would end the deferring, and after the other the time of a write is unknown
            argv = argv_of(each, sorted(free))
            free -= {_bare(word) for word in argv[1:]}
            if argv[0] == b"MILENA.CALL":
                free.discard(pb.GetRequest.FromString(argv[3]).key)
            sent.append(argv)
        self.run(self._send(self.deferring, sent, cut, wait))

    async def _send(self, exchange: Conversation, sent: list[Argv], cut: int, wait: bool) -> None:
        exchange.send(sent, cut)
        if wait:
            await run_ready_tasks()

    @rule(gate=st.sampled_from(["gate", "read_gate", "write_gate", "disk"]))
    def hold(self, gate: str) -> None:
        (self.server.t.disk.gate if gate == "disk" else getattr(self.server.t.store, gate)).clear()

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.run(self._release())

    async def _release(self) -> None:
        t = self.server.t
        for gate in (t.store.gate, t.store.read_gate, t.store.write_gate, t.disk.gate):
            gate.set()
        await run_ready_tasks()

    @rule(deferring=st.booleans())
    def stop_reading(self, deferring: bool) -> None:
        self.talks[deferring].client.transport.client_reads = False

    @rule(deferring=st.booleans())
    def read_on(self, deferring: bool) -> None:
        self.run(self._read_on(self.talks[deferring]))

    async def _read_on(self, exchange: Conversation) -> None:
        exchange.client.transport.client_takes()
        await run_ready_tasks()

    @rule(key=st.sampled_from((*ORDINARY, *DEFERRING)))
    def invalidate_an_entry(self, key: bytes) -> None:
        self.server.t.memory.remove(key)

    @precondition(lambda self: not self.held)
    @rule()
    def let_time_pass(self) -> None:
        """Long enough for uploads to begin."""
        self.run(self.server.t.clock.advance(1.5))

    @invariant()
    def every_reply_is_right(self) -> None:
        if hasattr(self, "talks"):
            for exchange in self.talks:
                exchange.listen()

    def teardown(self) -> None:
        if not hasattr(self, "talks"):
            return
        try:
            self.run(self._release())
            self.run(self._everything_has_a_reply())
        finally:
            self.run(self.server.t.stop())
            self.loop.close()

    async def _everything_has_a_reply(self) -> None:
        for _ in range(ROUNDS):
            for exchange in self.talks:
                exchange.client.transport.client_takes()
                await run_ready_tasks()
                exchange.listen()
            if not any(exchange.due or exchange.deferred for exchange in self.talks):
                break
            await asyncio.sleep(0.001)
        for exchange in self.talks:
            assert not exchange.due, "an answer is missing"
            assert not exchange.deferred, "a deferred answer is missing"
            assert exchange.client.transport.reading
            assert exchange.client.connection.unread == 0
            assert not exchange.client.connection.waits
            exchange.client.send(command(b"GET", b"none") + command(b"QUIT"))
        await run_ready_tasks()
        assert not self.server.context.clients.by_id


TestConnections = pytest.mark.timeout(300)(ConnectionMachine.TestCase)
TestConnections.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
