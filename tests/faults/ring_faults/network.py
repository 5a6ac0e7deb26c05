"""Shell. A network between processes of one machine, whose links can be disconnected: a TCP proxy for each server.

All processes have the same IP address, so a proxy finds the process that connects by its socket: the kernel
knows the inode of the socket with that port, the process has it open, and its environment has its name in PROCESS.

While a link from one process to another is disconnected, what is sent on it waits in the proxy, the end of a
connection too, and new connections are accepted and go nowhere, in place of being unanswered. When the link is
restored, everything arrives late: as after a partition in which TCP has sent its packets again. Connections of
processes without a name are those of clients, which are never disconnected.

The proxies run in a process of their own: clients that are busy must not delay them. Control is synchronous.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.ports import ReservedPort

# The variable that names a process.
PROCESS = "RING_FAULTS_PROCESS"
CLIENT = "client"
CHUNK = 65536
_CONTROL_SECONDS = 20.0
# Of Linux' sock_diag(7).
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _INODE_AT = 4, 20, 1, 84


class Network:
    """Control of the proxies, for use in a with statement."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._child = context.Process(target=_run_proxies, args=(theirs, os.getpid()), daemon=True)
        self._ports: list[ReservedPort] = []

    def __enter__(self) -> Network:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.join()
        self._child.close()
        for port in self._ports:
            port.close()

    def proxy(self, name: str, server: str) -> str:
        """Return the address of a new proxy for the process `name`, whose server is at `server`, ``host:port``."""
        port = ReservedPort()
        self._ports.append(port)
        self._call("add", name, port.number, server)
        return port.address

    def disconnect(self, links: Iterable[tuple[str, str]]) -> None:
        """Disconnect the links from the first to the second process of each pair."""
        self._call("disconnect", list(links))

    def restore(self) -> None:
        """Restore all links."""
        self._call("restore")

    def process_exited(self, name: str) -> None:
        """Refuse connections to the process, as the kernel of its machine does."""
        self._call("process_exited", name)

    def process_started(self, name: str) -> None:
        """Accept connections to the process."""
        self._call("process_started", name)

    def _call(self, method: str, *arguments: Any) -> None:
        self._control.send((method, arguments))
        if not self._control.poll(_CONTROL_SECONDS):
            raise TimeoutError(f"the proxies did not reply to {method}")
        self._control.recv()


def _run_proxies(control: Connection, parent: int) -> None:
    asyncio.run(_Proxies(parent).run(control))


class _Proxies:
    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._ports: dict[int, tuple[str, tuple[str, int]]] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self._disconnected: set[tuple[str, str]] = set()
        self._restored = asyncio.Event()

    async def run(self, control: Connection) -> None:
        """Carry out commands until the other side closes."""
        loop = asyncio.get_running_loop()
        with suppress(EOFError):
            while True:
                method, arguments = await loop.run_in_executor(None, control.recv)
                await getattr(self, method)(*arguments)
                control.send(None)

    # ---- commands

    async def add(self, name: str, port: int, server: str) -> None:
        host, _, number = server.rpartition(":")
        self._ports[port] = (name, (host, int(number)))
        await self._listen(port)

    async def disconnect(self, links: list[tuple[str, str]]) -> None:
        self._disconnected.update(links)

    async def restore(self) -> None:
        self._disconnected.clear()
        restored, self._restored = self._restored, asyncio.Event()
        restored.set()

    async def process_exited(self, name: str) -> None:
        for port in self._ports_of(name):
            if (server := self._servers.pop(port, None)) is not None:
                server.close()

    async def process_started(self, name: str) -> None:
        for port in self._ports_of(name):
            await self._listen(port)

    # ---- connections

    def _ports_of(self, name: str) -> list[int]:
        return [port for port, (owner, _) in self._ports.items() if owner == name]

    async def _listen(self, port: int) -> None:
        if port in self._servers:
            return
        name, upstream = self._ports[port]

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                await self._serve(name, port, upstream, reader, writer)

        self._servers[port] = await asyncio.start_server(connected, "127.0.0.1", port, limit=CHUNK)

    async def _serve(
        self,
        name: str,
        port: int,
        upstream: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        remote: asyncio.StreamWriter | None = None
        try:
            caller = self._caller(writer.get_extra_info("peername")[1], port)
            await self._passable((caller, name), (name, caller))
            received, remote = await asyncio.open_connection(*upstream, limit=CHUNK)
            ways = [
                asyncio.create_task(self._pass_on(reader, remote, (caller, name))),
                asyncio.create_task(self._pass_on(received, writer, (name, caller))),
            ]
            try:
                # The first end of a way is the end of the connection: no protocol here uses half-closed ones.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for each in filter(None, (writer, remote)):
                each.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: tuple[str, str]
    ) -> None:
        while True:
            data = await reader.read(CHUNK)
            await self._passable(link)
            if not data:
                # What is left in the buffer goes before the end.
                writer.close()
                await writer.wait_closed()
                return
            writer.write(data)
            await writer.drain()

    async def _passable(self, *links: tuple[str, str]) -> None:
        while any(link in self._disconnected for link in links):
            await self._restored.wait()

    def _caller(self, local: int, remote: int) -> str:
        """Return the name of the process that connected from port `local` to `remote`."""
        inode = _inode(local, remote)
        if inode:
            children = Path(f"/proc/{self._parent}/task/{self._parent}/children").read_text().split()
            for pid in map(int, children):
                if _has_open(pid, f"socket:[{inode}]"):
                    return _name_of(pid)
        return CLIENT


def _inode(local: int, remote: int) -> int:
    """Return the inode of the socket of 127.0.0.1 with these ports; 0 if there is none.

    Of the kernel's tables one entry is requested: /proc/net/tcp has all of them, and takes milliseconds.
    """
    own = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as diag:
        diag.settimeout(1.0)
        request = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF)
        request += struct.pack("!HH16s16s", local, remote, own, own) + struct.pack(
            "=III", 0, 0xFFFFFFFF, 0xFFFFFFFF
        )
        diag.send(struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _REQUEST, 1, 0) + request)
        reply = diag.recv(4096)
    kind = struct.unpack_from("=H", reply, 4)[0]
    return int(struct.unpack_from("=I", reply, _INODE_AT)[0]) if kind == _BY_FAMILY else 0


def _has_open(pid: int, target: str) -> bool:
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(entry.path) == target:
                    return True
    return False


def _name_of(pid: int) -> str:
    """Return the name of a process; CLIENT if it has none."""
    with suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(f"{PROCESS}=".encode()):
                return variable.partition(b"=")[2].decode()
    return CLIENT
