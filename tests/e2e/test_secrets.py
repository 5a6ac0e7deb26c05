"""No secret that a node was given is in anything that it says, whatever S3 or the proxy does."""

from __future__ import annotations

from contextlib import suppress

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import Milena, MilenaError, RetryPolicy
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import ACCESS_DENIED, INTERNAL_ERROR, Fault, Hang, LoseResponse, Reply, TruncatedBody

pytestmark = pytest.mark.e2e

SECRET_KEY = "planted0secret0key0planted0secret0key000"
TOKEN = "planted0session0token0planted0session0token"
PASSWORD = "planted0password"
SECRETS = (SECRET_KEY, TOKEN, PASSWORD)

# Errors of S3, some of which repeat what they were sent, as servers do.
FAULTS: list[Fault] = [
    Reply(403, "SignatureDoesNotMatch", f"x-amz-security-token:{TOKEN} and {SECRET_KEY}"),
    Reply(400, "InvalidToken", f"The provided token {TOKEN} is malformed"),
    Reply(400, TOKEN, "the code itself"),
    Reply(400, "ExpiredToken", f"{TOKEN} has expired"),
    INTERNAL_ERROR,
    ACCESS_DENIED,
    TruncatedBody(),
    LoseResponse(),
    Hang(),
]


def said(cluster: Cluster) -> str:
    """Everything that the processes say by themselves."""
    node = cluster.nodes[0]
    pages = [node.get(path)[1] for path in ("/readyz", "/livez", "/health", "/metrics")]
    return "\n".join([*node.lines(), *cluster.router.lines(), *pages])


@pytest.mark.parametrize("way", ["S3 itself", "a proxy"])
def test_no_configured_secret_is_in_logs_pages_metrics_or_errors(
    way: str, start_cluster: StartCluster, s3: S3Client, s3_proxy: FaultProxy
) -> None:
    proxy = s3_proxy.endpoint_url.replace("http://", f"http://user:{PASSWORD}@")
    cluster = start_cluster(
        1,
        node_env={
            # As from a secret that was made with `echo`.
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED\n",
            "AWS_SECRET_ACCESS_KEY": f"{SECRET_KEY}\n",
            "AWS_SESSION_TOKEN": f"{TOKEN}\n",
            "HTTP_PROXY": proxy,
            "NO_PROXY": "" if way == "a proxy" else "127.0.0.0/8",
            "no_grpc_proxy": "127.0.0.1,localhost",
            "S3_TIMEOUT_SECONDS": "0.5",
            "S3_CONNECT_TIMEOUT_SECONDS": "0.3",
            "S3_RETRIES": "0",
            "LOG_LEVEL": "debug",
        },
    )
    s3.put_object(Bucket=cluster.bucket, Key="k", Body=b"v")
    errors: list[str] = []
    with Milena(cluster.address, retry=RetryPolicy(tokens=0), timeout=3) as m:
        if way == "S3 itself":
            assert m.get("k") == b"v", "with the line ends stripped"
        for number, fault in enumerate(FAULTS):
            s3_proxy.inject(fault)
            for key in (f"plain{number}", f"/odd{number}/"):
                for call in (
                    lambda key=key: m.get(key),  # type: ignore[misc]
                    lambda key=key: m.exists(key),  # type: ignore[misc]
                    lambda key=key: m.set(key, b"v", durability="through"),  # type: ignore[misc]
                    lambda key=key: m.set(key, b"v"),  # type: ignore[misc]
                    lambda key=key: m.delete(key, durability="through"),  # type: ignore[misc]
                ):
                    try:
                        call()
                    except MilenaError as error:
                        errors.append(str(error))
            with suppress(MilenaError):
                list(m.scan(""))
            s3_proxy.heal()
        with s3_proxy.refusing():
            for key in ("refused", "/refused/"):
                with pytest.raises(MilenaError) as caught:
                    m.get(key)
                errors.append(str(caught.value))
    assert len(errors) > 3 * len(FAULTS)
    everything = "\n".join([said(cluster), *errors])
    assert [secret for secret in SECRETS if secret in everything] == []


def test_no_configured_secret_is_in_the_output_of_a_node_that_does_not_start(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1)
    node = cluster.add_node(
        {
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
            "AWS_SECRET_ACCESS_KEY": f'"{SECRET_KEY}"',
            "AWS_SESSION_TOKEN": f"{TOKEN}\n{TOKEN}",
            "S3_ENDPOINT_URL": f"http://user:{PASSWORD}@127.0.0.1:9000",
            "HTTP_PROXY": f"socks5://user:{PASSWORD}@127.0.0.1:9000",
        },
        wait=False,
    )
    assert node.wait() == 2
    lines = "\n".join(node.lines())
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "S3_ENDPOINT_URL", "HTTP_PROXY"):
        assert name in lines
    assert [secret for secret in SECRETS if secret in lines] == []
