"""Pure. The variables of TLS, the same for router and node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from milena_common.access.settings import AccessSettings
from milena_common.network.addresses import Address
from milena_common.process.env import Environment
from milena_common.tls.settings import CLIENT_AUTH, MIN_VERSIONS, MODES, TlsConfig, TlsFiles

C = TypeVar("C", bound=str)

CERTIFICATE, KEY, AUTHORITIES = "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"
_NEEDS_FILE = "a file in PEM"


def load_tls(env: Environment, resp_tls: Address | None = None, connects: bool = False) -> TlsConfig:
    """Return the settings. Problems are recorded in `env`.

    `resp_tls`: where the RESP server listens with TLS. `connects`: True if connections to routers use TLS.
    """
    mode = _one_of(env, "TLS", "off", MODES)
    certificate, key, authorities = env.text(CERTIFICATE), env.text(KEY), env.text(AUTHORITIES)
    client_auth = _one_of(env, "TLS_CLIENT_AUTH", "off", CLIENT_AUTH)
    min_version = _one_of(env, "TLS_MIN_VERSION", "1.2", MIN_VERSIONS)
    server_name = env.text("TLS_SERVER_NAME")
    if server_name:
        server_name = env.host("TLS_SERVER_NAME", server_name)
    reload_seconds = env.seconds("TLS_RELOAD_SECONDS", 10, 0.05, 86400)
    where = env.text("TLS_LISTEN_ADDR")
    listen = env.address("TLS_LISTEN_ADDR", "127.0.0.1:0", lowest_port=0) if where else None
    serves = mode != "off" or resp_tls is not None
    reason = f"TLS={mode}" if mode != "off" else "RESP_TLS_ADDR is set"
    for name, value, other in ((CERTIFICATE, certificate, key), (KEY, key, certificate)):
        if not value and serves:
            env.problem(name, "", f"{_NEEDS_FILE}, because {reason}")
        elif not value and other:
            env.problem(name, "", f"{_NEEDS_FILE}, because {KEY if name == CERTIFICATE else CERTIFICATE} is set")
    if client_auth != "off" and not authorities:
        env.problem(AUTHORITIES, "", f"{_NEEDS_FILE}, because TLS_CLIENT_AUTH={client_auth}")
    if client_auth != "off" and not serves:
        env.problem("TLS_CLIENT_AUTH", client_auth, "off, while no port uses TLS (TLS, RESP_TLS_ADDR)")
    if client_auth == "optional" and mode != "off":
        env.problem(
            "TLS_CLIENT_AUTH",
            client_auth,
            f"off or required with TLS={mode}: gRPC cannot request a client's certificate without requiring it; "
            "optional is for RESP_TLS_ADDR with TLS=off",
        )
    if mode == "both" and listen is None:
        env.problem("TLS_LISTEN_ADDR", "", "an address for gRPC with TLS, because TLS=both")
    if mode != "both" and listen is not None:
        env.problem("TLS_LISTEN_ADDR", where, f"nothing with TLS={mode}; it is the second gRPC port of TLS=both")
    if not (serves or certificate or authorities or connects):
        return TlsConfig(reload_seconds=reload_seconds)
    files = TlsFiles(
        certificate, key, authorities, client_auth, min_version, server_name, (CERTIFICATE, KEY, AUTHORITIES)
    )
    return TlsConfig(mode, files, listen, reload_seconds)


def check_cluster_identity(env: Environment, tls: TlsConfig, access: AccessSettings) -> None:
    """Record what would let a client act as one of the cluster's processes, or none of these."""
    required = tls.files is not None and tls.files.client_auth == "required"
    named = access.has_token or access.cluster_names or access.acl_file
    if tls.mode == "on" and required and not named:
        # With TLS=both the plain port is open anyway, and nodes that have no certificate yet join there.
        env.problem(
            "CLUSTER_CERT_NAMES",
            "",
            "the names in the certificates of routers and nodes, since TLS_CLIENT_AUTH=required alone lets every "
            "client with a certificate join as a node; or set CLUSTER_TOKEN_FILE",
        )
    if access.cluster_names and not access.has_token and (tls.mode == "off" or not required):
        env.problem(
            "CLUSTER_CERT_NAMES",
            ",".join(access.cluster_names),
            "names with TLS=on or both and TLS_CLIENT_AUTH=required, where routers and nodes show their "
            "certificates to each other; or set CLUSTER_TOKEN_FILE too",
        )


def _one_of(env: Environment, name: str, default: C, choices: Sequence[C]) -> C:
    chosen = env.choice(name, default, choices)
    return next(choice for choice in choices if choice == chosen)
