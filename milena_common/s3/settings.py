"""Pure. The variables of an S3 endpoint, the same for every process that has one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from milena_common.network.addresses import Address
from milena_common.process.env import Environment

_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """The settings.

    listen: where the endpoint listens
    keys_file: the file of access keys; "": there is none, and only anonymous requests are served
    anonymous: True if requests without a signature are served, as those of the default user
    domain: buckets may be named in its subdomains; "" if only in paths
    """

    listen: Address
    keys_file: str = ""
    anonymous: bool = False
    domain: str = ""


def load_endpoint(env: Environment) -> EndpointSettings | None:
    """Return the settings, None if there is no endpoint; problems are recorded in `env`."""
    settings = load_forwarding_endpoint(env)
    keys_file = env.text("S3_KEYS_FILE")
    anonymous = env.choice("S3_ANONYMOUS", "false", ("true", "false")) == "true"
    if settings is None:
        return None
    if not keys_file and not anonymous:
        env.problem("S3_KEYS_FILE", "", "a file of access keys, since S3_LISTEN_ADDR is set; or S3_ANONYMOUS=true")
    return replace(settings, keys_file=keys_file, anonymous=anonymous)


def load_forwarding_endpoint(env: Environment) -> EndpointSettings | None:
    """Return the settings of an endpoint that forwards requests, and leaves it to others who may do what."""
    text = env.text("S3_LISTEN_ADDR")
    domain = env.text("S3_DOMAIN").lower()
    if domain and not _DOMAIN.fullmatch(domain):
        env.problem("S3_DOMAIN", domain, "a name of DNS, such as s3.example.com, without a port")
    if not text or text.lower() == "off":
        return None
    return EndpointSettings(env.address("S3_LISTEN_ADDR", "127.0.0.1:9000", lowest_port=0), domain=domain)
