"""The rules by which the code is laid out, held by looking at its imports.

- Imports point one way: milena_common ← milena_client ← {milena_router, milena_cache}.
- A module says at its top what kind it is. *Pure* ones decide and touch nothing; *Coordination* is asyncio over
  Protocols; *Shell* is where the outside world is: sockets, files, clocks, and every library that does I/O.
- A library is imported where the table below says, so that replacing one is the change of a module or two.
- Everything is wired in `__main__`; nothing keeps state in a module.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("milena_common", "milena_client", "milena_router", "milena_cache")
MAY_IMPORT = {
    "milena_common": {"milena_common"},
    "milena_client": {"milena_common", "milena_client"},
    "milena_router": {"milena_common", "milena_client", "milena_router"},
    "milena_cache": {"milena_common", "milena_client", "milena_cache"},
}

# Which modules import which library. A library that is not here is not used.
LIBRARIES = {
    "aiohttp": ["milena_common.ops_http"],
    "boto3": ["milena_cache.s3_*", "milena_client.cli.local_s3"],
    "botocore": ["milena_cache.s3_boto3*", "milena_client.cli.local_*"],
    "cachetools": ["milena_cache.s3_boto3", "milena_cache.s3_obstore"],
    "click": ["milena_client.cli.*"],
    "dotenv": ["milena_common.process", "milena_client.cli.up"],
    "google": ["milena_common.grpc_door", "milena_client.*", "milena_cache.doors.redis.call"],
    "grpc": [
        "milena_common.grpc_door",
        "milena_common.status",
        "milena_client.connection",
        "milena_router.node_connection",
    ],
    "hiredis": ["milena_client.near_listener", "milena_client.resp_socket", "milena_client.resp_stream"],
    "grpc_health": ["milena_common.grpc_door"],
    "lmdb": ["milena_cache.journal_file", "milena_cache.journal_lmdb"],
    "mypy_boto3_s3": [
        "milena_cache.s3_boto3",
        "milena_cache.s3_boto3_bodies",
        "milena_cache.s3_boto3_client",
        "milena_client.cli.local_s3",
    ],
    "obstore": ["milena_cache.s3_obstore"],
    "prometheus_client": [
        "milena_common.metrics",
        "milena_common.ops_http",
        "milena_router.metrics",
        "milena_cache.metrics",
    ],
    "pytest": ["milena_client.testing"],
    "pythonjsonlogger": ["milena_common.logs"],
    "rich": ["milena_client.cli.*"],
    "uvloop": ["milena_common.process"],
}
# These do no I/O, or none where they are used.
HARMLESS = {
    ("cachetools", "*"),
    ("google", "*"),
    ("pytest", "milena_client.testing"),
    ("grpc", "milena_common.status"),  # the status codes
}

OUTSIDE_WORLD = {"os", "pathlib", "random", "select", "signal", "shutil", "socket", "subprocess", "time"}
FORBIDDEN = {
    "Pure": OUTSIDE_WORLD | {"asyncio", "logging", "threading"},
    "Coordination": OUTSIDE_WORLD,
}
# A library has no __main__: what its users do not pass in, these choose for them.
WIRED_HERE = {
    ("milena_client.aio", "os"),
    ("milena_client.client", "os"),
    ("milena_client.calls", "random"),
}

MOST_LINES = 400


@dataclass
class Module:
    """One source file. `imports` are full names; `at_import` those that are imported when it is."""

    name: str
    path: Path
    tree: ast.Module
    lines: int
    imports: set[str] = field(default_factory=set)
    at_import: set[str] = field(default_factory=set)

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def wires(self) -> bool:
        return self.path.stem in ("__init__", "__main__")

    @property
    def kind(self) -> str:
        first = self.docstring.partition(".")[0]
        return first if first in ("Pure", "Coordination", "Shell") else ""


def imported(node: ast.AST, *, at_import: bool) -> Iterator[str]:
    """The names that are imported below `node`; with `at_import` only those that importing the module imports."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "relative imports are not used"
            assert child.module is not None
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif at_import and (is_function(child) or is_for_types_only(child)):
            continue
        else:
            yield from imported(child, at_import=at_import)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@cache
def modules() -> dict[str, Module]:
    """Every module of the product, by name, except the generated ones."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if "pb" in relative.parts:
                continue
            name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text()
            tree = ast.parse(text)
            module = Module(name, path, tree, len(text.splitlines()))
            module.imports = set(imported(tree, at_import=False))
            module.at_import = set(imported(tree, at_import=True))
            found[name] = module
    return found


def top_level(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def third_party(module: Module) -> set[str]:
    return top_level(module.imports) - sys.stdlib_module_names - set(PACKAGES)


def complaints(found: Iterator[str]) -> None:
    listed = sorted(set(found))
    assert not listed, "\n" + "\n".join(listed)


def test_there_is_something_to_look_at() -> None:
    assert {module.package for module in modules().values()} == set(PACKAGES)
    assert len(modules()) > 50


def test_imports_point_one_way() -> None:
    complaints(
        f"{module.name} imports {package}"
        for module in modules().values()
        for package in top_level(module.imports) & set(PACKAGES) - MAY_IMPORT[module.package]
    )


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        name: {
            other
            for other in module.at_import
            # `from package import module` names the package too, which is there already.
            if other in modules() and not f"{name}.".startswith(f"{other}.")
        }
        for name, module in modules().items()
    }
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_every_module_says_what_kind_it_is_and_more() -> None:
    complaints(
        f"{module.name} does not begin with 'Pure.', 'Coordination.' or 'Shell.' and a reason"
        for module in modules().values()
        if not module.wires and not (module.kind and len(module.docstring) > 30)
    )
    complaints(f"{module.name} has no docstring" for module in modules().values() if not module.docstring)


def test_libraries_are_imported_where_the_table_says() -> None:
    complaints(
        f"{module.name} imports {library}"
        for module in modules().values()
        for library in third_party(module)
        if not any(fnmatch(module.name, pattern) for pattern in LIBRARIES.get(library, ()))
    )


def test_the_table_has_nothing_that_nobody_imports() -> None:
    complaints(
        f"{library}: nobody at {pattern}"
        for library, patterns in LIBRARIES.items()
        for pattern in patterns
        if not any(fnmatch(name, pattern) and library in third_party(module) for name, module in modules().items())
    )


def test_only_shells_import_libraries_that_do_io() -> None:
    complaints(
        f"{module.name} ({module.kind}) imports {library}"
        for module in modules().values()
        if not module.wires and module.kind != "Shell"
        for library in third_party(module)
        if not any(library == name and fnmatch(module.name, pattern) for name, pattern in HARMLESS)
    )


def test_pure_modules_and_coordination_leave_the_outside_world_alone() -> None:
    complaints(
        f"{module.name} ({module.kind}) imports {name}"
        for module in modules().values()
        for name in top_level(module.imports) & FORBIDDEN.get(module.kind, set())
        if (module.name, name) not in WIRED_HERE
    )


MUTABLE = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
CONTAINERS = {"dict", "list", "set", "bytearray", "deque", "defaultdict", "Counter", "OrderedDict", "count", "iter"}


CONSTANT = r"_?[A-Z0-9_]+|__all__"


def is_container(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in CONTAINERS
    return isinstance(value, MUTABLE)


def test_no_module_keeps_state() -> None:
    def found() -> Iterator[str]:
        for module in modules().values():
            for node in module.tree.body:
                if isinstance(node, ast.Assign):
                    targets, value = node.targets, node.value
                elif isinstance(node, ast.AnnAssign) and node.value is not None:
                    targets, value = [node.target], node.value
                else:
                    continue
                names = [ast.unparse(target) for target in targets]
                if is_container(value) and not all(re.fullmatch(CONSTANT, name) for name in names):
                    yield f"{module.name}:{node.lineno} {names}"
            for inner in ast.walk(module.tree):
                if isinstance(inner, ast.Global):
                    yield f"{module.name}:{inner.lineno} global {', '.join(inner.names)}"

    complaints(found())


def test_files_are_short_and_named_by_a_concept() -> None:
    complaints(
        f"{module.name} has {module.lines} lines" for module in modules().values() if module.lines > MOST_LINES
    )
    nameless = {"utils", "util", "helpers", "misc", "common", "base"}
    complaints(module.name for module in modules().values() if module.path.stem in nameless)


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        (
            "milena_client",
            "aiohttp boto3 botocore cachetools click dotenv lmdb moto obstore prometheus_client "
            "pytest pythonjsonlogger rich uvloop",
        ),
        ("milena_router", "boto3 botocore cachetools click lmdb moto obstore pytest rich"),
        ("milena_cache", "click moto pytest rich"),
    ],
)
def test_importing_a_package_brings_in_no_library_that_it_does_not_need(package: str, absent: str) -> None:
    names = [
        name
        for name in modules()
        if name.startswith(package) and ".cli" not in name and name != "milena_client.testing"
    ]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    brought_in = top_level(set(loaded.stdout.split())) & set(absent.split())
    assert not brought_in
