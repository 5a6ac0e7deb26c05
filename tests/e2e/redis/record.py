"""Shell. `python -m tests.e2e.redis.record`: queries the redis-server of this machine, and keeps its replies."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from bench.peers.redis_server import RedisServer
from tests.e2e.redis.runs import RECORDED, record, run_all
from tests.e2e.redis.wire import Wire, parsed


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory), durable=False) as server:
        with Wire(server.address) as wire:
            version = re.search(rb"redis_version:(\S+)", parsed(wire.say("INFO server")))
        assert version is not None
        record(version[1].decode(), run_all(server.address))
    print(f"{RECORDED}: Redis {version[1].decode()}")


if __name__ == "__main__":
    main()
