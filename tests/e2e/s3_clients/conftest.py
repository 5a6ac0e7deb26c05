"""Shell. One cluster for all tests of clients of S3: each has keys of its own below a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.config import Config
from mypy_boto3_s3 import S3Client

from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer

ACCESS_KEY, SECRET_KEY = "milena-tests", "a secret of thirty-two letters ..".replace(" ", "-")


class Endpoints(NamedTuple):
    """The endpoints of a cluster: of two nodes, each of which owns half of the keys, and the router's."""

    cluster: Cluster
    bucket: str
    urls: tuple[str, ...]

    @property
    def url(self) -> str:
        return self.urls[0]

    def variables(self, number: int = 0) -> dict[str, str]:
        """The environment by which programs find the endpoint of a node, and log in there."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.urls[number],
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture(scope="session")
def endpoints(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    directory = tmp_path_factory.mktemp("s3-clients")
    keys = directory / "keys"
    keys.write_text(f"# for tests\n{ACCESS_KEY} {SECRET_KEY}\n")
    env = {"S3_KEYS_FILE": str(keys), "COPIES": "1"}
    with Cluster(directory / "cluster", moto.endpoint_url, moto.new_bucket(), 2, node_env=env) as cluster:
        yield Endpoints(
            cluster, cluster.bucket, tuple(f"http://{each.s3}" for each in (*cluster.nodes, cluster.router))
        )
    assert cluster.tracebacks() == []


def client_of(url: str, access_key: str = ACCESS_KEY, secret: str = SECRET_KEY, **options: Any) -> S3Client:
    """boto3 with its defaults, but for one attempt where a test counts on it."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        config=Config(**options) if options else None,
    )


@pytest.fixture(params=["first", "second", "router"])
def client(request: pytest.FixtureRequest, endpoints: Endpoints) -> S3Client:
    """boto3 at each of the two nodes, of which one owns a key, and at the router."""
    return client_of(endpoints.urls[("first", "second", "router").index(request.param)])
