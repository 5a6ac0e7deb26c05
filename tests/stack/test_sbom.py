"""The bill of materials of the image: every package that is installed, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

from tests.stack.files import ROOT


def test_it_has_every_installed_package(tmp_path: Path) -> None:
    for name in ("one", "two"):
        subprocess.run([sys.executable, ROOT / "scripts" / "sbom.py", tmp_path / name], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    document = json.loads((tmp_path / "one").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["name"] == "milena-cache"
    found = {each["name"]: each["version"] for each in document["components"]}
    assert found["grpcio"] == version("grpcio")
    assert (
        len(found)
        == len({each.metadata["Name"].lower().replace("_", "-").replace(".", "-") for each in distributions()}) - 1
    )
    assert all(each["purl"].startswith("pkg:pypi/") for each in document["components"])
