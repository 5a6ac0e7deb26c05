"""Builds wheels whose hot modules, `[tool.milena] compiled` in pyproject.toml, are compiled by mypyc.

They are the same files, and a wheel has both forms. An editable install has none compiled, and neither has a wheel
that was built with MILENA_PURE=1, or without a C compiler. All modules are compiled, or none.
"""

import os
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import customize_compiler, new_compiler
from setuptools.errors import CompileError, PlatformError

# Types of other packages are not in the environment of a build, and are not needed. The rules by which this tree is
# checked would reject what an unknown type makes of them.
MYPY_OPTIONS = ["--config-file=", "--ignore-missing-imports", "--no-error-summary"]


def why_no_compiler() -> str:
    """Return why C code with Python's headers cannot be compiled here; "" if it can."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "trial.c")
        source.write_text("#include <Python.h>\n")
        compiler = new_compiler()
        customize_compiler(compiler)
        try:
            compiler.compile([str(source)], output_dir=directory, include_dirs=[sysconfig.get_path("include")])
        except (CompileError, PlatformError) as error:
            return str(error)
    return ""


def extensions() -> list[Extension]:
    """Return the modules to compile; none where not all of them can be, or the command builds no wheel."""
    if "bdist_wheel" not in sys.argv:
        return []
    why = "MILENA_PURE=1" if os.environ.get("MILENA_PURE") == "1" else why_no_compiler()
    if why:
        print(f"the wheel has no compiled modules: {why}", file=sys.stderr)
        return []
    from mypyc.build import mypycify

    with open("pyproject.toml", "rb") as file:
        names = tomllib.load(file)["tool"]["milena"]["compiled"]
    paths = [f"{name.replace('.', '/')}.py" for name in names]
    # Named as in mypy's own build. A lower level compiles in a third of the time.
    level = os.environ.get("MYPYC_OPT_LEVEL", "3")
    return mypycify([*MYPY_OPTIONS, *paths], group_name="milena", opt_level=level, debug_level="0")


setup(ext_modules=extensions())
