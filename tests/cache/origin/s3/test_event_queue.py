"""The settings for the queue of S3's events."""

from __future__ import annotations

import pytest

from milena_cache.configuration.config import Config, load
from milena_common.api.errors import ConfigError
from milena_common.process.env import Environment
from tests.cache.node_under_test import VARIABLES

AWS = "https://sqs.eu-west-1.amazonaws.com/123456789012/name"


def config(**variables: str) -> Config:
    return load(Environment({**VARIABLES, **variables}), 2**30)


def test_without_a_queue_there_are_no_settings() -> None:
    assert config().events is None


@pytest.mark.parametrize(
    ("url", "region", "endpoint"),
    [
        (AWS, "eu-west-1", "https://sqs.eu-west-1.amazonaws.com"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1", "https://sqs.cn-north-1.amazonaws.com.cn"),
        (
            "https://vpce-1.sqs.us-east-2.vpce.amazonaws.com/1/q",
            "us-east-2",
            "https://vpce-1.sqs.us-east-2.vpce.amazonaws.com",
        ),
        ("http://127.0.0.1:5000/123456789012/q", VARIABLES["AWS_REGION"], "http://127.0.0.1:5000"),
    ],
)
def test_region_and_endpoint_are_those_of_the_url(url: str, region: str, endpoint: str) -> None:
    events = config(S3_EVENTS_QUEUE_URL=url, S3_ENDPOINT_URL="http://127.0.0.1:9000").events
    assert events is not None
    assert (events.queue_url, events.service.region, events.service.endpoint_url) == (url, region, endpoint)


def test_the_proxy_is_that_for_the_queue() -> None:
    found = config(
        S3_EVENTS_QUEUE_URL=AWS, HTTPS_PROXY="http://proxy:3128", NO_PROXY="s3.eu-central-1.amazonaws.com"
    )
    assert found.s3.proxy_url == ""
    assert found.events is not None
    assert found.events.service.proxy_url == "http://proxy:3128"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"S3_EVENTS_QUEUE_URL": "name"}, "S3_EVENTS_QUEUE_URL"),
        ({"S3_EVENTS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com"}, "S3_EVENTS_QUEUE_URL"),
        ({"S3_EVENTS_QUEUE_URL": f"{AWS}.fifo"}, "S3_EVENTS_QUEUE_URL"),
        ({"S3_EVENTS_QUEUE_URL": "https://user:word@host/1/q"}, "S3_EVENTS_QUEUE_URL"),
        ({"S3_EVENTS_QUEUE_URL": "http://host:99999/1/q"}, "S3_EVENTS_QUEUE_URL"),
        ({"S3_EVENTS_QUEUE_URL": AWS, "RESP_ADDR": "off"}, "S3_EVENTS_QUEUE_URL"),
        ({"EVENTS_TTL_SECONDS": "7200"}, "EVENTS_TTL_SECONDS"),
        ({"S3_EVENTS_QUEUE_URL": AWS, "EVENTS_TTL_SECONDS": "60"}, "EVENTS_TTL_SECONDS"),
    ],
)
def test_what_cannot_work_is_rejected(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as raised:
        config(**variables)
    assert "word" not in str(raised.value)
