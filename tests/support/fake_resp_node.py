"""Shell. A cache node as clients see it in the Redis protocol: a real socket, and every misbehaviour.

Its threads reply to GET, MGET and MILENA.CALL from what a `MemoryCluster` says. A test may put any bytes in place
of a reply, hold replies back as a node that defers does, fall silent, break off connections, and be gone.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hiredis
from google.protobuf.message import Message

from milena_common.api.errors import MilenaError
from milena_common.api.keys import split_cache_key
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.resp.encoding import OK, RESP3, bulk, encode, error_line, null
from milena_common.resp.errors import to_resp

Argv = list[bytes]
Reply = Callable[[str, Any], Message]

REQUESTS = {
    b"Get": pb.GetRequest,
    b"Put": pb.PutRequest,
    b"Delete": pb.DeleteRequest,
    b"Upload": pb.UploadRequest,
    b"List": pb.ListRequest,
}


class FakeRespNode:
    """Listens on `port` of 127.0.0.1 (0: a free one), at `address`, until it is closed.

    `says`: bytes in place of the reply to a command, or None for the usual one. `defers`: which commands get
    replies only with `release`. `silent`: commands are read, and get no reply. `received` are all commands but
    the handshakes. `takes_sets`: puts may come as SET. `shows`: its monotonic time in milliseconds, None for a
    node that shows none; `times_shown` counts how often it was requested. `accepted` makes the connection that is
    used of one that was accepted; it must not wait.
    """

    def __init__(
        self,
        reply: Reply,
        port: int = 0,
        accepted: Callable[[socket.socket], socket.socket] = lambda connection: connection,
    ) -> None:
        self._reply = reply
        self._accepted = accepted
        self.says: Callable[[Argv], bytes | None] = lambda argv: None
        self.defers: Callable[[Argv], bool] = lambda argv: False
        self.silent = False
        self.received: list[Argv] = []
        self.greetings = 0
        self.takes_sets = False
        self.shows: int | None = None
        self.times_shown = 0
        self.held: list[tuple[socket.socket, int, Argv]] = []
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def commands(self) -> list[bytes]:
        """The names of the commands that were received."""
        return [argv[0] for argv in self.received]

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._accepted(self._server.accept()[0])
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):
                self._read(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _read(self, connection: socket.socket) -> None:
        reader = hiredis.Reader(notEnoughData=self)
        deferred = 0
        while data := connection.recv(65536):
            reader.feed(data)
            replies: list[bytes] = []
            held: list[tuple[socket.socket, int, Argv]] = []
            while (argv := reader.gets()) is not self:
                greets = argv[0] in (b"HELLO", b"CLIENT", b"MILENA.HELLO")
                if greets:
                    self.greetings += 1
                else:
                    self.received.append(argv)
                if self.silent:
                    continue
                if not greets and self.defers(argv):
                    deferred += 1
                    held.append((connection, deferred, argv))
                    replies.append(b"-DEFERRED %d\r\n" % deferred)
                else:
                    replies.append(self.usual(argv))
            with self._lock:  # a client that has seen these replies finds what is held
                connection.sendall(b"".join(replies))
                self.held += held

    def usual(self, argv: Argv) -> bytes:
        """The reply to a command, as bytes."""
        said = self.says(argv)
        if said is not None:
            return said
        try:
            return self._usual(argv)
        except MilenaError as error:
            return error_line(to_resp(error))

    def _usual(self, argv: Argv) -> bytes:
        match argv:
            case [b"HELLO", *_]:
                modules = [{b"name": b"milena", b"ver": 1}] if self.takes_sets else []
                return encode({b"server": b"fake", b"proto": 3, b"id": 7, b"modules": modules}, RESP3)
            case [b"MILENA.HELLO", *_]:
                self.times_shown += 1
                return OK if self.shows is None else b":%d\r\n" % self.shows
            case [b"GET", key]:
                return self._get(key)
            case [b"MGET", *keys]:
                return b"*%d\r\n%b" % (len(keys), b"".join(self._get(key) for key in keys))
            case [b"SET", key, value, b"RECEIPT", b"WITHIN", _, _, *options]:
                return self._set(key, value, dict(zip(options[::2], options[1::2], strict=True)))
            case [b"MILENA.CALL", method, _, request, *_]:
                reply = self._reply(method.decode(), REQUESTS[method].FromString(request))
                return bulk(reply.SerializeToString())
        return OK

    def _get(self, cache_key: bytes) -> bytes:
        bucket, key = split_cache_key(cache_key)
        found: Any = self._reply("Get", pb.GetRequest(key=key, bucket=bucket))
        return bulk(found.value) if found.successful else null(RESP3)

    def _set(self, cache_key: bytes, value: bytes, options: dict[bytes, bytes]) -> bytes:
        bucket, key = split_cache_key(cache_key)
        request = pb.PutRequest(
            key=key,
            bucket=bucket,
            value=value,
            durability=options.get(b"DURABILITY", b"").decode(),
            ttl_ms=int(options.get(b"PX", b"0")),
        )
        written: Any = self._reply("Put", request)
        return f"+{written.durability} {written.node}\r\n".encode()

    def release(self) -> None:
        """Reply what was held back, the last one first."""
        with self._lock:
            held, self.held = self.held, []
        for connection, number, argv in reversed(held):
            with suppress(OSError):  # its client has gone
                connection.sendall(b">3\r\n+deferred\r\n:%d\r\n%b" % (number, self.usual(argv)))

    def push(self, message: bytes) -> None:
        """Send `message` to all connections."""
        with self._lock:
            for connection in self._connections:
                connection.sendall(message)

    def disconnect(self) -> None:
        """Break off all connections; new ones are taken."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # its client has gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Be gone."""
        with suppress(OSError):  # it is gone already
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.disconnect()
        for thread in self._threads:
            thread.join(10)
