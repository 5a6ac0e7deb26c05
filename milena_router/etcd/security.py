"""Shell. How a router shows etcd who it is: certificates in files, a user and a password.

The files are read for each new connection, so that replaced ones count from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from milena_router.etcd.errors import EtcdError


@dataclass(frozen=True, slots=True)
class EtcdSecurity:
    """ca_file: certificates of authorities that etcd's certificate is checked with; "": those of the system
    cert_file, key_file: the router's own certificate and key, both or none
    tls: False for a connection that is not encrypted
    username, password_file: "" for none
    """

    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password_file: str = ""

    def files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the contents of the files: authorities, key, certificate. Raises EtcdError."""
        ca, key, certificate = map(_contents, (self.ca_file, self.key_file, self.cert_file))
        return ca, key, certificate

    def password(self) -> str:
        """Return the password, without the end of its line. Raises EtcdError."""
        return (_contents(self.password_file) or b"").decode(errors="replace").rstrip("\r\n")


def _contents(name: str) -> bytes | None:
    try:
        return Path(name).read_bytes() if name else None
    except OSError as error:
        raise EtcdError(f"etcd: a file of its settings cannot be read: {error}") from None
