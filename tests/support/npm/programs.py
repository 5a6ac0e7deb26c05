"""Shell. Programs for Node.js that use the packages of package.json, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT

# Made by .ci/run, from package-lock.json beside this file.
MODULES = ROOT / "build" / "npm" / "node_modules"
SECONDS = 100.0


def why_not() -> str:
    """Return what is missing for such programs; "" if nothing."""
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if not (MODULES.parent / ".installed").exists():
        return f"{MODULES} is not there: .ci/run installs it from tests/support/npm"
    return ""


class NodeProgram:
    """`node script *arguments`, started at once in `directory`. `variables` is its environment besides PATH."""

    def __init__(self, script: Path, *arguments: str, directory: Path, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["node", "--no-deprecation", str(script), *arguments],
            cwd=directory,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "NODE_PATH": str(MODULES), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self) -> dict[str, Any]:
        """Wait until it has ended; return what it has printed: a JSON list for each call, its name first."""
        try:
            output, errors = self._process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, errors = self._process.communicate()
            raise AssertionError(f"it has not ended in {SECONDS} s: {errors}{output[-2000:]}") from None
        assert self._process.returncode == 0, errors + output[-1000:]
        results: dict[str, Any] = {}
        for line in output.splitlines():
            call, *returned = json.loads(line)
            assert call not in results, f"two calls are named {call!r}"
            results[call] = returned
        return results
