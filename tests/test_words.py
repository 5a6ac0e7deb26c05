"""One word for one thing: no defined identifier, metric or RPC uses a word that has a standard one in this field.

- `STANDARD` is the table: what is not used, and what is in its place. A definition is a class, function, method,
  parameter, attribute, variable, module, import alias, RPC, message, field or metric.
- `ALLOWED` lists identifiers that have such a word in another sense, with the reason. An entry that nothing needs
  any more fails the test.
- Tests and scripts are held to the same table. A test's name is a sentence, in which the words of `SENTENCE` are
  plain English; `ALLOWED_IN_TESTS` lists the other identifiers.
- A name that many classes define cannot be searched for: at most `MAX_CLASSES` classes define a method of one name,
  unless they implement one Protocol, or follow a convention of Python or a library (`CONVENTIONS`).
"""

from __future__ import annotations

import ast
import asyncio
import io
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("milena_common", "milena_client", "milena_router", "milena_cache")
FOLDERS = (*PACKAGES, "bench")
SCRIPTS = ("scripts/k8s-monitoring",)
TEST_FOLDERS = ("tests", "scripts")
MAX_CLASSES = 4

# Words of identifiers, in lower case, and the standard word in their place. Two words: one after the other.
STANDARD = {
    "door": "server",
    "flight": "single-flight call",
    "flights": "single-flight calls",
    "fly": "fetch",
    "landing": "fetch result",
    "landed": "upload result",
    "changing": "fence_reads",
    "distrust": "mark_stale",
    "forget": "invalidate, remove",
    "entering": "journaled append",
    "confirming": "ownership revalidation",
    "removal": "reaper",
    "ended": "expired, finished",
    "ends": "expires_at",
    "ending": "upload outcome, expiring",
    "moment": "timestamp",
    "unsure": "indeterminate",
    "or absent": "maybe_absent",
    "cut": "checkpoint",
    "left of": "pending_before",
    "generation": "epoch",
    "wanted": "target",
    "filed": "cache_key",
    "give up": "deadline",
    "patience": "timeout",
    "draw": "rng",
    "most": "max",
    "least": "min",
    "in hand": "in flight",
    "under way": "in flight",
    "words": "argv",
    "tell": "notify, return",
    "tells": "notifies, returns",
    "told": "notified, returned",
    "answer": "reply, response",
    "answers": "replies, responses",
    "answered": "replied, responded",
    "ask": "request",
    "asks": "requests",
    "asked": "requested",
    "rig": "fixture",
    "scene": "harness",
    "planted": "mutants",
    "turns": "key locks",
    "settle": "reconcile, retire, sync barrier",
    "settled": "reconciled, retired",
    "chore": "deferred operation",
    "chores": "deferred operations",
    "set aside": "quarantine",
    "note": "metadata",
    "notes": "metadata",
    "noted": "recorded",
    "refuse": "reject",
    "refuses": "rejects",
    "refused": "rejected",
    "refusal": "rejection",
    "refusals": "rejections",
    "revive": "requeue",
    "revived": "requeued",
    "sparing": "log limiter",
    "may say": "allow",
    "pace": "throttle, rate-limit queue",
    "moved writes": "late-write invalidation",
    "neighbours": "peers",
    "report": "status",
    "bucket watch": "bucket check",
    "books": "command metrics",
    "bookkeeping": "command metrics",
    "key order": "command ordering",
    "outbox": "output buffer",
    "greeting": "handshake",
    "container": "subcommands",
    "figure": "sample",
    "figures": "samples, rates",
    "a second": "rate, per second",
    "whoever": "a noun",
    "somebody": "a noun",
    "nobody": "a noun",
    "anybody": "a noun",
    "everybody": "a noun",
}

# Compounds that are the field's own, though they have such a word.
COMPOUNDS = ("in flight", "single flight", "at least", "at most")

# Identifiers that have such a word in another sense.
ALLOWED = {
    "copies_wanted": "a field of the ring's message",
    "tell": "a method of files in Python",
    "_generation": "counts how often credentials were renewed",
    "generation": "counts how often credentials were renewed",
    "report": "the page that a benchmark prints",
    "note": "a word on where an address came from, for an error",
    "forget": "a field of Leave: a missing node is written off",
    "ends": "a parameter of fsspec's cat_ranges",
    "milena_cache_flights": "a metric that documents name",
    "milena_resp_refused_connections": "a metric that documents name",
}

# Words that are no names of things of Milena's in the sentence that a test's name is.
SENTENCE = {"ends", "ended", "cut", "most", "least", "a second", "changing", "container"}

# Identifiers of tests and scripts that have such a word in another sense.
ALLOWED_IN_TESTS = {
    "tell": "a method of files in Python",
    "ENDS": "cases of Redis commands about expiry",
    "_ends": "the two ends of a pair of sockets",
    "ends": "ends of intervals or of waiting, not of objects",
    "ending": "the last arguments of a command, or the thread that shuts a stream down",
    "a_step_of_the_loop_ends": "a rule of a state machine",
    "ends_with_connection": "how a message's body ends in HTTP",
    "container": "a container of Kubernetes, or Redis's word for a command with subcommands",
    "is_container": "a value of a type that holds others, in Python's sense",
    "cut": "a place at which a test splits bytes, or a step of a model that takes a checkpoint",
    "draw": "hypothesis's function for composite strategies",
    "report": "what a node reports to the router",
    "words": "words of English",
    "words_of": "words of English",
    "sync_words": "words of English",
    "test_words": "words of English",
    "test_a_refused_connection_is_reported": "a refused connection is an error of TCP",
    "test_refused_connections_are_what_clients_see": "a refused connection is an error of TCP",
}

# Methods that more than `MAX_CLASSES` classes define, and a class of Python whose convention they follow.
CONVENTIONS: dict[str, type] = {
    "start": threading.Thread,
    "run": threading.Thread,
    "wait": threading.Event,
    "close": io.IOBase,
    "add": set,
    "open": Path,
    "read": io.RawIOBase,
    "connection_made": asyncio.Protocol,
    "connection_lost": asyncio.Protocol,
    "data_received": asyncio.Protocol,
    "pause_writing": asyncio.Protocol,
    "resume_writing": asyncio.Protocol,
}

SPECIAL = re.compile(r"__\w+__")


def words_of(identifier: str) -> list[str]:
    """The words of an identifier, in lower case."""
    return [
        word.lower()
        for part in identifier.split("_")
        for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", part)
    ]


@cache
def forbidden(identifier: str) -> tuple[str, ...]:
    """The words of `identifier` that have a standard word."""
    text = f" {' '.join(words_of(identifier))} "
    for compound in COMPOUNDS:
        text = text.replace(f" {compound} ", " ")
    return tuple(word for word in STANDARD if f" {word} " in text)


def definitions(tree: ast.AST) -> Iterator[str]:
    """The identifiers that a module defines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name


def parsed(folders: tuple[str, ...], scripts: tuple[str, ...] = ()) -> dict[str, ast.Module]:
    """The modules in `folders`, and `scripts`, by path, without generated ones."""
    paths = [
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        # The sync client is made from the async one.
        if "pb" not in path.parts and not path.read_text().startswith("# Made from ")
    ]
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in (*paths, *map(ROOT.joinpath, scripts))
    }


@cache
def trees() -> dict[str, ast.Module]:
    """The modules of the packages and benchmarks by path."""
    return parsed(FOLDERS, SCRIPTS)


@cache
def modules_of_tests() -> dict[str, ast.Module]:
    """The modules of the tests and scripts by path."""
    return parsed(TEST_FOLDERS)


def found(modules: dict[str, ast.Module]) -> Iterator[tuple[str, str]]:
    """Each definition with a forbidden word, as path and identifier."""
    for path, tree in modules.items():
        for name in {*definitions(tree), *Path(path).with_suffix("").parts}:
            if forbidden(name):
                yield path, name


@cache
def found_in_tests() -> tuple[tuple[str, str], ...]:
    """Each definition of a test or script with a word that is not plain English there, as path and identifier."""
    return tuple(
        (path, name)
        for path, name in found(modules_of_tests())
        if not name.startswith("test_") or not SENTENCE.issuperset(forbidden(name))
    )


def metrics() -> Iterator[str]:
    """The names of the metrics, as the modules that define them spell them."""
    for tree in trees().values():
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"milena_[a-z0-9_]+", text):
                yield text


def proto_names() -> Iterator[str]:
    """The names of services, methods, messages and fields."""
    for path in sorted((ROOT / "proto").glob("*.proto")):
        text = re.sub(r"//.*", "", path.read_text())
        yield from re.findall(r"\b(?:service|rpc|message)\s+(\w+)", text)
        yield from re.findall(r"(\w+)\s*=\s*\d+\s*;", text)


def complaints(lines: Iterator[str]) -> None:
    listed = sorted(set(lines))
    assert not listed, "\n" + "\n".join(listed)


def test_identifiers_have_the_standard_terms() -> None:
    complaints(
        f"{path}: {name}: {', '.join(f'{word} → {STANDARD[word]}' for word in forbidden(name))}"
        for path, name in found(trees())
        if name not in ALLOWED
    )


def test_identifiers_of_tests_have_the_standard_terms() -> None:
    complaints(
        f"{path}: {name}: {', '.join(f'{word} → {STANDARD[word]}' for word in forbidden(name))}"
        for path, name in found_in_tests()
        if name not in ALLOWED_IN_TESTS
    )


def test_subjects_of_names_of_tests_are_nouns() -> None:
    complaints(
        f"{path}: {name}"
        for path, tree in modules_of_tests().items()
        for name in definitions(tree)
        if name.startswith("test_") and "who" in words_of(name)
    )


def test_names_of_metrics_and_of_the_protocol_have_the_standard_terms() -> None:
    complaints(
        f"{name}: {', '.join(f'{word} → {STANDARD[word]}' for word in forbidden(name))}"
        for name in (*metrics(), *proto_names())
        if forbidden(name) and name not in ALLOWED
    )


def test_the_lists_of_exceptions_have_nothing_that_is_not_needed() -> None:
    defined = set(found(trees()))
    names = {name for _, name in defined} | {*metrics(), *proto_names()}
    complaints(name for name in ALLOWED if name not in names)
    names_of_tests = {name for _, name in found_in_tests()}
    complaints(name for name in ALLOWED_IN_TESTS if name not in names_of_tests)
    methods = defining_classes()
    complaints(name for name in CONVENTIONS if len(methods[name]) <= MAX_CLASSES)


def is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).partition("[")[0] == "Protocol" for base in node.bases)


@cache
def defining_classes() -> dict[str, list[str]]:
    """The classes that define a method, by the method's name, without Protocols and what they require.

    A class implements a Protocol if its public methods include all those of the Protocol.
    """
    classes = [
        (f"{path}: {node.name}", node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    methods = {
        name: {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
        for name, node in classes
    }
    protocols = [methods[name] for name, node in classes if is_protocol(node) and methods[name]]
    found: dict[str, list[str]] = defaultdict(list)
    for name, node in classes:
        implemented = {method for protocol in protocols if protocol <= methods[name] for method in protocol}
        for method in set() if is_protocol(node) else methods[name] - implemented:
            if not SPECIAL.fullmatch(method) and not method.startswith("_"):
                found[method].append(name)
    return found


def test_a_convention_has_the_method() -> None:
    complaints(f"{kind}: {name}" for name, kind in CONVENTIONS.items() if not hasattr(kind, name))


def test_a_name_of_a_method_finds_what_it_means() -> None:
    complaints(
        f"{method}: {', '.join(classes)}"
        for method, classes in defining_classes().items()
        if len(classes) > MAX_CLASSES and method not in CONVENTIONS
    )
