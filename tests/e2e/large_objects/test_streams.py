"""Read and Write over gRPC, by the generated stubs: through the router and at a node."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import Milena
from milena_common.api.pb import cache_server_pb2 as node_pb
from milena_common.api.pb import router_server_pb2 as pb
from tests.e2e.conftest import StartCluster
from tests.e2e.large_objects.ranges import BLOCK, KIB, SIZE, SMALL_BLOCKS
from tests.e2e.raw import cache_stub, rejection, router_stub
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

MIB = 2**20
SOON = 10.0
# More than a put, and more than a part of an upload.
LARGE = 9 * MIB + 3


def messages(key: bytes, value: bytes, *, whole: bool = True) -> Iterator[pb.UploadRequest]:
    for at in range(0, len(value), MIB):
        last = whole and at + MIB >= len(value)
        named = {} if at else {"key": key, "if_none_match": "*"}
        yield pb.UploadRequest(value=value[at : at + MIB], complete=last, **named)


def collect(pieces: Iterable[pb.GetResponse], read: bytearray) -> None:
    for piece in pieces:
        read += piece.value


def test_an_object_of_any_size_is_written_and_read_in_pieces(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    value = random.Random(1).randbytes(LARGE)
    cluster = start_cluster(router_env={"RATE_LIMIT": "5"})
    with router_stub(cluster.address) as router:
        written = router.Write(messages(b"large", value), timeout=30)
        assert (written.successful, written.durability) == (True, "through")
        assert s3.get_object(Bucket=bucket, Key="large")["Body"].read() == value
        # One request of the rate limit, whatever the number of pieces.
        pieces = [*router.Read(pb.GetRequest(key=b"large"), timeout=30)]
        assert b"".join(piece.value for piece in pieces) == value
        assert (pieces[0].etag, pieces[0].size) == (written.etag, LARGE)
        again = rejection(lambda: router.Write(messages(b"large", b"another"), timeout=30))
        assert again[0] == "FAILED_PRECONDITION"
        half = rejection(lambda: router.Write(messages(b"half", value, whole=False), timeout=30))
        assert half[0] == "INVALID_ARGUMENT"
        missing = [*router.Read(pb.GetRequest(key=b"half"), timeout=30)]
        assert [piece.successful for piece in missing] == [False]
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["large"]
    wait_until("no parts in S3", lambda: not s3.list_multipart_uploads(Bucket=bucket).get("Uploads"), SOON)
    with cache_stub(written.node) as node:
        pieces = [*node.Read(node_pb.GetRequest(key=b"large", offset=-BLOCK), timeout=30)]
        assert b"".join(piece.value for piece in pieces) == value[-BLOCK:]


def test_an_object_that_is_replaced_under_a_reader_is_an_error_or_the_version_it_began_with(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    size = 6 * MIB
    cluster = start_cluster(node_env={"TTL_SECONDS": "0", "GRACE_SECONDS": "0", "BLOCK_THRESHOLD": str(MIB)})
    with router_stub(cluster.address) as router:
        for number in range(4):
            s3.put_object(Bucket=bucket, Key="k", Body=bytes([number]) * size)
            call = router.Read(pb.GetRequest(key=b"k"), timeout=30)
            read = bytearray(next(call).value)
            if number % 2:
                s3.put_object(Bucket=bucket, Key="k", Body=bytes([100 + number]) * size)
                status, _ = rejection(lambda call=call, read=read: collect(call, read))
                assert status == "FAILED_PRECONDITION"
                assert len(read) < size
            else:
                collect(call, read)
                assert len(read) == size
            assert set(read) == {number}


def test_a_small_object_that_s3_does_not_have_yet_is_read_in_pieces_too(start_cluster: StartCluster) -> None:
    cluster = start_cluster(node_env=SMALL_BLOCKS)
    value = random.Random(2).randbytes(200 * KIB)
    with Milena(cluster.address) as m, router_stub(cluster.address) as router:
        m.set("small", value)
        assert len(value) < SIZE
        pieces = [*router.Read(pb.GetRequest(key=b"small", offset=10, length=100 * KIB), timeout=30)]
        assert b"".join(piece.value for piece in pieces) == value[10 : 10 + 100 * KIB]
