"""Pure. The settings of TLS: which files, which certificates are demanded of others, and which servers use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from milena_common.network.addresses import Address

# What a server demands of its clients.
ClientAuth = Literal["off", "optional", "required"]
CLIENT_AUTH: tuple[ClientAuth, ...] = ("off", "optional", "required")
# Whether the gRPC and HTTP ports are encrypted: all, none, or one more gRPC port and an HTTP port that takes both.
Mode = Literal["off", "on", "both"]
MODES: tuple[Mode, ...] = ("off", "on", "both")
MinVersion = Literal["1.2", "1.3"]
MIN_VERSIONS: tuple[MinVersion, ...] = ("1.2", "1.3")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What one side of connections shows and verifies.

    - `certificate`, `key`: files in PEM, the certificate with its chain; both "" for a client that shows none.
    - `authorities`: a file with the certificates by which those of others are verified; "" for those of the system.
    - `client_auth`: for a server, whether clients have to show a certificate.
    - `min_version`: the lowest version of TLS.
    - `server_name`: the name that certificates of servers must have, "" for the host of the address.
    - `variables`: how messages call the three files: certificate, key, authorities.
    """

    certificate: str = ""
    key: str = ""
    authorities: str = ""
    client_auth: ClientAuth = "off"
    min_version: MinVersion = "1.2"
    server_name: str = ""
    variables: tuple[str, str, str] = field(default=("cert", "key", "ca"), compare=False)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The settings of TLS of a router or node.

    mode: of the gRPC and HTTP ports
    files: None if nothing of this process uses TLS
    listen: where gRPC is served with TLS besides LISTEN_ADDR, in the mode "both"
    reload_seconds: between two looks at the files
    """

    mode: Mode = "off"
    files: TlsFiles | None = None
    listen: Address | None = None
    reload_seconds: float = 10.0

    @property
    def demands_certificates(self) -> bool:
        """True if clients of the gRPC and HTTP ports have to show a certificate."""
        return self.mode != "off" and self.files is not None and self.files.client_auth == "required"

    @property
    def library_variables(self) -> dict[str, str]:
        """Variables that gRPC has to find when it is imported: Python's has no other way to exclude TLS 1.2.

        Its list of ciphers is that of TLS 1.2. The only one in it needs a key that both sides know (PSK), which
        Milena never has, so that no connection of 1.2 can be made; those of 1.3 are always there.
        """
        restricted = self.files is not None and self.files.min_version == "1.3"
        return {"GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-AES256-CBC-SHA"} if restricted else {}
