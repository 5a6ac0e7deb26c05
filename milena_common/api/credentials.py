"""Pure. With what a caller logs in: user name and password, or a token."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

# The user name with which a token is given where a protocol has user and password only.
BEARER: Final = "Bearer"
# The metadata of a gRPC call, and the header of HTTP.
AUTHORIZATION: Final = "authorization"
# The metadata that names the user for whom a process of the cluster makes a call, in UTF-8.
END_USER_METADATA: Final = "milena-user-bin"


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password. With the name `Bearer` the password is a token, and the server finds the user."""

    user: str
    password: str = field(repr=False)

    @classmethod
    def of_token(cls, token: str) -> Self:
        """Return credentials that are a token."""
        return cls(BEARER, token)

    def header(self) -> str:
        """Return the value of an `Authorization` header."""
        if self.user == BEARER:
            return f"Bearer {self.password}"
        return "Basic " + b64encode(f"{self.user}:{self.password}".encode(errors="surrogateescape")).decode()

    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a gRPC call."""
        return ((AUTHORIZATION, self.header()),)


# Returns the credentials for the next connection or call; None: without a login.
CurrentCredentials = Callable[[], Credentials | None]


def no_credentials() -> None:
    """Return None: connections are made without a login."""
    return
