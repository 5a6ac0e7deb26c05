#!/usr/bin/env bash
# cashews 7.6.0 with redis-py 8.1.0, client_side=True: a value that Redis refused is served to the process that wanted
# to write it, for as long as it was to live, while Redis and all other processes have the value before.
#
# Seen with a redis-server 7.0 that takes no writes (a read-only replica): set() returns False and logs the error, as
# errors are suppressed by default, and get() then returns the value that was refused. set_many() returns nothing that
# would tell. Without client_side get() returns what Redis has. The connection has RESP2 here, since with RESP3, the
# default of redis-py 8, no invalidation arrives at all.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs redis-server.
set -euo pipefail
folder=$(mktemp -d)
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'cashews==7.6.0' 'redis==8.1.0'
cd "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' >/dev/null 2>&1 &
server=$!
trap 'kill $server; rm -rf "$folder"' EXIT
venv/bin/python - "$port" 2>/dev/null <<'PY'
import asyncio
import logging
import sys
import time
from importlib.metadata import version

import redis
from cashews import Cache

logging.disable()
server = redis.Redis(port=int(sys.argv[1]))
for _ in range(100):
    try:
        server.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print("redis-server", server.info()["redis_version"], "cashews", version("cashews"))


async def main(client_side):
    cache = Cache()
    cache.setup(f"redis://127.0.0.1:{sys.argv[1]}/0?protocol=2", client_side=client_side)
    server.replicaof("NO", "ONE")
    await cache.set("one", "before", expire=60)
    await cache.set_many({"two": "before"}, expire=60)
    server.replicaof("127.0.0.1", 1)  # from here on it is a replica, which clients must not write to
    written = await cache.set("one", "refused", expire=60)
    await cache.set_many({"two": "refused"}, expire=60)
    await asyncio.sleep(1)  # time for invalidations
    seen = written, await cache.get("one"), await cache.get("two")
    await cache.close()
    return seen


sides = {side: asyncio.run(main(side)) for side in (False, True)}
for side, seen in sides.items():
    print(f"client_side={side}: set() {seen[0]}, get() of what set() and set_many() wrote: {seen[1:]}")
sys.exit(sides[False][1:] != ("before", "before") or sides[True] != (False, "refused", "refused"))
PY
