"""fsspec's own tests of filesystems: copy, get, put, open and pipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from tests.e2e.libraries.conftest import BUCKET

pytestmark = pytest.mark.e2e


class Fixtures(AbstractFixtures):
    """The tests of one class share the files that they only read, and remove nothing."""

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return os.path.join

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False

    @pytest.fixture
    def fs(self, milena_fs: object) -> object:
        return milena_fs

    @pytest.fixture
    def fs_path(self, milena_path: str) -> str:
        return milena_path

    @pytest.fixture
    def fs_target(self, milena_path: str) -> str:
        return f"{milena_path}/target"

    @pytest.fixture(scope="class")
    @classmethod
    def sources(cls, milena_fs: Any) -> dict[str, str]:
        folder, made = f"{BUCKET}/{cls.__name__}", cls()
        return {
            make.__name__: make(milena_fs, os.path.join, f"{folder}/{make.__name__}")
            for make in (
                made._glob_edge_cases_files,
                made._bulk_operations_scenario_0,
                made._dir_and_file_with_same_name_prefix,
                made._10_files_with_hashed_names,
            )
        }

    @pytest.fixture
    def fs_glob_edge_cases_files(self, sources: dict[str, str]) -> str:
        return sources["_glob_edge_cases_files"]

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, sources: dict[str, str]) -> str:
        return sources["_bulk_operations_scenario_0"]

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, sources: dict[str, str]) -> str:
        return sources["_dir_and_file_with_same_name_prefix"]

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, sources: dict[str, str]) -> str:
        return sources["_10_files_with_hashed_names"]


class TestCopy(Fixtures, AbstractCopyTests):
    pass


class TestGet(Fixtures, AbstractGetTests):
    pass


class TestPut(Fixtures, AbstractPutTests):
    pass


class TestOpen(Fixtures, AbstractOpenTests):
    pass


class TestPipe(Fixtures, AbstractPipeTests):
    pass
