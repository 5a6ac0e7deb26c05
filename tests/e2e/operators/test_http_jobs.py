"""`POST /jobs/…` at a router's port of metrics, with users, two nodes and S3."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from mypy_boto3_s3 import S3Client

from milena_client.admin import Admin
from milena_common.api.credentials import Credentials
from tests.e2e.conftest import StartCluster

USERS = "user ops on >ops-password ~* +@all\nuser app on >app-password ~* +@read +@write +@connection\n"


def post(ops: str, query: str, user: str = "ops") -> list[dict[str, Any]]:
    """Return the lines of the reply. Raises HTTPError."""
    login = b64encode(f"{user}:{user}-password".encode()).decode()
    request = Request(f"http://{ops}/jobs/{query}", method="POST", headers={"Authorization": f"Basic {login}"})
    with urlopen(request, timeout=30) as reply:
        return [json.loads(line) for line in reply]


@pytest.mark.e2e
def test_jobs_over_http_are_those_of_the_commands(
    start_cluster: StartCluster, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "users.acl").write_text(USERS)
    (tmp_path / "token").write_text("the-token-of-this-cluster\n")
    env = {
        "ACL_FILE": str(tmp_path / "users.acl"),
        "CLUSTER_TOKEN_FILE": str(tmp_path / "token"),
        "REQUIRE_AUTH": "true",
        "COPIES": "1",
    }
    for number in range(30):
        s3.put_object(Bucket=bucket, Key=f"data/{number:02}", Body=b"value")
    cluster = start_cluster(2, router_env=env, node_env=env)
    ops = cluster.router.ops
    with Admin(cluster.address, credentials=Credentials("ops", "ops-password")) as admin:
        assert post(ops, "warm?prefix=data/&dry_run=true")[-1]["warmed"] == 30
        assert sum(node.values["entries"] for node in admin.stats()) == 0
        warmed = post(ops, "warm?prefix=data/")[-1]
        assert (warmed["done"], warmed["warmed"], warmed["bytes"]) == (True, 30, 150)
        assert sum(node.values["entries"] for node in admin.stats()) == 30
        for action in ("invalidate", "pin", "unpin", "purge"):
            done = post(ops, f"{action}?prefix=data/")[-1]
            assert (done["done"], done["changed"]) == (True, 30), action
        assert sum(node.values["entries"] for node in admin.stats()) == 0
    for query, user, status in (
        ("purge?prefix=a", "app", 403),
        ("warm?prefix=data/", "app", 403),
        ("purge?prefix=a&rate=0", "ops", 400),
    ):
        with pytest.raises(HTTPError) as raised:
            post(ops, query, user)
        assert raised.value.code == status
    assert cluster.tracebacks() == []
