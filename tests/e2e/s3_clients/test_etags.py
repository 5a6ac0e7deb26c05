"""The ETag that a put returns is S3's, also in a bucket where it cannot be foretold."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from tests.e2e.s3_clients.conftest import ACCESS_KEY, SECRET_KEY, Endpoints, client_of
from tests.support.cluster import Cluster
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import OtherETags
from tests.support.s3.moto_server import MotoServer

pytestmark = pytest.mark.e2e


def put(client: S3Client, bucket: str, key: str, value: bytes, durability: str = "") -> tuple[str, str]:
    """Put an object; return the ETag and the class of the reply."""

    def name_class(params: dict[str, dict[str, str]], **_: object) -> None:
        if durability:
            params["headers"]["x-milena-durability"] = durability

    client.meta.events.register_first("before-call.s3.PutObject", name_class, "class")
    try:
        reply = client.put_object(Bucket=bucket, Key=key, Body=value)
    finally:
        client.meta.events.unregister("before-call.s3.PutObject", name_class, "class")
    return reply["ETag"], reply["ResponseMetadata"]["HTTPHeaders"]["x-milena-durability"]


def test_a_put_waits_for_s3_only_where_the_etag_is_not_the_md5(
    endpoints: Endpoints, s3: S3Client, moto: MotoServer, tmp_path: Path
) -> None:
    value = b"v" * 1000
    digest = md5(value).hexdigest()
    plain = client_of(endpoints.url)
    assert put(plain, endpoints.bucket, "etags/plain", value) == (f'"{digest}"', "back")
    assert put(plain, endpoints.bucket, "etags/through", value, "through") == (f'"{digest}"', "through")
    keys = tmp_path / "keys"
    keys.write_text(f"{ACCESS_KEY} {SECRET_KEY}\n")
    env = {"S3_KEYS_FILE": str(keys), "COPIES": "1"}
    with FaultProxy(moto.endpoint_url) as proxy:
        proxy.inject(OtherETags())
        with Cluster(tmp_path / "cluster", proxy.endpoint_url, moto.new_bucket(), 1, node_env=env) as cluster:
            client = client_of(f"http://{cluster.nodes[0].s3}")
            other = f'"{digest[::-1]}"'
            assert put(client, cluster.bucket, "other", value) == (other, "through")
            head = client.head_object(Bucket=cluster.bucket, Key="other")
            assert head["ETag"] == other
            assert client.get_object(Bucket=cluster.bucket, Key="other", IfMatch=other)["Body"].read() == value
            # Who names a class has it, with an ETag that changes when S3 has the object.
            assert put(client, cluster.bucket, "named", value, "back") == (f'"{digest}"', "back")
            assert s3.head_object(Bucket=cluster.bucket, Key="other")["ETag"] == f'"{digest}"'
