"""Pure. The settings for reaching the queue of S3's events, derived from those for S3 and the queue's URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from milena_cache.origin.s3.settings import S3Settings, proxy_for
from milena_common.process.env import Environment

ALLOWED = "the URL of a queue of SQS, like https://sqs.eu-central-1.amazonaws.com/123456789012/name"
# Of AWS's hosts, those of VPC endpoints too.
_AWS_HOST = re.compile(r"(?:.*\.)?sqs\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?")


@dataclass(frozen=True, slots=True)
class EventSettings:
    """The settings of S3's events.

    queue_url: of the queue
    service: how SQS is reached: as S3 is, with another endpoint, region and proxy
    max_fresh_age: EVENTS_TTL_SECONDS; 0: events make no entry fresh for longer
    """

    queue_url: str
    service: S3Settings
    max_fresh_age: float


def load_events(env: Environment, s3: S3Settings, ttl: float, longest: float) -> EventSettings | None:
    """Return the settings, None if there is no queue. Problems are recorded in `env`.

    `ttl`: TTL_SECONDS. `longest`: the greatest EVENTS_TTL_SECONDS that is allowed, in seconds.
    """
    url = env.text("S3_EVENTS_QUEUE_URL")
    max_fresh_age = env.seconds("EVENTS_TTL_SECONDS", 0, 0, longest)
    if max_fresh_age and not url:
        env.problem("EVENTS_TTL_SECONDS", f"{max_fresh_age:g}", "only with S3_EVENTS_QUEUE_URL")
    elif max_fresh_age and max_fresh_age < ttl:
        env.problem("EVENTS_TTL_SECONDS", f"{max_fresh_age:g}", f"at least TTL_SECONDS ({ttl:g})")
    if not url:
        return None
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and len(parts.path) > 1 and parts.port != 0
        )
    except ValueError:
        usable = False
    if "@" in url:
        env.hidden_problem("S3_EVENTS_QUEUE_URL", ALLOWED)
        return None
    if not usable or parts.query or parts.fragment or " " in url:
        env.problem("S3_EVENTS_QUEUE_URL", url, ALLOWED)
        return None
    if parts.path.endswith(".fifo"):
        env.problem("S3_EVENTS_QUEUE_URL", url, "a standard queue: S3 sends events to no other")
    match = _AWS_HOST.fullmatch(parts.hostname or "")
    proxy_url, proxy_file, proxy_variable = proxy_for(env, url)
    service = replace(
        s3,
        region=match[1] if match else s3.region,
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        proxy_url=proxy_url,
        proxy_file=proxy_file,
        proxy_variable=proxy_variable,
    )
    return EventSettings(url, service, max_fresh_age)
