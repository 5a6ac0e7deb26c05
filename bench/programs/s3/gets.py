"""Shell. GetObject by raw HTTP, with signatures of version 4 in the header, over CONNECTIONS connections.

    python -m bench.programs.s3.gets ENDPOINT_URL SECONDS

of the hot keys of one bucket, which were read before. Each request is signed once, before the measurement, by
botocore: signatures hold for minutes, so that the load costs little and the server has all the work of checking
them. Replies are not parsed beyond their status and length.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import cycle
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bench.case import Samples
from bench.child import run_and_print
from bench.fixtures import BUCKET, S3_KEYS
from bench.workload.load import with_callers
from bench.workload.new_objects import VALUE_BYTES
from tests.support.s3.moto_server import REGION

CONNECTIONS = 32
KEYS = [f"hot/{number}" for number in range(100)]


def signed(endpoint_url: str, key: str) -> bytes:
    """Return the bytes of a request for `key`."""
    request = AWSRequest("GET", f"{endpoint_url}/{BUCKET}/{key}")
    S3SigV4Auth(Credentials(*S3_KEYS), "s3", REGION).add_auth(request)
    fields = {"Host": urlsplit(endpoint_url).netloc, **dict(request.headers.items())}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET /{BUCKET}/{key} HTTP/1.1\r\n{lines}\r\n".encode()


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request, and return the length of the body. Raises RuntimeError for another status than 200."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(b"http/1.1 200 "):
        raise RuntimeError(f"{head.decode()}{body.decode(errors='replace')}")
    return length


async def main(endpoint_url: str, seconds: float) -> Samples:
    at = urlsplit(endpoint_url)
    requests = [signed(endpoint_url, key) for key in KEYS]
    free = [await asyncio.open_connection(at.hostname, at.port) for _ in range(CONNECTIONS)]
    every = list(free)
    for request in requests:
        assert await get(*free[0], request) == VALUE_BYTES
    following = cycle(requests)

    async def call() -> None:
        connection = free.pop()
        await get(*connection, next(following))
        free.append(connection)

    samples = await with_callers(call, CONNECTIONS, seconds)
    for _, writer in every:
        writer.close()
    return samples


if __name__ == "__main__":
    run_and_print(main(sys.argv[1], float(sys.argv[2])))
