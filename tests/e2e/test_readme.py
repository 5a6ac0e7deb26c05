"""What the README shows is run as it is printed, twice: the second time finds what the first has left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.documents import ROOT, blocks
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster

ROUTER = "127.0.0.1:50050"
REDIS_PORT = "-p 6381"


def shown(language: str) -> list[str]:
    return [block.text for block in blocks(language) if block.document == ROOT / "README.md"]


def run(command: list[str], cluster: Cluster) -> str:
    environ = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "HOME": os.environ.get("HOME", "/"),
        "MILENA_URL": f"milena://{cluster.address}",
    }
    ran = subprocess.run(
        command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, f"{command[-1]}\n{ran.stdout}{ran.stderr}"
    assert "Traceback" not in ran.stderr
    return ran.stdout


def test_the_snippets_and_the_tour_of_the_readme_run_twice(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster(nodes=2)
    programs = shown("python")
    assert len(programs) == 2
    (tour,) = (text for text in shown("sh") if "milena put" in text)
    lines = tour.replace(ROUTER, cluster.address).replace("/tmp/docs", str(tmp_path / "docs")).splitlines()
    lines.remove("source .venv/bin/activate")
    if shutil.which("redis-cli") is None:
        lines = [line for line in lines if not line.startswith("redis-cli")]
    port = cluster.nodes[0].resp.rpartition(":")[2]
    script = "set -e -o pipefail\n" + "\n".join(lines).replace(REDIS_PORT, f"-p {port}")
    for _ in range(2):
        for program in programs:
            run([sys.executable, "-c", program.replace(ROUTER, cluster.address)], cluster)
        assert "healthy: 2 nodes ready" in run(["bash", "-c", script], cluster)
        assert (tmp_path / "docs" / "operations.md").read_bytes() == (ROOT / "docs" / "operations.md").read_bytes()
