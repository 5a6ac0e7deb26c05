"""Shell. `python -m tests.e2e.tls.one_client KIND HOST PORT CA`: one library sets and gets keys over TLS, as APP.

KIND is `redis-py`, `coredis` (both follow the ring), or `stub`, gRPC's own. Prints `ok`, or the texts of the error.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

import grpc
import redis
from coredis import RedisCluster as CoredisCluster

from milena_common.api.credentials import Credentials
from milena_common.api.pb import router_server_pb2 as pb

APP = Credentials("app", "the-password-of-app")
KEYS = [f"app/{number}" for number in range(20)]
SECONDS = 20.0


def redis_py(host: str, port: int, ca: str) -> None:
    # At first one for a single node: that for a cluster takes 127.0.0.1 for the name localhost.
    with redis.Redis(
        host=host, port=port, ssl=True, ssl_ca_certs=ca, username=APP.user, password=APP.password
    ) as one:
        one.ping()
    with redis.RedisCluster(
        host=host, port=port, ssl=True, ssl_ca_certs=ca, username=APP.user, password=APP.password
    ) as client:
        for key in KEYS:
            client.set(key, key)
        assert [client.get(key) for key in KEYS] == [key.encode() for key in KEYS]


def coredis(host: str, port: int, ca: str) -> None:
    async def run() -> None:
        context = ssl.create_default_context(cafile=ca)
        client: Any = CoredisCluster(
            host=host, port=port, ssl_context=context, username=APP.user, password=APP.password
        )
        async with client:
            for key in KEYS:
                await client.set(key, key)
            assert [await client.get(key) for key in KEYS] == [key.encode() for key in KEYS]

    asyncio.run(run())


def stub(host: str, port: int, ca: str) -> None:
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    # By the address: a name has others too, and the error is that of any of them.
    options = (("grpc.ssl_target_name_override", host),)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:

        def call(method: str, request: Any, response: Any) -> Any:
            made = channel.unary_unary(
                f"/router_server.Router/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            return made(request, timeout=SECONDS, metadata=APP.call_metadata())

        call("Put", pb.PutRequest(key=b"app/1", value=b"v"), pb.PutResponse)
        assert call("Get", pb.GetRequest(key=b"app/1"), pb.GetResponse).value == b"v"


def texts(error: BaseException | None) -> str:
    """Return the texts of an error, and of those from which it comes."""
    found = []
    while error is not None:
        found += [f"{type(error).__name__}: {error}", *map(texts, getattr(error, "exceptions", ()))]
        error = error.__cause__ or error.__context__
    return "\n".join(found)


if __name__ == "__main__":
    kind, host, port, ca = sys.argv[1:]
    try:
        {"redis-py": redis_py, "coredis": coredis, "stub": stub}[kind](host, int(port), ca)
        print("ok")
    except Exception as error:
        print(texts(error))
