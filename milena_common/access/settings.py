"""Pure. The variables of users, the cluster's identity and the audit log, the same for routers and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from milena_common.network.addresses import Port
from milena_common.process.env import Environment

OFF: Final = "off"
STDOUT: Final = "stdout"
MIN_TOKEN: Final = 16
MAX_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """The settings.

    acl_file: the file of users; "": there is none, and anyone may do everything
    token: the cluster's token from the environment; "": none, or in `token_file`
    token_file: the file with the cluster's tokens, one a line; "": none
    cluster_names: patterns of names in certificates of the cluster's processes
    require_auth: True if the process must not start without users
    audit_log: OFF, STDOUT, or a file
    audit_plain_keys: True if keys are written as they are, False if as hashes
    """

    acl_file: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    cluster_names: tuple[str, ...] = ()
    require_auth: bool = False
    audit_log: str = OFF
    audit_plain_keys: bool = False

    @property
    def has_token(self) -> bool:
        return bool(self.token or self.token_file)


def load_access(env: Environment) -> AccessSettings:
    """Return the settings; problems are recorded in `env`."""
    settings = AccessSettings(
        acl_file=env.text("ACL_FILE"),
        token=env.secret("CLUSTER_TOKEN"),
        token_file=env.text("CLUSTER_TOKEN_FILE"),
        cluster_names=tuple(filter(None, (name.strip() for name in env.text("CLUSTER_CERT_NAMES").split(",")))),
        require_auth=env.choice("REQUIRE_AUTH", "false", ("true", "false")) == "true",
        audit_log=env.text("AUDIT_LOG", OFF),
        audit_plain_keys=env.choice("AUDIT_KEYS", "hashed", ("hashed", "plain")) == "plain",
    )
    if settings.token and settings.token_file:
        env.hidden_problem("CLUSTER_TOKEN", "not together with CLUSTER_TOKEN_FILE")
    if settings.token and len(settings.token) < MIN_TOKEN:
        env.hidden_problem("CLUSTER_TOKEN", f"at least {MIN_TOKEN} characters; `milena acl genpass` makes one")
    if settings.acl_file and not settings.has_token and not settings.cluster_names:
        env.problem(
            "CLUSTER_TOKEN_FILE",
            "",
            "a file with a token, the same for all routers and nodes, since ACL_FILE is set; or CLUSTER_CERT_NAMES",
        )
    for name in settings.cluster_names:
        if len(name) > MAX_NAME or name.strip("*?") == "":
            env.problem(
                "CLUSTER_CERT_NAMES", name, f"patterns of names, of at most {MAX_NAME} characters, not all names"
            )
    return settings


def insecure_ports(ports: Sequence[Port]) -> list[Port]:
    """Return the ports that other machines can reach."""
    return [port for port in ports if not port.address.is_loopback]
