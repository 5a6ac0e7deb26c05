"""Coordination. Who makes a request to an S3 endpoint, and whether they may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from milena_common.access.access import Access
from milena_common.access.api_guard import LIST_COMMAND, ApiGuard
from milena_common.access.principals import Principal
from milena_common.s3.signing.signatures import ChunkSignatures, Signed, Verifier
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import S3Request

PORT: Final = "s3"


class _Named(NamedTuple):
    """An object, as `ApiGuard` needs it of a request."""

    bucket: str
    key: bytes


class Caller(NamedTuple):
    """Who makes a request. `signed`: None if it is anonymous."""

    principal: Principal
    signed: Signed | None
    peer: str

    def payload(self, request: S3Request) -> str:
        """Return what the request says of its body: its SHA-256, or in which form it comes."""
        return self.signed.payload if self.signed is not None else request.header("x-amz-content-sha256")

    @property
    def chunks(self) -> ChunkSignatures | None:
        """Return how the chunks of the body are signed, None if they are not."""
        return self.signed.chunks if self.signed is not None else None


class Callers:
    """The callers of one endpoint. `anonymous`: True if requests without a signature are the default user's."""

    def __init__(self, access: Access, guard: ApiGuard, verifier: Verifier, *, anonymous: bool) -> None:
        self.guard = guard
        self._access = access
        self._verifier = verifier
        self._anonymous = anonymous

    def identify(self, request: S3Request) -> Caller:
        """Return who makes a request. Raises S3Error."""
        signed = self._verified(request)
        if signed is not None:
            principal = self._access.principal_of_key(signed.key.user)
            if principal is None:
                self._access.key_rejected(signed.key.user, "user", request.peer, PORT)
                raise S3Error("InvalidAccessKeyId", "The user of the AWS access key Id you provided is disabled.")
            return Caller(principal, signed, request.peer)
        if not self._anonymous:
            self._access.missing(request.peer, PORT)
            raise S3Error("AccessDenied", "Access Denied: the request has no signature")
        return Caller(self._access.anonymous, None, request.peer)

    def _verified(self, request: S3Request) -> Signed | None:
        try:
            return self._verifier.verify(request)
        except S3Error as error:
            self._access.key_rejected("", error.code, request.peer, PORT)
            raise

    def authorize(self, caller: Caller, method: str, bucket: str, key: bytes = b"") -> None:
        """Raise AccessDenied, or RateLimited, unless the caller may use an API method on an object."""
        if caller.principal.guard is not None:
            self.guard.authorize(caller.principal, method, _Named(bucket, key), caller.peer, PORT)

    def sight(self, caller: Caller, bucket: str) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
        """Return which keys of a bucket, and which common prefixes, the caller sees in listings."""
        user = caller.principal.guard
        if user is None or user.unrestricted_for(LIST_COMMAND):
            return _any, _any
        named = self.guard.named
        return (
            lambda key: user.may_see(LIST_COMMAND, named(bucket, key.encode())),
            lambda prefix: user.may_see_prefix(LIST_COMMAND, named(bucket, prefix.encode())),
        )

    def count_bytes(self, caller: Caller, size: int) -> None:
        """Count the bytes of a value in the caller's rate."""
        user = caller.principal.guard
        if user is not None and user.bytes_rate:
            self.guard.charge(user, size)


def _any(_: str) -> bool:
    return True
