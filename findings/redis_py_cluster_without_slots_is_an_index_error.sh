#!/usr/bin/env bash
# redis-py 8.1.0: a cluster client that accepts missing slots (require_full_coverage=False) raises `IndexError: list
# index out of range` when the only node that it reaches has an empty table of slots, as one has that was started in
# cluster mode and is in no cluster yet. With the default, True, the error names the missing slots.
#
# Seen with redis-server 7.0 in cluster mode, by both kinds of clients. IndexError is no RedisError, so it passes by the
# handlers that programs have for a cluster that is not there yet.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs redis-server.
set -euo pipefail
folder=$(mktemp -d)
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'redis==8.1.0'
cd "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# Nodes of a cluster connect to each other on a second port, by default 10,000 above the first one.
bus=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --cluster-enabled yes --cluster-port "$bus" >/dev/null 2>&1 &
server=$!
trap 'kill $server; rm -rf "$folder"' EXIT
venv/bin/python - "$port" <<'PY'
import asyncio
import sys
import time

import redis
import redis.asyncio

port = int(sys.argv[1])
server = redis.Redis(port=port)
for _ in range(100):
    try:
        server.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print("redis-server", server.info()["redis_version"], "redis-py", redis.__version__)
print("CLUSTER SLOTS:", server.execute_command("CLUSTER SLOTS"))


def of(error):
    return f"{type(error).__name__}: {str(error)[:40]}"


def from_threads(full):
    try:
        redis.RedisCluster(host="127.0.0.1", port=port, require_full_coverage=full)
    except Exception as error:
        return of(error)


async def from_a_loop(full):
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=port, require_full_coverage=full)
    try:
        await client.get("key")
    except Exception as error:
        return of(error)
    finally:
        await client.aclose()


seen = [each for full in (False, True) for each in (from_threads(full), asyncio.run(from_a_loop(full)))]
print(*seen, sep="\n")
sys.exit(
    seen
    != [
        "IndexError: list index out of range",
        "IndexError: list index out of range",
        "RedisClusterException: All slots are not covered after query al",
        "RedisClusterException: All slots are not covered after query al",
    ]
)
PY
