"""Shell. Writes docs/api.md from the docstrings and signatures of the client; `--check` compares instead.

Run by scripts/api-reference. What belongs into the page is in `SECTIONS`; tests/docs/test_api_reference.py holds it
to what the client exports, and the docstrings to their parameters and fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import milena_client
from milena_client import admin, testing
from milena_client.sync.items import ItemAccess
from milena_common.api import errors
from tests.docs.documents import ROOT

PAGE = ROOT / "docs" / "api.md"
WIDTH = 100

HEADER = """\
# Client API

This page is made from the docstrings by `scripts/api-reference`; change those.

`pip install .` from the source tree installs the client alone, with grpcio and protobuf. A first look is in the
[README](../README.md#a-tour-of-60-seconds), how calls reach the nodes in
[operations](operations.md#direct-access), what readers see in [consistency](consistency.md), and what a write
survives in [durability](durability.md).

Types that the signatures name:

| Name | Is |
|---|---|
| `Key`, `KeyT` | `str` (its UTF-8 is the key) or `bytes`, 1 to 1024 bytes; results have keys as they were given |
| `Value` | `bytes`, `bytearray` or `memoryview` |
| `Durability` | `"back"`, `"through"` or `"memory"` |
| `KeyOf` | a format string, or a function that returns a `Key` |
| `Dumps`, `Loads` | a function from a result to `bytes` or `str`; one from `bytes` to a result |
| `D` | any type |

All times are in seconds, all sizes in bytes.
"""


class Section(NamedTuple):
    """A heading, what stands below it, and the names that it documents, all of one module."""

    title: str
    text: str
    module: Any
    names: tuple[str, ...]


ERRORS = tuple(sorted((n for n in milena_client.__all__ if hasattr(errors, n)), key=list(vars(errors)).index))

SECTIONS = (
    Section("Clients", "", milena_client, ("Milena", "AsyncMilena", "RetryPolicy", "NearCache", "TlsFiles")),
    Section("Results", "", milena_client, ("Entry", "Stat", "Written", "Flushed", "ObjectInfo", "CommonPrefix")),
    Section(
        "Results of functions",
        "`cached` keeps what a function returns. The decorated function has two methods of its own.",
        milena_client,
        ("cached",),
    ),
    # The function has the name of its module.
    Section("", "", importlib.import_module("milena_client.cached"), ("Cached", "AsyncCached")),
    Section(
        "Errors",
        "Every error is a `MilenaError`, and a builtin error where one fits. The word in capitals is its `code`, "
        "which is stable, and the same over gRPC and the Redis protocol. All can be pickled.",
        milena_client,
        ERRORS,
    ),
    Section(
        "For operators",
        "`from milena_client.admin import Admin`: what the commands `milena nodes`, `stats`, `size`, `hotkeys`, "
        "`health`, `leave` and `writeback` are made of.",
        admin,
        (
            "Admin",
            "AsyncAdmin",
            "problems",
            "RingView",
            "Node",
            "Ownership",
            "NodeStats",
            "DeadLetters",
            "FailedWrite",
            "MissingNode",
            "Refreshed",
            "Swept",
            "Warmed",
            "NodeSizes",
            "SizeEstimate",
            "together",
            "HotKeys",
            "HotKey",
        ),
    ),
    Section(
        "For tests",
        "`from milena_client.testing import FakeMilena`: clients that need no cluster. Below are only the methods "
        "that they add.",
        testing,
        ("FakeMilena", "FakeAsyncMilena"),
    ),
)

# The clients for asyncio, and those for threads, which are made from them.
SYNC_TWINS: dict[type, type] = {milena_client.AsyncMilena: milena_client.Milena, admin.AsyncAdmin: admin.Admin}

# Of these classes programs call no other methods; the rest is for the client.
FOR_PROGRAMS = {"NearCache": ("__len__", "clear"), "MissingNode": ("described",)}
# Special methods that are documented: what a program writes for them.
SPECIAL = {
    "__getitem__": "cache[key]",
    "__setitem__": "cache[key] = value",
    "__delitem__": "del cache[key]",
    "__contains__": "key in cache",
    "__len__": "len(near_cache)",
}


def methods(kind: type) -> dict[str, Any]:
    """The public methods that `kind` defines itself or has from a mixin, special ones included."""
    defined = {**vars(kind), **(vars(ItemAccess) if ItemAccess in kind.__bases__ else {})}
    shown = FOR_PROGRAMS.get(kind.__name__, defined)
    return {
        name: value.__func__ if isinstance(value, classmethod) else value
        for name, value in defined.items()
        if (name in SPECIAL or not name.startswith("_"))
        and name in shown
        and isinstance(value, FunctionType | classmethod)
    }


def page() -> str:
    """The text of docs/api.md."""
    parts = [HEADER]
    for section in SECTIONS:
        if section.title:
            parts.append(f"## {section.title}\n")
        if section.text:
            parts.append(f"{section.text}\n")
        for name in section.names:
            parts.extend(_entry(name, getattr(section.module, name)))
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield f"### {name}\n"
    if isinstance(thing, type) and issubclass(thing, errors.MilenaError):
        yield _error(thing)
    elif isinstance(thing, type):
        yield from _class(name, thing)
    else:
        yield f"{_code([_signature(name, thing)])}\n{_text(thing)}\n"


def _error(kind: type[errors.MilenaError]) -> str:
    bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
    return f"{bases} · `{kind.code}`\n\n{_text(kind)}\n"


def _class(name: str, kind: type) -> Iterator[str]:
    if dataclasses.is_dataclass(kind):
        fields = [
            f"{field.name}: {field.type}" + (f" = {field.default!r}" if _has_default(field) else "")
            for field in dataclasses.fields(kind)
        ]
        yield _code([_call(name, fields)])
    elif "__init__" in vars(kind) and not getattr(kind, "_is_protocol", False):
        yield _code([_signature(name, vars(kind)["__init__"])])
    yield f"{_class_text(kind)}\n"
    for method, function in methods(kind).items():
        yield f"#### {name}.{method}\n"
        yield _code(_forms(name, method, function))
        twin = SYNC_TWINS.get(kind)
        known = vars(twin).get(method) if twin is not None else None
        if known is not None and inspect.getdoc(known) == inspect.getdoc(function):
            yield f"As [{twin.__name__}.{method}](#{twin.__name__.lower()}{method}).\n"
        else:
            yield f"{_text(function)}\n"


def _class_text(kind: type) -> str:
    """The docstring of a class; that of an async client without the paragraphs that its sync twin has too."""
    twin = SYNC_TWINS.get(kind)
    if twin is None:
        return _text(kind)
    known = _text(twin).split("\n\n")
    own = [paragraph for paragraph in _text(kind).split("\n\n") if paragraph not in known]
    return "\n\n".join([*own, f"Parameters and errors are those of [{twin.__name__}](#{twin.__name__.lower()})."])


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING


def _forms(kind: str, name: str, function: Callable[..., Any]) -> list[str]:
    if name in SPECIAL:
        returns = inspect.signature(function).return_annotation
        return [SPECIAL[name] + (f" -> {returns}" if returns != "None" else "")]
    shown = f"{kind}.{name}" if name.startswith("from_") else name
    return [_signature(shown, form) for form in typing.get_overloads(function) or [function]]


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    words: list[str] = []
    starred = False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        starred = starred or prefix == "*"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        words.append(f"{prefix}{parameter.name}: {parameter.annotation}{default}")
    returns = signature.return_annotation
    if inspect.iscoroutinefunction(function):
        name = f"await {name}"
    arrow = "" if returns in (signature.empty, "None", "Self", "Any") else f" -> {returns}"
    return _call(name, words) + arrow


def _default(value: Any) -> str:
    if isinstance(value, milena_client.RetryPolicy):
        return "RetryPolicy()"
    return value.__qualname__ if callable(value) else "..." if value is ... else repr(value)


def _call(name: str, words: list[str]) -> str:
    line = f"{name}({', '.join(words)})"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {word},\n" for word in words) + ")"


def _code(lines: list[str]) -> str:
    return "```\n" + "\n".join(lines) + "\n```\n"


def _text(thing: Any) -> str:
    """The docstring as Markdown: code in double backticks is in single ones there."""
    return re.sub(r"``([^`\n]+)``", r"`\1`", inspect.getdoc(thing) or "")


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it; return the exit code."""
    made = page()
    if arguments != ["--check"]:
        PAGE.write_text(made)
        return 0
    kept = PAGE.read_text()
    if kept == made:
        print("docs/api.md is up to date")
        return 0
    sys.stderr.writelines(
        difflib.unified_diff(kept.splitlines(True), made.splitlines(True), "docs/api.md", "docstrings")
    )
    print("docs/api.md is not what the docstrings make: run scripts/api-reference", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
