"""Shell. `python -m tests.e2e.s3_clients.s3_tests.suite CHECKOUT`: Ceph's s3-tests at the endpoint of a node.

    git clone https://github.com/ceph/s3-tests /tmp/s3-tests
    git -C /tmp/s3-tests checkout 8f0ae7b404a3a2fcf7038bf1e6bf29544fe9b6a3

Those run that concern the operations of the endpoint (`selection`), at one of two nodes before moto, whose buckets
`plugin` makes there. All must pass but for the DIFFERENCES. With --moto they run at moto alone, and nothing is
judged. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.e2e.s3_clients.s3_tests.differences import MIN_PASSED, contradictions
from tests.e2e.s3_clients.s3_tests.selection import FILES
from tests.support.cluster import Cluster
from tests.support.processes import ROOT
from tests.support.s3.moto_server import AWS_VARIABLES, REGION, MotoServer

COMMIT: Final = "8f0ae7b404a3a2fcf7038bf1e6bf29544fe9b6a3"
SECONDS: Final = 3000.0
HERE: Final = Path(__file__).parent
ENVIRONMENT: Final = ROOT / "build" / "s3-tests"
_USERS: Final = ("main", "alt", "tenant", "iam", "iam root", "iam alt root")

# The error of each test, None if it passed.
Outcomes = dict[str, str | None]


def python() -> Path:
    """Return the Python that has what the tests import, in an environment that is made once."""
    installed, required = ENVIRONMENT / "installed.txt", (HERE / "requirements.txt").read_text()
    executable = ENVIRONMENT / "bin" / "python"
    if not installed.exists() or installed.read_text() != required:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        pip = [str(executable), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True, stdin=subprocess.DEVNULL)
        installed.write_text(required)
    return executable


def access_key(user: str) -> tuple[str, str]:
    """Return the access key of a user of the tests, and its secret."""
    name = user.replace(" ", "-")
    return f"{name}-access-key", f"{name}-secret-key-of-the-tests"


def configuration(endpoint_url: str) -> str:
    """Return the file that names the server and the users to the tests."""
    host, _, port = endpoint_url.removeprefix("http://").partition(":")
    lines = ["[DEFAULT]", f"host = {host}", f"port = {port}", "is_secure = False", "ssl_verify = False"]
    lines += ["[fixtures]", "bucket prefix = s3-tests-{random}-"]
    for user in _USERS:
        key, secret = access_key(user)
        section = user if user.startswith("iam") else f"s3 {user}"
        lines += [f"[{section}]", f"access_key = {key}", f"secret_key = {secret}", "tenant = tenant", "api_name ="]
        lines += [f"{name} = {key}" for name in ("user_id", "display_name")] + [f"email = {key}@example.com"]
    return "\n".join(lines)


def run(checkout: Path, endpoint_url: str, s3_url: str, kept: Path, name: str) -> Outcomes:
    """Run the tests at an endpoint, with the S3 behind it at `s3_url`. `kept`: for files that begin with `name`."""
    file, outcomes = kept / f"{name}.conf", kept / f"{name}.jsonl"
    file.write_text(configuration(endpoint_url))
    outcomes.unlink(missing_ok=True)
    environment = {
        **os.environ,
        **AWS_VARIABLES,
        "AWS_DEFAULT_REGION": REGION,
        "PYTHONPATH": os.pathsep.join((str(HERE), str(checkout))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "S3TEST_CONF": str(file),
        "MILENA_SUITE_S3": s3_url,
        "MILENA_SUITE_OUTCOMES": str(outcomes),
    }
    options = ("-q", "-p", "no:cacheprovider", "-p", "plugin", "--tb=short", "--durations=10", "-W", "ignore")
    with (kept / f"{name}.log").open("w") as log:
        subprocess.run(
            [str(python()), "-m", "pytest", *options, *FILES],
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
    return {test.rpartition("::")[2].removeprefix("test_"): error for test, error in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help=f"s3-tests at commit {COMMIT[:7]}")
    parser.add_argument("--moto", action="store_true", help="at moto alone")
    parser.add_argument("--keep", type=Path, help="a directory for the outcomes and logs")
    options = parser.parse_args()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        kept = (options.keep or directory).absolute()
        kept.mkdir(exist_ok=True)
        keys = directory / "keys"
        keys.write_text("".join(f"{' '.join(access_key(user))}\n" for user in _USERS))
        (directory / "moto").mkdir()
        with MotoServer(directory / "moto") as moto:
            if options.moto:
                outcomes = run(options.checkout, moto.endpoint_url, moto.endpoint_url, kept, "moto")
            else:
                node = {"S3_KEYS_FILE": str(keys), "S3_BUCKETS": "*", "COPIES": "1"}
                with Cluster(directory, moto.endpoint_url, moto.new_bucket(), 2, node_env=node) as cluster:
                    cluster.wait_for_ring(2)
                    url = f"http://{cluster.nodes[0].s3}"
                    outcomes = run(options.checkout, url, moto.endpoint_url, kept, "milena")
                    found += [*contradictions(outcomes), *cluster.tracebacks()]
    passed = sum(error is None for error in outcomes.values())
    print("\n".join(found))
    print(f"{passed} of {len(outcomes)} tests pass, at least {MIN_PASSED} are to")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
