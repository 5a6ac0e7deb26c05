"""Pure. Parses the URL of a cluster: ``milena://host:50050/bucket?timeout=1s``.

One string holds everything that differs between a laptop and production, so that it fits in one environment
variable. Unknown parts of a URL are rejected: a mistyped parameter must not be ignored. No error repeats the URL,
which may have a password in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote, urlsplit

from milena_common.api.credentials import Credentials
from milena_common.api.errors import ConfigError, InvalidRequest
from milena_common.api.keys import DEFAULT_BUCKET, check_bucket
from milena_common.network.addresses import parse_address
from milena_common.tls.settings import TlsFiles

VARIABLE = "MILENA_URL"
SCHEME = "milena://"
TLS_SCHEME = "milenas://"
DEFAULT_PORT = 50050
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"
MAX_TIMEOUT = 86_400.0

_FORM = (
    "milena://[USER:PASSWORD@]HOST[:PORT][,HOST...][/BUCKET][?timeout=1s&direct=true], "
    "or milenas://... with TLS and [&ca=FILE&cert=FILE&key=FILE&server_name=NAME]"
)
_TLS_PARAMETERS = ("ca", "cert", "key", "server_name")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}


@dataclass(frozen=True, slots=True)
class Target:
    """The content of a URL.

    - `address`: host:port of the router; of several that have one ring, separated by commas.
    - `bucket`: its name; "" is the default one.
    - `timeout`: in seconds; None if the URL has none.
    - `note`: the source of the address, for the error when it cannot be reached.
    - `direct`: True if nodes may be called without the router between.
    - `tls`: what connections are encrypted with; None: they are plain.
    - `credentials`: user and password of the URL; None if it has none. With the user `Bearer` it is a token.
    """

    address: str = DEFAULT_ADDRESS
    bucket: str = ""
    timeout: float | None = None
    note: str = ""
    direct: bool = True
    tls: TlsFiles | None = None
    credentials: Credentials | None = field(default=None, kw_only=True)

    def seconds(self, timeout: float | None, default: float) -> float:
        """Return `timeout` if the caller gave one, else the URL's, else `default`."""
        if timeout is not None:
            return timeout
        return default if self.timeout is None else self.timeout


def as_target(address: str) -> Target:
    """Return the target of a client's `address`: a milena:// URL, or host:port, or host with the default port.

    Several hosts are separated by commas.

    Raises ConfigError for an invalid URL, InvalidRequest for another invalid address.
    """
    if address.startswith((SCHEME, TLS_SCHEME)):
        return parse_url(address)
    try:
        if "@" in address:
            raise ValueError("has a user or password, which only a URL may have")
        return Target(_routers(address))
    except ValueError as error:
        # Not repeated, as in `parse_url`.
        raise InvalidRequest(f"address: {error}; allowed: HOST[:PORT][,HOST...], or {_FORM}") from None


def _routers(hosts: str) -> str:
    """Return the addresses in `hosts`, separated by commas. Raises ValueError."""
    found = [host.strip().removeprefix("http://").removesuffix("/") for host in hosts.split(",")]
    return ",".join(dict.fromkeys(str(parse_address(_with_port(host))) for host in found))


def _with_port(host: str) -> str:
    """Return `host` with the default port unless it has one: a colon after any brackets of an IPv6 address."""
    return host if ":" in host.rpartition("]")[2] else f"{host}:{DEFAULT_PORT}"


def parse_duration(text: str) -> float:
    """Return the seconds in ``500ms``, ``1.5s``, ``2m`` or ``1.5`` (seconds).

    Raises ValueError with the allowed forms.
    """
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ValueError(f"got {text!r}; allowed: a duration such as 500ms, 1.5s or 2m, up to {MAX_TIMEOUT:g}s")
    return seconds


def parse_url(url: str) -> Target:
    """Return the target of `url`. Raises ConfigError, naming the invalid part and the allowed values."""
    try:
        return _parse(url)
    except (ValueError, InvalidRequest) as error:
        # The URL itself is not repeated: people put passwords into URLs, and this text goes into logs.
        raise ConfigError([f"url: {error}; the form is {_FORM}"]) from None


def _parse(url: str) -> Target:
    if not url.startswith((SCHEME, TLS_SCHEME)):
        raise ValueError(f"does not begin with {SCHEME} or {TLS_SCHEME}")
    parts = urlsplit(url)
    if parts.fragment:
        raise ValueError("has a #fragment")
    login, _, hosts = parts.netloc.rpartition("@")
    credentials = _credentials(login) if login or "@" in parts.netloc else None
    address = _routers(hosts)
    bucket = parts.path.strip("/")
    if bucket not in ("", DEFAULT_BUCKET):
        check_bucket(bucket)
    timeout: float | None = None
    direct = True
    encrypted = url.startswith(TLS_SCHEME)
    files: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "timeout":
            try:
                timeout = parse_duration(value)
            except ValueError as error:
                raise ValueError(f"timeout: {error}") from None
        elif name in ("direct", "tls"):
            if value not in ("true", "false"):
                raise ValueError(f"{name}: got {value!r}; allowed: true, false")
            if name == "direct":
                direct = value == "true"
            else:
                encrypted = encrypted or value == "true"
        elif name in _TLS_PARAMETERS:
            files[name] = value
        else:
            allowed = ", ".join(("timeout", "direct", "tls", *_TLS_PARAMETERS))
            raise ValueError(f"parameter {name!r} is not known; allowed: {allowed}")
    if files and not encrypted:
        raise ValueError(f"{next(iter(files))}: is for {TLS_SCHEME} or tls=true only")
    tls = _tls(files) if encrypted else None
    return Target(address, bucket, timeout, direct=direct, tls=tls, credentials=credentials)


def _tls(files: Mapping[str, str]) -> TlsFiles:
    if bool(files.get("cert")) != bool(files.get("key")):
        missing = "key" if files.get("cert") else "cert"
        raise ValueError(f"{missing}: is missing; cert and key are files that belong together")
    return TlsFiles(
        files.get("cert", ""), files.get("key", ""), files.get("ca", ""), server_name=files.get("server_name", "")
    )


def _credentials(login: str) -> Credentials:
    """Return what `user:password`, percent-encoded, means. Raises ValueError, without them."""
    user, colon, password = login.partition(":")
    if not user or not colon or "@" in login:
        raise ValueError("the login before @ is not USER:PASSWORD, with special characters percent-encoded")
    return Credentials(unquote(user), unquote(password))


def from_environment(environ: Mapping[str, str]) -> Target:
    """Return the target of MILENA_URL; without it, or if it is empty, the router's default address on this machine.

    Raises ConfigError for an invalid URL.
    """
    url = environ.get(VARIABLE, "").strip()
    if not url:
        return Target(note=f"{VARIABLE} is not set, so the default, milena://{DEFAULT_ADDRESS}, was tried")
    try:
        return replace(parse_url(url), note=f"the address is {VARIABLE}'s")
    except ConfigError as error:
        raise ConfigError([f"{VARIABLE}: {problem.removeprefix('url: ')}" for problem in error.problems]) from None


def chosen(router: str | None, environ: Mapping[str, str]) -> Target:
    """Return the target of `router`, as `as_target` takes it; of MILENA_URL if it is None or "". Raises as both."""
    return as_target(router) if router else from_environment(environ)
