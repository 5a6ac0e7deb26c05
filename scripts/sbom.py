"""Shell. `python scripts/sbom.py FILE`: writes what is installed beside this Python as CycloneDX, in JSON.

The image has it at /opt/milena/sbom.cdx.json, made of what its pip has installed, and not of what was asked for.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

SPECIFICATION = "1.5"
NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


def component(found: Distribution) -> dict[str, Any]:
    """Return the component of a distribution."""
    name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
    described: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": found.version,
        "purl": f"pkg:pypi/{name}@{found.version}",
        "bom-ref": f"pkg:pypi/{name}@{found.version}",
    }
    license_text = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    if license_text and len(license_text) < 100:
        described["licenses"] = [{"license": {"name": license_text}}]
    return described


def document() -> dict[str, Any]:
    """Return the document; the same distributions give the same one."""
    by_name = {each["name"]: each for each in map(component, distributions())}
    milena = by_name.pop("milena-cache")
    components = [by_name[name] for name in sorted(by_name)]
    number = uuid5(NAMESPACE, json.dumps([milena, components], sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        "metadata": {"component": {**milena, "type": "application"}},
        "components": components,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(document(), indent=1) + "\n")
