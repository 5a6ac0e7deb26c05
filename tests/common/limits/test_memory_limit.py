"""The memory limit of a process in control groups, at whatever level and in whichever version it is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_common.limits.memory_limit import memory_limit

MIB = 2**20


def limits(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        # A container that sees its own group as the root.
        ("0::/", {"memory.max": str(300 * MIB)}, 300),
        ("4:memory:/docker/abc", {"memory/memory.limit_in_bytes": str(200 * MIB)}, 200),
        # Nested: the group's own limit, that of a parent, the least of all.
        ("0::/pod/app", {"pod/app/memory.max": str(100 * MIB)}, 100),
        ("0::/pod/app", {"pod/app/memory.max": "max", "pod/memory.max": str(150 * MIB)}, 150),
        ("0::/a/b", {"a/memory.max": str(90 * MIB), "a/b/memory.max": str(120 * MIB)}, 90),
        (
            "5:cpu,memory:/x/y",
            {"memory/x/memory.limit_in_bytes": str(80 * MIB), "memory/x/y/memory.limit_in_bytes": str(2**62)},
            80,
        ),
        # Both versions are mounted, and the controller is in the older one.
        ("4:memory:/x\n0::/", {"memory/x/memory.limit_in_bytes": str(70 * MIB)}, 70),
    ],
)
def test_the_least_limit_on_the_way_to_the_root_holds(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int
) -> None:
    (tmp_path / "self").write_text(groups + "\n")
    limits(tmp_path / "cgroup", files)
    assert memory_limit(tmp_path / "self", tmp_path / "cgroup") == limit * MIB


@pytest.mark.parametrize("groups", ["", "0::/", "0::/../../etc", "garbage", "1:memory:relative"])
def test_without_a_limit_it_is_the_machines_memory(tmp_path: Path, groups: str) -> None:
    (tmp_path / "self").write_text(groups)
    none = tmp_path / "none"
    assert memory_limit(tmp_path / "self", tmp_path / "cgroup") == memory_limit(none, none)
