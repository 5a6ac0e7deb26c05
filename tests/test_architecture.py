"""The rules by which the code is laid out, held by looking at its imports.

- Imports point one way: milena_common ← milena_client ← {milena_router, milena_cache}, and inside of each package
  from folder to folder as the table of levels says. Imports for types only count like others.
- A folder has one subject and at most 15 files. Its tests are in the folder of the same name below tests.
- A module says at its top what kind it is. *Pure* ones decide and touch nothing; *Coordination* is asyncio over
  Protocols; *Shell* is where the outside world is: sockets, files, clocks, and every library that does I/O.
- A library is imported where the table below says, so that replacing one is the change of a module or two.
- Everything is wired in `__main__`, a node's parts in `milena_cache.app`; nothing keeps state in a module.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
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

# The folders, lowest level first: a module imports from its own folder and from those in lines before its own.
LEVELS = (
    ("milena_common", "milena_common/api/pb", "milena_common/network"),
    ("milena_common/api",),
    ("milena_common/runtime", "milena_common/limits"),
    ("milena_common/process", "milena_common/cluster"),
    ("milena_common/access",),
    ("milena_common/tls",),
    ("milena_common/metrics", "milena_common/resp"),
    ("milena_common/s3/wire",),
    ("milena_common/s3/signing",),
    ("milena_common/s3/body",),
    ("milena_common/s3",),
    ("milena_common/rpc", "milena_common/forwarding", "milena_common/pubsub"),
    ("milena_client/core/files",),
    ("milena_client/core",),
    ("milena_client/core/estimates",),
    ("milena_client/aio", "milena_client/sync"),
    ("milena_client/fsspec",),
    ("milena_client", "milena_client/testing"),
    ("milena_client/cli/terminal",),
    ("milena_client/cli/commands",),
    ("milena_client/cli/local",),
    ("milena_client/cli",),
    ("milena_router/ring/losses",),
    ("milena_router/ring", "milena_router/etcd"),
    ("milena_router/forwarding", "milena_router/shared"),
    ("milena_router/redis", "milena_router/s3"),
    ("milena_router",),
    ("milena_cache/objects",),
    ("milena_cache/eviction",),
    ("milena_cache/memory", "milena_cache/membership", "milena_cache/journal"),
    ("milena_cache/journal/tools", "milena_cache/origin/s3", "milena_cache/sampling"),
    ("milena_cache/disk_cache",),
    ("milena_cache/blocks",),
    ("milena_cache/events",),
    ("milena_cache/origin/clients",),
    ("milena_cache/origin",),
    ("milena_cache/writeback/uploads",),
    ("milena_cache/writeback", "milena_cache/configuration"),
    ("milena_cache/writes",),
    ("milena_cache/reads", "milena_cache/handover"),
    ("milena_cache/copies", "milena_cache/jobs"),
    ("milena_cache/service",),
    ("milena_cache/servers",),
    ("milena_cache/servers/resp/decisions",),
    ("milena_cache/servers/resp/dispatch",),
    ("milena_cache/servers/resp/statistics", "milena_cache/servers/resp/scripts"),
    ("milena_cache/servers/resp/state",),
    ("milena_cache/servers/resp/commands/data",),
    # Transactions carry out commands on data.
    ("milena_cache/servers/resp/commands/connection",),
    ("milena_cache/servers/resp/commands/server",),
    ("milena_cache/servers/resp/commands",),
    # On one level: neither protocol knows the other.
    ("milena_cache/servers/resp", "milena_cache/servers/grpc", "milena_cache/servers/s3"),
    ("milena_cache/workers",),
    ("milena_cache",),
)
LEVEL_OF = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}
MAX_FILES = 15

# The tests of a package mirror it; these folders have the tests that are about no folder of the packages.
MIRRORS = {"cache": "milena_cache", "client": "milena_client", "common": "milena_common", "router": "milena_router"}
OTHER_TESTS = {"behaviour", "contracts", "docs", "e2e", "faults", "mutants", "simulation", "stack", "support"}

# Which modules import which library. A library that is not here is not used.
LIBRARIES = {
    "aiofastnet": ["milena_common.network.encrypted"],
    "anycrc": ["milena_common.s3.body.checksums"],
    "httptools": ["milena_common.s3.http_server"],
    "aiohttp": ["milena_common.metrics.http_server", "milena_common.metrics.ops_client"],
    "boto3": [
        "milena_cache.origin.clients.boto3_session",
        "milena_cache.origin.s3.credentials",
        "milena_client.cli.local.s3",
    ],
    "botocore": ["milena_cache.origin.clients.boto3_*", "milena_client.cli.local.*"],
    "cachetools": ["milena_cache.origin.clients.boto3_client", "milena_cache.origin.clients.obstore_client"],
    "click": ["milena_client.cli.*"],
    "dotenv": ["milena_common.process.run", "milena_client.cli.local.up"],
    "google": [
        "milena_common.api.methods",
        "milena_common.cluster.slot_map_watch",
        "milena_common.resp.*",
        "milena_common.rpc.*",
        "milena_client.*",
        "milena_router.redis.api_calls",
        "milena_router.shared.*",
        "milena_cache.servers.resp.commands.server.milena_call",
    ],
    "grpc": [
        "milena_common.rpc.channel",
        "milena_common.rpc.opening",
        "milena_common.rpc.server",
        "milena_common.rpc.calls",
        "milena_common.rpc.value_streams",
        "milena_common.rpc.status",
        "milena_router.etcd.client",
        "milena_router.forwarding.node_connection",
    ],
    "fsspec": ["milena_client.fsspec.*"],
    "hiredis": [
        "milena_common.resp.stream",
        "milena_client.sync.near_cache_feed",
        "milena_client.sync.socket",
    ],
    "grpc_health": ["milena_common.rpc.server"],
    "lmdb": ["milena_cache.journal.file", "milena_cache.journal.lmdb_disk"],
    "mypy_boto3_s3": [
        "milena_cache.origin.clients.boto3_bodies",
        "milena_cache.origin.clients.boto3_client",
        "milena_cache.origin.clients.boto3_session",
        "milena_cache.origin.clients.boto3_uploads",
        "milena_client.cli.local.s3",
    ],
    "lupa": ["milena_cache.servers.resp.scripts.sandbox"],
    "obstore": ["milena_cache.origin.clients.obstore_client"],
    "prometheus_client": [
        "milena_cache.app",
        "milena_common.metrics.certificates",
        "milena_common.metrics.families",
        "milena_common.metrics.http_server",
        "milena_common.s3.metrics",
        "milena_router.metrics",
        "milena_cache.metrics",
        "milena_cache.workers.merged_metrics",
        "milena_cache.workers.supervisor",
    ],
    "pytest": ["milena_client.testing"],
    "pythonjsonlogger": ["milena_common.process.logs"],
    "rich": ["milena_client.cli.*"],
    "uvloop": ["milena_common.process.run"],
    "zarr": ["milena_client.zarr"],
}
# Modules that need an extra, which no other module imports.
OF_EXTRAS = ("milena_client.fsspec", "milena_client.zarr")
# These do no I/O, or none where they are used.
HARMLESS = {
    ("anycrc", "*"),
    ("cachetools", "*"),
    ("google", "*"),
    ("pytest", "milena_client.testing"),
    ("grpc", "milena_common.rpc.status"),  # the status codes
}

OUTSIDE_WORLD = {"os", "pathlib", "random", "select", "signal", "shutil", "socket", "subprocess", "time"}
FORBIDDEN = {
    "Pure": OUTSIDE_WORLD | {"asyncio", "logging", "threading"},
    "Coordination": OUTSIDE_WORLD,
}
# A library has no __main__: what its users do not pass in, these choose for them.
WIRED_HERE = {
    ("milena_client.aio.client", "os"),
    ("milena_client.sync.client", "os"),
    ("milena_client.core.calls", "random"),
}


# What `milena_cache.app` alone makes; the rest of a node belongs to one of these.
PARTS_OF_A_NODE = {
    "ApiMethods",
    "BucketCheck",
    "ClusterObjects",
    "Dirty",
    "Entries",
    "GrpcServer",
    "Journal",
    "LateWriteInvalidation",
    "Node",
    "NodeIdentity",
    "Ownership",
    "Peers",
    "Registration",
    "Requests",
    "S3Watch",
    "Status",
    "UploadThrottle",
    "Uploader",
    "WriteBack",
    "WriteThrough",
    "Writes",
    "grpc_methods",
    "resp_server",
}


@dataclass
class Module:
    """One source file. `imports` are full names, those for types only and those inside of functions among them."""

    name: str
    path: Path
    tree: ast.Module
    imports: set[str] = field(default_factory=set)

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def folder(self) -> str:
        return str(self.path.parent.relative_to(ROOT))

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def wires(self) -> bool:
        return self.path.stem in ("__init__", "__main__") or self.name == "milena_cache.app"

    @property
    def kind(self) -> str:
        first = self.docstring.partition(".")[0]
        return first if first in ("Pure", "Coordination", "Shell") else ""


def imported(tree: ast.AST) -> Iterator[str]:
    """The names that are imported anywhere in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
            tree = ast.parse(path.read_text())
            found[name] = Module(name, path, tree, set(imported(tree)))
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
            for other in module.imports
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


def folder_of(name: str) -> str | None:
    """The folder of Milena that a dotted name is in, or is."""
    path = name.replace(".", "/")
    while path:
        if path in LEVEL_OF:
            return path
        path = path.rpartition("/")[0]
    return None


def test_folders_import_from_lower_levels_only() -> None:
    complaints(
        f"{module.name} imports {other}, which is not below {module.folder}"
        for module in modules().values()
        for other in module.imports
        if (folder := folder_of(other)) is not None
        and folder != module.folder
        and LEVEL_OF[folder] >= LEVEL_OF[module.folder]
    )


def test_the_table_of_levels_has_every_folder_once() -> None:
    folders = {module.folder for module in modules().values()} | {"milena_common/api/pb"}
    assert sorted(folder for level in LEVELS for folder in level) == sorted(folders)


def test_folders_have_few_files() -> None:
    files = [
        path.relative_to(ROOT)
        for top in (*PACKAGES, "bench", "tests")
        for path in (ROOT / top).rglob("*.py")
        if path.name != "__init__.py"
    ]
    counts = Counter(str(path.parent) for path in files)
    complaints(f"{folder} has {number} files" for folder, number in counts.items() if number > MAX_FILES)


def test_the_tests_of_a_module_are_where_it_is() -> None:
    """`test_NAME.py` is about the module or folder NAME, or a part of its subject: `test_NAME_PART.py`."""

    def found() -> Iterator[str]:
        for tests, package in MIRRORS.items():
            for path in (ROOT / "tests" / tests).rglob("test_*.py"):
                folder = ROOT / package / path.parent.relative_to(ROOT / "tests" / tests)
                # A test of the package as its users have it is about no single module.
                names = {each.stem for each in folder.glob("*") if each.suffix in ("", ".py")} | {"package"}
                subject = path.stem.removeprefix("test_")
                if not any(f"{subject}_".startswith(f"{name}_") for name in names):
                    yield f"{path.relative_to(ROOT)}: {folder.relative_to(ROOT)} has nothing of that name"

    complaints(found())
    folders = {path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").exists()}
    assert folders == MIRRORS.keys() | OTHER_TESTS


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


def test_the_table_has_no_unused_entry() -> None:
    complaints(
        f"{library}: no user at {pattern}"
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


def calls_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The lines of all calls in `tree`, and the last name of what is called: `Journal[T]()` calls Journal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            yield node.lineno, ast.unparse(called).rpartition(".")[2]


def test_a_node_is_wired_in_one_module() -> None:
    """Tests of one part make it over fakes; what is measured, and what runs, is put together in one way."""
    (wiring,) = (module for module in modules().values() if module.name == "milena_cache.app")
    built = {name for _, name in calls_of(wiring.tree)}
    assert built >= PARTS_OF_A_NODE, PARTS_OF_A_NODE - built

    def found() -> Iterator[str]:
        for top in ("milena_cache", "bench"):
            for path in (ROOT / top).rglob("*.py"):
                if path != wiring.path:
                    for line, name in calls_of(ast.parse(path.read_text())):
                        if name in PARTS_OF_A_NODE:
                            yield f"{path.relative_to(ROOT)}:{line} makes a {name}"

    complaints(found())


# What opens, accepts or binds a connection, and the modules that do: what holds for all connections, encryption for
# example, is added there and nowhere else.
OPENS = {
    "socket": {"milena_common.network.connecting", "milena_common.network.listening"},
    "create_connection": {"milena_common.network.connecting", "milena_common.network.encrypted"},
    # The one of `milena_common.network.connecting`.
    "open_connection": {"milena_common.resp.link", "milena_router.s3.node_http"},
    "create_server": {"milena_common.network.listening"},
    "connect_accepted_socket": {"milena_common.network.spare_listener", "milena_common.network.encrypted"},
    "start_server": set(),
    "wrap_socket": set(),
    "insecure_channel": {"milena_common.rpc.opening"},
    "secure_channel": {"milena_common.rpc.opening"},
    "add_insecure_port": {"milena_common.rpc.opening"},
    "add_secure_port": {"milena_common.rpc.opening"},
}
# These send nothing to Milena: they find a free port, and the address of the interface that leads to the router.
OPEN_NONE = {"milena_client.cli.local.ports", "milena_cache.configuration.advertised"}


def test_connections_are_opened_in_one_place_for_each_kind() -> None:
    opening = {
        (name, module.name)
        for module in modules().values()
        for _, name in calls_of(module.tree)
        if name in OPENS and module.name not in OPEN_NONE
    }
    assert opening == {(name, module) for name, places in OPENS.items() for module in places}


def test_what_is_done_for_callers_knows_no_protocol() -> None:
    complaints(
        f"{module.name} imports {name}"
        for module in modules().values()
        if module.folder == "milena_cache/service"
        for name in module.imports
        if name.startswith(("milena_common.api.pb", "milena_common.rpc")) or top_level({name}) & {"google", "grpc"}
    )


def test_writes_know_no_journal_but_the_form_of_its_records() -> None:
    """What makes a write durable is behind `milena_cache.writes.durable`."""
    complaints(
        f"{module.name} imports {name}"
        for module in modules().values()
        if module.folder == "milena_cache/writes"
        for name in module.imports
        if name.startswith("milena_cache.journal") and not name.startswith("milena_cache.journal.record")
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


def test_files_are_named_by_a_concept() -> None:
    nameless = {"utils", "util", "helpers", "misc", "common", "base"}
    complaints(module.name for module in modules().values() if module.path.stem in nameless)


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        (
            "milena_client",
            "aiohttp boto3 botocore cachetools click dotenv lmdb moto obstore prometheus_client "
            "fsspec pytest pythonjsonlogger rich uvloop zarr",
        ),
        ("milena_router", "boto3 botocore cachetools click lmdb moto obstore pytest rich"),
        ("milena_cache", "click moto pytest rich"),
    ],
)
def test_importing_a_package_brings_in_no_library_that_it_does_not_need(package: str, absent: str) -> None:
    names = [
        name
        for name in modules()
        if name.startswith(package)
        and ".cli" not in name
        and not name.startswith(("milena_client.testing", *OF_EXTRAS))
    ]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    brought_in = top_level(set(loaded.stdout.split())) & set(absent.split())
    assert not brought_in
