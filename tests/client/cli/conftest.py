from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from milena_client.cli.app import milena
from milena_client.cli.terminal.session import Session
from milena_client.testing import FakeClock, MemoryTransport
from milena_client.testing.memory_cluster import MemoryCluster

Run = Callable[..., Result]


@pytest.fixture
def cluster() -> MemoryCluster:
    """An empty cluster in memory."""
    return MemoryCluster(lambda: 0.0)


@pytest.fixture
def run(cluster: MemoryCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `milena` with arguments against `cluster`, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILENA_URL", raising=False)

    def invoke(*arguments: str, input: str | bytes | None = None) -> Result:
        # The commands close their connection, and there is only this one.
        cluster.closed = False
        session: Any = Session(transport=MemoryTransport(cluster), clock=FakeClock())
        return CliRunner().invoke(milena, list(arguments), input=input, obj=session)

    return invoke
