"""Pure. Would a process start with this environment?"""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.configuration import config as cache_config
from milena_common.process.env import Environment
from milena_router import config as router_config

# Read by boto3, not by the node's own configuration.
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


def router(variables: Mapping[str, str], memory_limit: int = 2**30) -> router_config.Config:
    """The router's configuration. Raises ConfigError for wrong values, AssertionError for unknown names."""
    env = Environment(variables)
    config = router_config.load(env, memory_limit)
    assert set(variables) <= set(env.read_names)
    return config


def cache(variables: Mapping[str, str], memory_limit: int = 2**30) -> cache_config.Config:
    """A node's configuration. Raises ConfigError for wrong values, AssertionError for unknown names."""
    env = Environment(variables)
    config = cache_config.load(env, memory_limit)
    assert set(variables) <= {*env.read_names, *CREDENTIALS}
    return config
