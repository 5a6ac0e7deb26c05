"""Which form of a module runs where a wheel has both."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from milena_common.build import VARIABLE, SourceFinder, interpreted, is_compiled
from milena_common.process.distribution import described_version
from tests.support.processes import ROOT

PACKAGES = ("milena_common", "milena_client", "milena_router", "milena_cache")


def listed() -> list[str]:
    names: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["milena"]["compiled"]
    return names


def printed(code: str, **variables: str) -> str:
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **variables}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_the_source_is_found_beside_a_compiled_module(tmp_path: Path) -> None:
    for suffix in (".py", EXTENSION_SUFFIXES[0]):
        (tmp_path / f"part{suffix}").write_bytes(b"")
    found = SourceFinder.find_spec("milena_common.part", ["/nowhere", str(tmp_path)])
    assert found is not None
    assert found.origin == str(tmp_path / "part.py")


@pytest.mark.parametrize("name", ["other.part", "milena_common", "milena_commonplace.part"])
def test_modules_of_others_are_left_to_others(tmp_path: Path, name: str) -> None:
    (tmp_path / "part.py").write_bytes(b"")
    assert SourceFinder.find_spec(name, [str(tmp_path)]) is None


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(("value", "number"), [("1", 1), ("0", 0), ("", 0)])
def test_the_variable_holds_whichever_package_is_imported_first(package: str, value: str, number: int) -> None:
    """The package itself is enough: a module of it that is compiled may be the next import."""
    code = f"import {package}, sys; print(sum(each.__module__ == 'milena_common.build' for each in sys.meta_path))"
    assert printed(code, **{VARIABLE: value}) == str(number)


def test_with_the_variable_everything_is_source() -> None:
    code = (
        "import milena_cache.app, sys; "
        "print([name for name, module in sys.modules.items() if name.startswith('milena_')"
        " and not (module.__file__ or '').endswith('.py')]); "
        "from milena_common.build import is_compiled; print(is_compiled())"
    )
    assert printed(code, **{VARIABLE: "1"}).split("\n") == ["[]", "False"]


def test_without_it_the_listed_modules_are_compiled_or_none_is() -> None:
    code = (
        "import importlib, sys; "
        f"found = [importlib.import_module(name).__file__ for name in {listed()}]; "
        "print({name.endswith('.py') for name in found}.pop(), len({name.endswith('.py') for name in found}))"
    )
    assert printed(code) == f"{not is_compiled()} 1"


def test_versions_say_which_build_runs() -> None:
    assert described_version().endswith(" (compiled)" if is_compiled() else " (Python)")


def test_the_list_has_modules_that_exist_each_once_in_order() -> None:
    names = listed()
    assert names == sorted(set(names))
    assert [name for name in names if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
    assert "milena_common.resp.parser" in names, "is_compiled looks at it"


def test_an_interpreted_class_is_itself() -> None:
    class Text(str):
        pass

    assert interpreted(Text) is Text
