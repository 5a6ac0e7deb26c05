"""docs/api.md against the client: it is what the docstrings make, and they leave nothing out."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import milena_client
from tests.docs import api_reference
from tests.docs.api_reference import FOR_PROGRAMS, PAGE, SECTIONS, SPECIAL, methods, page
from tests.docs.documents import ROOT, text

DOCUMENTED = {name: getattr(section.module, name) for section in SECTIONS for name in section.names}
CLASSES = {name: thing for name, thing in DOCUMENTED.items() if isinstance(thing, type)}
FUNCTIONS = [
    *((name, thing, "") for name, thing in DOCUMENTED.items() if not isinstance(thing, type)),
    *(
        (f"{name}.{method}", function, inspect.getdoc(kind) or "")
        for name, kind in CLASSES.items()
        for method, function in methods(kind).items()
    ),
]
# Their parameters and attributes are those of Milena.
LIKE_MILENA = ("AsyncMilena", "Admin", "AsyncAdmin", "FakeMilena", "FakeAsyncMilena")
each_function = pytest.mark.parametrize(("name", "function", "of_class"), FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
each_class = pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)


def named(docstring: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`(\w+)`", docstring))


def test_the_page_is_what_the_docstrings_make() -> None:
    ran = subprocess.run(
        [ROOT / "scripts" / "api-reference", "--check"], capture_output=True, text=True, env=python()
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def python() -> dict[str, str]:
    return {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}


def test_a_page_that_is_out_of_date_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api_reference, "PAGE", tmp_path / "api.md")
    assert api_reference.main([]) == api_reference.main(["--check"]) == 0
    (tmp_path / "api.md").write_text(page().replace("in S3 too", "everywhere", 1))
    assert api_reference.main(["--check"]) == 1
    assert "run scripts/api-reference" in capsys.readouterr().err


def test_every_name_of_the_client_is_documented() -> None:
    headings = set(re.findall(r"^### (\w+)$", text(PAGE), re.MULTILINE))
    assert set(milena_client.__all__) <= headings
    assert headings == set(DOCUMENTED)


@each_class
def test_every_public_method_is_documented(kind: type) -> None:
    elsewhere = {base for parent in kind.__mro__[1:] if parent in CLASSES.values() for base in parent.__mro__}
    public = {
        name
        for base in kind.__mro__
        if base.__module__.startswith("milena_") and base not in elsewhere
        for name, value in vars(base).items()
        if callable(value) or isinstance(value, classmethod | staticmethod | property)
        if not name.startswith("_") or name in SPECIAL
    }
    headings = set(re.findall(rf"^#### {kind.__name__}\.(\w+)$", text(PAGE), re.MULTILINE))
    assert headings == (public & set(FOR_PROGRAMS[kind.__name__]) if kind.__name__ in FOR_PROGRAMS else public)


@each_function
def test_docstrings_are_sentences_that_name_every_parameter(
    name: str, function: Callable[..., Any], of_class: str
) -> None:
    docstring = inspect.getdoc(function) or ""
    assert re.match(r"[A-Z][^.]{8,}", docstring), docstring
    assert docstring.endswith("."), docstring
    parameters = set(inspect.signature(function).parameters) - {"self", "cls", "args", "kwargs"}
    if name.partition(".")[2] in SPECIAL:  # what a program writes names them
        return
    assert parameters <= named(docstring) | named(of_class) | named(inspect.getdoc(milena_client.Milena) or "")


@each_class
def test_docstrings_of_classes_name_fields_parameters_and_attributes(kind: type) -> None:
    docstring = inspect.getdoc(kind) or ""
    assert re.match(r"[A-Z][^.]{8,}", docstring), docstring
    expected = {*_attributes(kind)}
    if dataclasses.is_dataclass(kind):
        expected = {field.name for field in dataclasses.fields(kind)}
    if kind.__name__ not in LIKE_MILENA:
        constructor = vars(kind).get("__init__")
        if constructor is not None and not issubclass(kind, Exception) and not getattr(kind, "_is_protocol", False):
            expected |= set(inspect.signature(constructor).parameters) - {"self"}
    else:
        assert "`Milena`" in docstring
        expected -= _attributes(milena_client.Milena)
    assert expected <= named(docstring)


def _attributes(kind: type) -> set[str]:
    """The public attributes that the constructor of `kind` sets."""
    if "__init__" not in vars(kind) or dataclasses.is_dataclass(kind) or getattr(kind, "_is_protocol", False):
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(vars(kind)["__init__"])))

    stored = (
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    )
    return {node.attr for node in stored if ast.unparse(node.value) == "self" and not node.attr.startswith("_")}


def test_calls_say_which_errors_they_raise() -> None:
    docstring = inspect.getdoc(milena_client.Milena) or ""
    for error in ("InvalidRequest", "Unavailable", "DeadlineExceeded", "RateLimited", "Overloaded", "AccessDenied"):
        assert error in docstring
    for name, expected in {
        "set": "ConditionFailed",
        "delete": "ConditionFailed",
        "get_many": "BatchError",
        "set_many": "BatchError",
        "delete_many": "BatchError",
        "wait_durable": "FailedPrecondition",
        "close": "FailedPrecondition",
        "__getitem__": "KeyNotFound",
        "from_url": "ConfigError",
        "from_env": "ConfigError",
    }.items():
        assert expected in (inspect.getdoc(getattr(milena_client.Milena, name)) or ""), name


def test_both_clients_document_the_same_methods_in_the_same_sentences() -> None:
    sync, asynchronous = milena_client.Milena, milena_client.AsyncMilena
    assert {*methods(asynchronous)} == {*methods(sync)} - set(SPECIAL)
    for name in methods(asynchronous):
        assert inspect.getdoc(getattr(asynchronous, name)) == inspect.getdoc(getattr(sync, name)), name
