"""Shell. The data of the demo: source files of the Python standard library, which every machine has."""

from __future__ import annotations

import sysconfig
from pathlib import Path

FILES = 300
_LARGEST = 200 * 1024


def standard_library() -> dict[str, bytes]:
    """Return the contents of the first FILES modules, by key: "stdlib/" and the path below the library."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, bytes] = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if "site-packages" in relative.parts or "test" in relative.parts or not path.is_file():
            continue
        if 0 < path.stat().st_size <= _LARGEST:
            found[f"stdlib/{relative.as_posix()}"] = path.read_bytes()
        if len(found) == FILES:
            break
    return found
