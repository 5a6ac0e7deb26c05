"""Large objects in a store that returns ranges with the status 200, and ignores conditions: `rclone serve s3`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import redis

from milena_client import ConditionFailed, Milena
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.network.addresses import parse_address
from tests.e2e.large_objects.ranges import KIB, NEVER_FRESH, SIZE
from tests.e2e.raw import router_stub
from tests.support.cluster import Cluster
from tests.support.s3.rclone_server import RcloneServer

pytestmark = pytest.mark.e2e


def test_ranges_of_a_store_that_returns_them_with_200_are_the_right_bytes_of_one_version(tmp_path: Path) -> None:
    value = random.Random(1).randbytes(SIZE)
    with RcloneServer(tmp_path / "rclone") as store:
        bucket = store.new_bucket()
        store.client.put_object(Bucket=bucket, Key="large", Body=value)
        with Cluster(tmp_path, store.endpoint_url, bucket, 2, node_env=NEVER_FRESH) as cluster:
            at = parse_address(cluster.nodes[0].resp)
            with redis.RedisCluster(host=at.host, port=at.port) as client:
                for first in (0, 1000, SIZE - 10):
                    part = value[first : first + 50 * KIB]
                    assert client.getrange("large", first, first + 50 * KIB - 1) == part
            with router_stub(cluster.address) as router:
                pieces = [*router.Read(pb.GetRequest(key=b"large"), timeout=30)]
                assert b"".join(piece.value for piece in pieces) == value
            with Milena(cluster.address) as m, m.open("large") as file:
                assert file.read(100) == value[:100]
                store.client.put_object(Bucket=bucket, Key="large", Body=value[::-1])
                file.seek(300 * KIB)
                with pytest.raises(ConditionFailed):
                    file.read(100)
                part = m.get_range("large", 0, 100)
                assert part is not None
                assert part.value == value[::-1][:100]
