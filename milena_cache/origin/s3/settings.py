"""Pure. The settings for reaching S3: resolved once from the environment, and passed to both clients explicitly.

boto3 and obstore each read variables by themselves, and not the same ones in the same way. A node whose reads go to
one endpoint or through one proxy, and whose listings to another, is worse than one that does not start. So settings
that both support are read here, those that only one supports are rejected by name, and neither client reads any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from milena_common.network.addresses import canonical_host
from milena_common.process.env import Environment

# The minimum rate of a transfer, in bytes a second: a slower one times out.
MIN_BYTES_PER_SECOND = 2**20

# Variables for the endpoint of S3, the most specific first.
ENDPOINT_VARIABLES = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
PROXY_VARIABLES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
PROXY_ALLOWED = "the address of an HTTP proxy: http://[user:password@]host:port"
CA_VARIABLES = ("S3_CA_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")

# Variables that only one of the clients would follow.
ONE_SIDED = (
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_REQUEST_PAYER",
    "AWS_S3_EXPRESS",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SKIP_SIGNATURE",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
)
NO = ("", "0", "false", "f", "no", "n", "off")


@dataclass(frozen=True, slots=True)
class StaticCredentials:
    """Credentials from the environment; `token` is "" for permanent ones."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Credentials of which some are in files, which are read again when they change.

    access_key, secret_key, token: the file's name, or "" if it is the one of `given`
    given: those from the environment, "" for those in files
    """

    access_key: str
    secret_key: str
    token: str
    given: StaticCredentials


@dataclass(frozen=True, slots=True)
class S3Settings:
    """The settings of both clients.

    region: the region of the buckets
    endpoint_url: the URL of S3, "" for AWS
    timeout: seconds that S3 may be silent in one attempt, before a response and between its parts
    connect_timeout: seconds for establishing a connection
    proxy_url: the HTTP proxy for requests to S3, "" for none, or that it is in `proxy_file`
    proxy_file: the file with that proxy, which is read again when it changes; "" for none
    proxy_variable: the variable that names the file
    ca_bundle: the file with the trusted certificates, "" for the default ones
    credentials: None if the provider chain is used (~/.aws, web identity, container, instance)
    """

    region: str
    endpoint_url: str
    timeout: float
    connect_timeout: float
    proxy_url: str = field(default="", repr=False)
    proxy_file: str = ""
    proxy_variable: str = ""
    ca_bundle: str = ""
    credentials: StaticCredentials | CredentialFiles | None = None

    def transfer_seconds(self, size: int) -> float:
        """Return the timeout in seconds of a whole request that transfers `size` bytes."""
        return self.timeout + size / MIN_BYTES_PER_SECOND

    def endpoint_of(self, bucket: str, region: str) -> tuple[str, bool]:
        """Return the URL for the bucket, and True if the bucket is in its host and not in the path."""
        if self.endpoint_url:
            return self.endpoint_url, False
        host = aws_host(region)
        if "." in bucket:  # AWS's wildcard certificates cover only one label
            return f"https://{host}", False
        return f"https://{bucket}.{host}", True


def aws_host(region: str) -> str:
    """Return the host name of AWS's S3 in `region`."""
    return f"s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def load_s3(env: Environment) -> S3Settings:
    """Resolve the settings. Problems are recorded in `env`."""
    for name in ONE_SIDED:
        text = env.text(name)
        if text.lower() not in NO:
            shown = "a value" if "KEY" in name else text
            env.problem(name, shown, "not set: only one of Milena's two S3 clients would follow it")
    region = _region(env)
    endpoint_url = _endpoint(env)
    url = endpoint_url or f"https://{aws_host(region)}"
    proxy_url, proxy_file, proxy_variable = proxy_for(env, url)
    return S3Settings(
        region=region,
        endpoint_url=endpoint_url,
        timeout=env.seconds("S3_TIMEOUT_SECONDS", 4, 0.05, 3600),
        connect_timeout=env.seconds("S3_CONNECT_TIMEOUT_SECONDS", 2, 0.05, 3600),
        proxy_url=proxy_url,
        proxy_file=proxy_file,
        proxy_variable=proxy_variable,
        ca_bundle=_first(env, CA_VARIABLES)[1],
        credentials=_credentials(env),
    )


def _first(env: Environment, names: Sequence[str]) -> tuple[str, str]:
    """Return the first of these variables that is set, and its value; the first name and "" if none is."""
    texts = [(name, env.text(name)) for name in names]
    return next(((name, text) for name, text in texts if text), (names[0], ""))


def _region(env: Environment) -> str:
    region = env.text("AWS_REGION", required="the region of S3_BUCKET, like eu-central-1")
    if region and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", region):
        env.problem("AWS_REGION", region, "a region like eu-central-1, without quotes and spaces")
        return ""
    return region


def _endpoint(env: Environment) -> str:
    name, text = _first(env, ENDPOINT_VARIABLES)
    url = text.rstrip("/")
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https")
            and canonical_host(parts.hostname or "") is not None
            and parts.port != 0
        )
    except ValueError:  # an invalid port
        usable = False
        parts = urlsplit("")
    if "@" in url:
        env.hidden_problem(name, "http://host:port or https://host[:port], without user and password")
    # S3's clients accept no host with an underscore.
    elif url and (not usable or "_" in parts.netloc or parts.query or parts.fragment or " " in url):
        env.problem(name, url, "http://host:port or https://host[:port], no _ in host; empty for AWS")
    return url


def _credentials(env: Environment) -> StaticCredentials | CredentialFiles | None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    access_key, secret_key, token = values = [env.secret(name) for name in names]
    files = [env.text(f"{name}_FILE") for name in names]
    for name, value, file in zip(names, values, files, strict=True):
        if value and file:
            env.hidden_problem(name, f"not together with {name}_FILE")
    has_key, has_secret = bool(access_key or files[0]), bool(secret_key or files[1])
    if has_key != has_secret and not env.problems:
        missing = "AWS_SECRET_ACCESS_KEY" if has_key else "AWS_ACCESS_KEY_ID"
        env.problem(missing, "", "set together with the other half of the credentials, or neither")
    if not (has_key and has_secret):
        return None
    given = StaticCredentials(access_key, secret_key, token)
    return CredentialFiles(files[0], files[1], files[2], given) if any(files) else given


def proxy_for(env: Environment, url: str) -> tuple[str, str, str]:
    """Return the proxy for `url`, or the file that has it and its variable; "" for none.

    By the variables that curl and others read; lower-case names take precedence, and one with `_FILE` has the place
    of that without.
    """
    # Read as secrets: they may hold a password.
    proxies = {name: env.secret(name) for name in PROXY_VARIABLES}
    files = {name: env.text(f"{name}_FILE") for name in PROXY_VARIABLES if name.isupper()}
    for name, file in files.items():
        if file and proxies[name]:
            env.hidden_problem(name, f"not together with {name}_FILE")
    excluded = [env.text(name) for name in ("no_proxy", "NO_PROXY")]
    scheme = "http" if url.startswith("http://") else "https"
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    name = next((name for name in names if proxies[name] or files.get(name)), "")
    if not name:
        return "", "", ""
    try:
        if bypasses_proxy(excluded[0] or excluded[1], url):
            return "", "", ""
    except ValueError:
        return "", "", ""  # the endpoint is not a URL, which is recorded already
    if not proxies[name]:
        return "", files[name], f"{name}_FILE"
    try:
        return proxy_of(proxies[name]), "", ""
    except ValueError:
        env.hidden_problem(name, PROXY_ALLOWED)
        return "", "", ""


def proxy_of(text: str) -> str:
    """Return the URL of a proxy. Raises ValueError if `text` is no address of one."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme not in ("http", "https") or canonical_host(parts.hostname or "") is None or parts.port == 0:
        raise ValueError(PROXY_ALLOWED)
    return parts.geturl()


def bypasses_proxy(excluded: str, url: str) -> bool:
    """True if `excluded`, the text of NO_PROXY, excludes `url` from the use of a proxy.

    Its parts, separated by commas or spaces: `*`, a host or a domain (with its subdomains), an IP address, or a
    network (10.0.0.0/8); all but the network may have a port. Raises ValueError if `url` is invalid.
    """
    target = urlsplit(url)
    host = (target.hostname or "").rstrip(".")
    port = target.port or (80 if target.scheme == "http" else 443)
    return any(_excludes(part.lower(), host, port) for part in re.split(r"[,\s]+", excluded) if part)


def _excludes(part: str, host: str, port: int) -> bool:
    if part == "*":
        return True
    try:
        return ip_address(host) in ip_network(part.strip("[]"), strict=False)
    except ValueError:
        pass
    match = re.fullmatch(r"(.*?):([0-9]+)", part)
    name = part
    if match and (":" not in match[1] or match[1].endswith("]")):
        if int(match[2]) != port:
            return False
        name = match[1]
    name = name.strip("[]").removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
