"""Every variable that may hold a secret has one that names a file with the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from milena_cache.configuration import config as node
from milena_common.api.errors import ConfigError
from milena_common.process.env import Environment
from milena_router import config as router


class Recording(Environment):
    def __init__(self) -> None:
        super().__init__({})
        self.secrets: list[str] = []

    def secret(self, name: str) -> str:
        self.secrets.append(name)
        return super().secret(name)


@pytest.mark.parametrize("load", [node.load, router.load])
def test_every_secret_may_be_in_a_file(load: Callable[[Environment, int], object]) -> None:
    env = Recording()
    with suppress(ConfigError):
        load(env, 0)
    # Lower-case names are other spellings of the same.
    missing = {name for name in env.secrets if name.isupper() and f"{name}_FILE" not in env.read_names}
    assert env.secrets
    assert not missing
