"""What a program sends between its processes: every error, every value object, and the clients themselves."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import milena_client
import milena_common
from milena_client import admin
from milena_client.admin import Admin
from milena_client.testing import FakeAsyncMilena, FakeMilena
from milena_common.api import errors

OF_EXTRAS = ("milena_client.fsspec", "milena_client.zarr")
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)

WRITTEN = milena_client.Written('"e"', "10.0.0.1:50051", "back")
# Errors whose constructors take more than a text.
ERRORS: dict[type[errors.MilenaError], errors.MilenaError] = {
    errors.ConfigError: errors.ConfigError(["LRU_SIZE: got 'x'", "TTL_SECONDS: got '-1'"]),
    errors.RateLimited: errors.RateLimited("over the limit", 0.25),
    errors.Moved: errors.Moved(42, "10.0.0.2:6379"),
    errors.BatchError: errors.BatchError(
        {"a": errors.Moved(1, "h:1"), b"b": errors.NodeLost("gone")}, {"c": WRITTEN, "d": None}
    ),
}
NODE = admin.Node("10.0.0.1:50051", "n1", 1.0, {"resp": "10.0.0.1:6379"}, 16384, 4.5, 60.0)
FAILED = admin.FailedWrite("k", "", "put", 3, "v1", "AccessDenied", 1.5, "10.0.0.1:50051")
VALUES: tuple[Any, ...] = (
    milena_client.Entry(b"v", '"e"', 1.5, "hit", "10.0.0.1:50051", 1, False, 2.0),
    milena_client.Flushed(1, 2, 3),
    milena_client.CommonPrefix("a/"),
    milena_client.ObjectInfo("k", 1, '"e"', 1.5),
    milena_client.Stat(1, '"e"', 1.5, dirty=True, ttl=2.5),
    milena_client.RetryPolicy(first=0.1, max_delay=2.0, tokens=3.0, refund=0.5),
    WRITTEN,
    NODE,
    admin.RingView(7, [NODE]),
    admin.Ownership(5, "10.0.0.1:50051", "", 7, 3),
    admin.NodeStats("10.0.0.1:50051", {"hits": 3.0}, "", ""),
    FAILED,
    admin.DeadLetters([FAILED], 1),
    admin.Refreshed(1, 0),
    admin.Swept(True, 1, 2, 3, 4, 5),
    admin.Warmed(done=True, warmed=1),
)


def modules() -> Iterator[Any]:
    for package in (milena_common, milena_client):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # Those of extras have no errors of their own.
            if not found.name.endswith("__main__") and not found.name.startswith(OF_EXTRAS):
                yield importlib.import_module(found.name)


def tree(kind: type[errors.MilenaError]) -> Iterator[type[errors.MilenaError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.startswith("milena"):
            yield from tree(child)


def every_error() -> list[errors.MilenaError]:
    assert [*modules()]  # so that every class has been defined
    return [ERRORS.get(kind) or kind(f"a {kind.__name__}") for kind in dict.fromkeys(tree(errors.MilenaError))]


def content(error: errors.MilenaError) -> Any:
    """What callers see of an error, comparable."""
    attributes = {
        name: {key: content(each) if isinstance(each, errors.MilenaError) else each for key, each in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in vars(error).items()
    }
    return type(error), error.args, str(error), error.code, attributes


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_is_the_same_after_pickling_and_copying(error: errors.MilenaError) -> None:
    for protocol in PROTOCOLS:
        assert content(pickle.loads(pickle.dumps(error, protocol))) == content(error)
    assert content(copy.copy(error)) == content(error)
    assert content(copy.deepcopy(error)) == content(error)


def test_an_error_of_a_program_that_extends_ours_can_be_pickled() -> None:
    error = OfAProgram(3, "four")
    error.add_note("noted")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.three, again.__notes__) == (OfAProgram, "3 four", 3, ["noted"])


class OfAProgram(errors.Unavailable):
    def __init__(self, three: int, four: str) -> None:
        super().__init__(f"{three} {four}")
        self.three = three


def test_there_is_an_example_of_every_public_value_object() -> None:
    public = {
        found
        for found in [*vars(milena_client).values(), *vars(admin).values()]
        if inspect.isclass(found)
        and dataclasses.is_dataclass(found)
        and found.__module__.removeprefix("milena_client.core.") in ("values", "retry", "admin", "jobs")
    }
    assert public == {type(value) for value in VALUES}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_object_is_the_same_after_pickling_and_copying(value: Any) -> None:
    for protocol in PROTOCOLS:
        assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert copy.deepcopy(value) == value


def fail_with(error: errors.MilenaError) -> None:
    raise error


def test_a_process_pool_hands_errors_to_its_parent() -> None:
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        for error in ERRORS.values():
            raised = pool.submit(fail_with, error).exception(60)
            assert isinstance(raised, errors.MilenaError)
            assert content(raised) == content(error)


OPTIONS: dict[str, Any] = {
    "bucket": "other-bucket",
    "timeout": 2.5,
    "retry": milena_client.RetryPolicy(tokens=7),
    "direct": False,
    "note": "from the test",
}


class Named(milena_client.Milena):
    """A program's own client."""


@pytest.mark.parametrize("kind", [milena_client.Milena, milena_client.AsyncMilena, Named])
def test_a_client_is_pickled_by_its_address_and_options(kind: Any) -> None:
    client = kind("10.0.0.1:50050", **OPTIONS)
    again = pickle.loads(pickle.dumps(client))
    assert type(again) is kind
    assert (again.address, again.options) == ("10.0.0.1:50050", client.options)
    assert {name: getattr(again.options, name) for name in OPTIONS} == OPTIONS


@pytest.mark.parametrize("kind", [milena_client.Milena, milena_client.AsyncMilena])
def test_a_client_made_of_a_url_is_pickled_too(kind: Any) -> None:
    client = kind.from_url("milena://router:50050/some-bucket?timeout=3s&direct=false")
    again = pickle.loads(pickle.dumps(client))
    assert again.address == "router:50050"
    assert (again.options.bucket, again.options.timeout, again.options.direct) == ("some-bucket", 3.0, False)


@pytest.mark.parametrize("kind", [milena_client.Milena, milena_client.AsyncMilena])
def test_a_pickled_client_has_a_near_cache_of_its_own_with_the_same_bounds(kind: Any) -> None:
    client = kind("10.0.0.1:50050", near_cache=milena_client.NearCache(1000, 2.5))
    near = pickle.loads(pickle.dumps(client)).options.near_cache
    assert near is not client.options.near_cache
    assert (near.max_bytes, near.max_age, len(near)) == (1000, 2.5, 0)


def test_the_operators_client_is_pickled_too() -> None:
    again = pickle.loads(pickle.dumps(Admin("10.0.0.1:50050", bucket="other-bucket", timeout=2.0)))
    assert isinstance(again, Admin)
    assert again.address == "10.0.0.1:50050"
    assert (again.options.bucket, again.options.timeout) == ("other-bucket", 2.0)


@pytest.mark.parametrize("client", [FakeMilena(), FakeAsyncMilena()])
def test_a_client_of_a_test_double_says_that_it_cannot_be_pickled(client: Any) -> None:
    with pytest.raises(TypeError, match="transport or clock of its own cannot be pickled"):
        pickle.dumps(client)
