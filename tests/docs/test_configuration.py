"""docs/configuration.md against the configurations that the processes and the client load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from milena_cache.configuration import config as cache_config
from milena_cache.objects import write_request
from milena_cache.objects.entry import ENTRY_OVERHEAD
from milena_client import RetryPolicy
from milena_client.core.url import VARIABLE, parse_duration, parse_url
from milena_common import build
from milena_common.api.errors import ConfigError
from milena_common.process.env import Environment
from milena_router import config as router_config
from tests.docs.documents import DOCUMENTS, ROOT, Row, blocks, rows, section, text

CONFIGURATION = ROOT / "docs" / "configuration.md"

NODE_REQUIRED = {"ROUTER_ADDR": "127.0.0.1:1", "S3_BUCKET": "bucket", "AWS_REGION": "us-east-1"}
# What may stand in backticks beside the variables of the processes.
COMMANDS_WITH_UNDERSCORE = {"BITFIELD_RO", "EVALSHA_RO", "EVAL_RO"}
OTHER_VARIABLES = {"MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", build.VARIABLE} | {
    VARIABLE,
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
}


def load_router(variables: Mapping[str, str]) -> object:
    return router_config.load(Environment(variables), 2**33)


def load_node(variables: Mapping[str, str]) -> object:
    return cache_config.load(Environment({**NODE_REQUIRED, **variables}), 2**33)


PROCESSES: dict[str, tuple[Any, Any]] = {
    "Router": (router_config, load_router),
    "Cache node": (cache_config, load_node),
}
ROWS = [(process, row) for process in PROCESSES for row in rows(CONFIGURATION, process)]
each_row = pytest.mark.parametrize(
    ("process", "row"), ROWS, ids=[f"{process}: {row.name}" for process, row in ROWS]
)


def test_the_nodes_of_the_guide_can_run_on_one_machine() -> None:
    commands = [
        line.split()
        for block in blocks("sh")
        if block.document.name == "operations.md"
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.endswith(" milena-cache")
    ]
    nodes = [
        cache_config.load(Environment(dict(word.split("=", 1) for word in words[:-1])), 1) for words in commands
    ]
    assert len(nodes) == 2
    ports = [port.address.port for node in nodes for port in node.ports]
    assert len(set(ports)) == len(ports) == 6
    assert len({node.journal for node in nodes}) == 2


@pytest.mark.parametrize("process", PROCESSES)
def test_every_variable_has_one_row_and_every_row_is_a_variable(process: str) -> None:
    module = PROCESSES[process][0]
    documented = [row.name for row in rows(CONFIGURATION, process)]
    # Variables of proxies have a spelling in lower case too, which the text names.
    assert sorted(documented) == sorted(name for name in module.variables() if name.isupper())


@each_row
def test_saying_the_documented_default_changes_nothing(process: str, row: Row) -> None:
    load = PROCESSES[process][1]
    literal = re.fullmatch(r"`([^`]+)`", row.default)
    if literal:
        assert load({row.name: literal[1]}) == load({})
    else:
        assert re.fullmatch(
            r"required|derived|none|AWS|(half|an eighth of) the memory limit|the host of `LISTEN_ADDR`", row.default
        )


@each_row
def test_what_is_documented_as_allowed_is_allowed_and_nothing_beyond(process: str, row: Row) -> None:
    load = PROCESSES[process][1]
    limits = re.fullmatch(r"`([0-9.]+)(\w*)` to `([0-9.]+)(\w*)`", row.allowed)
    choices = re.fullmatch(r"`[\w-]+`(, `[\w-]+`)+", row.allowed)
    if limits:
        low, low_unit, high, high_unit = limits.groups()
        load({row.name: low + low_unit})
        load({row.name: high + high_unit})
        below = "-1" if float(low) == 0 else f"{float(low) / 2:g}{low_unit}"
        for rejected in (below, f"{float(high) * 2:.0f}{high_unit}"):
            with pytest.raises(ConfigError, match=row.name):
                load({row.name: rejected})
    elif choices:
        for choice in re.findall(r"[\w-]+", row.allowed):
            load({row.name: choice})
        with pytest.raises(ConfigError, match=row.name):
            load({row.name: "anything else"})
    else:
        assert re.match(r"an? |addresses|bucket names|less than|`http://host:port`", row.allowed)


def test_the_client_s_settings_are_as_documented() -> None:
    client = section(CONFIGURATION, "Client")
    default = re.search(rf"\| `{VARIABLE}` \| `([^`]+)` \|", client)
    assert default
    assert parse_url(default[1]).address == "127.0.0.1:50050"
    examples = re.search(r"retries included: (.+), or a number", client)
    assert examples
    assert [parse_duration(each) for each in re.findall("`([^`]+)`", examples[1])] == [0.5, 1.5, 120]
    policy = RetryPolicy()
    documented = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([0-9., ]+) \|", client, re.MULTILINE)
    pairs = {
        name.strip("` "): float(value)
        for field, values in documented
        for name, value in zip(field.split(","), values.split(","), strict=True)
    }
    assert pairs == {field.name: getattr(policy, field.name) for field in fields(policy)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_looks_like_a_variable_is_one(document: Path) -> None:
    known = router_config.variables() | cache_config.variables() | OTHER_VARIABLES | COMMANDS_WITH_UNDERSCORE
    mentioned = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", text(document)))
    assert mentioned <= known


def test_the_memory_for_an_entry_is_as_documented() -> None:
    assert f"key, value and {ENTRY_OVERHEAD} bytes" in text(CONFIGURATION)
    for document in (CONFIGURATION, ROOT / "docs" / "durability.md"):
        assert f"keys, values and {write_request.ENTRY_OVERHEAD} bytes for each" in text(document)


def test_processes_that_are_started_get_variables_that_they_read() -> None:
    for program, (module, load) in {
        "milena-router": PROCESSES["Router"],
        "milena-cache": PROCESSES["Cache node"],
    }.items():
        lines = [
            line
            for block in blocks("sh")
            for line in block.text.replace("\\\n", " ").splitlines()
            if re.search(rf"\b{program}$", line.strip())
        ]
        assert lines
        for line in lines:
            variables = dict(re.findall(r"([A-Z][A-Z0-9_]*)=(\S+)", line))
            assert set(variables) <= module.variables()
            load(variables)
