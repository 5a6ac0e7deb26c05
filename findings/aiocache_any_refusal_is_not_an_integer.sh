#!/usr/bin/env bash
# aiocache 0.12.3 with redis-py 8.1.0: increment() of a counter that Redis refuses to change for any reason at all
# raises `TypeError: Value is not an integer`.
#
# Seen with a read-only replica of redis-server 7.0, on a key that does not exist, and on one that is 41: Redis answers
# READONLY, and set() of the same client raises ReadOnlyError. The same text comes for MOVED, OOM or an unknown
# command, so whoever looks for the reason looks at the value.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs redis-server.
set -euo pipefail
folder=$(mktemp -d)
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'aiocache==0.12.3' 'redis==8.1.0'
cd "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' >/dev/null 2>&1 &
server=$!
trap 'kill $server; rm -rf "$folder"' EXIT
venv/bin/python - "$port" <<'PY'
import asyncio
import sys
import time

import aiocache
import redis
import redis.asyncio

server = redis.Redis(port=int(sys.argv[1]))
for _ in range(100):
    try:
        server.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print("redis-server", server.info()["redis_version"], "aiocache", aiocache.__version__)
server.set("there", 41)
server.replicaof("127.0.0.1", 1)  # from here on it is a replica, which clients must not write to


async def answers():
    cache = aiocache.RedisCache()
    cache.client = redis.asyncio.Redis(port=int(sys.argv[1]))
    for call in (cache.increment("counter"), cache.increment("there"), cache.set("counter", 1)):
        try:
            yield str(await call)
        except Exception as error:
            yield f"{type(error).__name__}: {error}"


async def main():
    return [answer async for answer in answers()]


seen = asyncio.run(main())
print(*seen, sep="\n")
sys.exit(
    seen
    != [
        "TypeError: Value is not an integer",
        "TypeError: Value is not an integer",
        "ReadOnlyError: You can't write against a read only replica.",
    ]
)
PY
