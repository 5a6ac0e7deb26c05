"""boto3 at the router's S3 endpoint, with TLS on all connections, and while a node is killed."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from tests.e2e.conftest import StartCluster
from tests.e2e.s3_clients.conftest import ACCESS_KEY, SECRET_KEY, client_of
from tests.support.certificates import CLUSTER, Authority, tls_variables, write_files
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

LARGE = b"0123456789abcdef" * 2**16


def keys_file(folder: Path) -> dict[str, str]:
    """The variable of nodes whose endpoint knows one access key."""
    path = folder / "keys"
    path.write_text(f"{ACCESS_KEY} {SECRET_KEY}\n")
    return {"S3_KEYS_FILE": str(path)}


def test_every_connection_has_tls(start_cluster: StartCluster, bucket: str, tmp_path: Path) -> None:
    authority = Authority()
    variables = tls_variables(write_files(tmp_path, authority.pem, authority.issue(CLUSTER), "server"))
    files = write_files(tmp_path, authority.pem, authority.issue("client"), "client")
    cluster = start_cluster(2, router_env=variables, node_env={**variables, **keys_file(tmp_path)})
    cluster.wait_for_ring(2)
    client = boto3.client(
        "s3",
        endpoint_url=f"https://{cluster.router.s3}",
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        verify=files.authorities,
        config=Config(client_cert=(files.certificate, files.key)),
    )
    values = {f"tls/{number}": b"%d" % number for number in range(20)} | {"tls/large": LARGE}
    for key, value in values.items():
        client.put_object(Bucket=bucket, Key=key, Body=value)
    served = set()
    for key, value in values.items():
        got = client.get_object(Bucket=bucket, Key=key)
        assert got["Body"].read() == value
        served.add(got["ResponseMetadata"]["HTTPHeaders"]["x-milena-node"])
    assert len(served) == 2, "both nodes own some of the keys"
    part = client.get_object(Bucket=bucket, Key="tls/large", Range="bytes=16-31")
    assert part["Body"].read() == LARGE[16:32]
    listed = client.list_objects_v2(Bucket=bucket, Prefix="tls/")["Contents"]
    assert sorted(each["Key"] for each in listed) == sorted(values)
    with pytest.raises(BotoCoreError):
        client_of(f"http://{cluster.router.s3}", retries={"total_max_attempts": 1}, read_timeout=5).list_buckets()


def test_what_was_acknowledged_is_read_after_a_node_is_killed(
    start_cluster: StartCluster, bucket: str, tmp_path: Path
) -> None:
    cluster = start_cluster(
        3, router_env={"LEASE_SECONDS": "2"}, node_env={**keys_file(tmp_path), "FLUSH_DELAY_MS": "60000"}
    )
    cluster.wait_for_ring(3)
    client = client_of(f"http://{cluster.router.s3}", retries={"total_max_attempts": 10, "mode": "standard"})
    values = {f"kept/{number}": b"%d" % number for number in range(30)}

    def has_copies() -> bool:
        put = client.put_object(Bucket=bucket, Key="kept/first", Body=b"v")
        return put["ResponseMetadata"]["HTTPHeaders"]["x-milena-durability"] == "back"

    wait_until("writes have copies", has_copies, 30.0)
    nodes = {}
    for key, value in values.items():
        put = client.put_object(Bucket=bucket, Key=key, Body=value)
        headers = put["ResponseMetadata"]["HTTPHeaders"]
        assert headers["x-milena-durability"] == "back"
        nodes[key] = headers["x-milena-node"]
    killed = cluster.nodes[0]
    assert killed.address in nodes.values()
    cluster.kill_node(killed)
    for key, value in values.items():
        got = client.get_object(Bucket=bucket, Key=key)
        assert got["Body"].read() == value
        assert got["ResponseMetadata"]["HTTPHeaders"]["x-milena-node"] != killed.address
    client.put_object(Bucket=bucket, Key="kept/after", Body=b"after")
    assert client.get_object(Bucket=bucket, Key="kept/after")["Body"].read() == b"after"
    listed = client.list_objects_v2(Bucket=bucket, Prefix="kept/")["Contents"]
    assert {each["Key"] for each in listed} == {*values, "kept/first", "kept/after"}
