"""Coordination. Who may do what on the ports of one process: the table of users at present, and logins.

- Nothing here is called for a request of a user that may do everything, as all may without a file of users.
- The table is replaced as a whole (`replace_users`); `on_change` is called then, so that open connections get the
  rules of now, or end if their user or password does not exist any more.
- Passwords are compared in a time that depends on none of them, also for users that do not exist. After some failed
  logins an address has to wait before its next one is looked at.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from milena_common.access.acl_file import OPEN
from milena_common.access.acl_log import AclLog, Reason
from milena_common.access.failed_logins import MAX_WAIT_SECONDS, FailedLogins
from milena_common.access.glob import Glob
from milena_common.access.principals import ANONYMOUS, CLUSTER, DEFAULT, EVERYONE, How, Principal
from milena_common.access.rules import User, digest_of
from milena_common.access.user_limits import UserLimits
from milena_common.api.credentials import BEARER, Credentials
from milena_common.api.errors import AccessDenied, RateLimited, Unauthenticated
from milena_common.runtime.clock import Clock

# Seconds that a new connection has to authenticate.
LOGIN_SECONDS: Final = 10.0
# Bytes that a connection may hold before it has authenticated.
LOGIN_BYTES: Final = 64 * 1024
MAX_CREDENTIAL_BYTES: Final = 4096

# Takes one event: its name and its fields.
Audit = Callable[[str, Mapping[str, Any]], None]

_WRONG: Final = "wrong user name or password, or the user is disabled"
_NO_USER: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of the cluster: the first one is sent, all of them are accepted. Empty: there is none."""

    texts: tuple[str, ...] = ()

    @property
    def sent(self) -> str:
        return self.texts[0] if self.texts else ""

    def __repr__(self) -> str:
        return f"Tokens({len(self.texts)} tokens)"


def no_audit(event: str, fields: Mapping[str, Any]) -> None:
    """Record nothing."""
    del event, fields


class Access:
    """The users, logins and rejections of one process.

    users: the table, by name
    cluster_names: patterns of names in certificates of the cluster's processes
    protects_cluster: True if calls between the cluster's processes need the cluster's identity
    requires_login: True if a connection without a login may do nothing
    log: the latest rejections
    limits: the limits of users
    failures: failed logins by port and reason
    on_change: called after the table was replaced
    load: reads the file of users again, for ACL LOAD; raises ConfigError. None: there is no file
    """

    def __init__(
        self,
        clock: Clock,
        users: Mapping[str, User] = OPEN,
        tokens: Tokens = Tokens(),
        audit: Audit = no_audit,
        cluster_names: Sequence[str] = (),
    ) -> None:
        self._clock = clock
        self.users = users
        self._audit = audit
        self._digests: tuple[str, ...] = ()
        self._failed = FailedLogins()
        self.tokens = tokens
        self._cluster_names = [Glob(name.encode()) for name in cluster_names]
        self.protects_cluster = users is not OPEN or bool(tokens.texts) or bool(cluster_names)
        self.log = AclLog()
        self.limits = UserLimits()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.on_change: list[Callable[[], None]] = []
        self.load: Callable[[], None] | None = None
        self.replace_tokens(tokens)

    @property
    def is_open(self) -> bool:
        """True if anyone may do everything: there is nothing to check."""
        return self.users is OPEN and not self.protects_cluster

    @property
    def requires_login(self) -> bool:
        return not self.anonymous.authenticated

    @property
    def anonymous(self) -> Principal:
        """Return the principal of a connection that has not logged in."""
        if self.is_open:
            return EVERYONE
        default = self.users.get(DEFAULT)
        return ANONYMOUS if default is None or not (default.enabled and default.no_password) else self._of(default)

    def principal_of(self, certificate: Sequence[str]) -> Principal:
        """Return the principal of a connection with these names in its certificate, before any other login.

        That is the cluster, or the first user with one of the names; the anonymous one if there is none.
        """
        for name in certificate:
            if any(glob.matches(name.encode()) for glob in self._cluster_names):
                return CLUSTER
        for name in certificate:
            user = self.users.get(name)
            if user is not None and user.enabled:
                return self._of(user, "certificate")
        return self.anonymous

    def principal_of_key(self, name: str) -> Principal | None:
        """Return the principal of the user who has an access key of S3; None if there is no such user.

        Without a file of users it is that of everybody, since all may do everything.
        """
        if self.users is OPEN:
            return Principal(name, None, "signature")
        user = self.users.get(name)
        return self._of(user, "signature") if user is not None and user.enabled else None

    def key_rejected(self, name: str, reason: str, address: str, port: str) -> None:
        """Count and record a request whose signature was not accepted. `name`: of the user, "" if not known."""
        self.failures[port, "signature"] += 1
        self._audit("login_failed", {"user": name[:128], "address": address, "port": port, "reason": reason})

    def _of(self, user: User, how: How = "none", credential: str = "") -> Principal:
        # Who may do everything may still not send what is for nodes, which is checked for a principal with a guard.
        guard = None if user.may_all and not self.protects_cluster else user
        return Principal(user.name, guard, how, credential)

    # ---- logins

    def wait(self, address: str, port: str) -> float:
        """Return for how many seconds a login from `address` has to wait before it is made.

        Raises RateLimited if that is too long.
        """
        seconds = self._failed.wait(address, self._clock.now())
        if seconds > MAX_WAIT_SECONDS:
            self.failures[port, "throttled"] += 1
            raise RateLimited(f"too many failed logins from this address; try again in {seconds:.0f} s", seconds)
        return seconds

    def login(self, name: str, password: str, address: str, port: str, *, waited: bool = False) -> Principal:
        """Return the principal of a user with a password. Raises Unauthenticated, and counts that.

        `address`: host:port of the client, `port`: on which it logs in. `Bearer` as name: `password` is a token.
        `waited`: True if the login has waited, and was counted as failed with that already.
        """
        if len(password) > MAX_CREDENTIAL_BYTES:
            raise self._failure(name, "password", address, port, waited)
        digest = digest_of(password.encode(errors="surrogateescape"))
        if name == BEARER:
            return self._login_by_token(digest, address, port, waited)
        user = self.users.get(name)
        known = (user.passwords if user is not None else ()) or (_NO_USER,)
        right = False
        for each in known:
            right |= hmac.compare_digest(each, digest)
        if user is None or not (user.enabled and (right or user.no_password)):
            raise self._failure(name, "password", address, port, waited)
        principal = self._of(user, "password", "" if user.no_password else digest)
        self._succeeded(principal, address, port)
        return principal

    def _login_by_token(self, digest: str, address: str, port: str, waited: bool) -> Principal:
        right = False
        for each in self._digests:
            right |= hmac.compare_digest(each, digest)
        found = [
            user
            for user in self.users.values()
            if user.enabled and any(hmac.compare_digest(each, digest) for each in user.passwords)
        ]
        if right:
            self._succeeded(CLUSTER, address, port)
            return CLUSTER
        # Two users with one password cannot be distinguished by it.
        if len(found) != 1:
            raise self._failure(BEARER, "token", address, port, waited)
        principal = self._of(found[0], "token", digest)
        self._succeeded(principal, address, port)
        return principal

    def login_header(self, header: str, address: str, port: str, *, waited: bool = False) -> Principal:
        """Return the principal of an `Authorization` header, Basic or Bearer. Raises Unauthenticated."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "bearer" and rest and len(header) <= MAX_CREDENTIAL_BYTES:
            return self.login(BEARER, rest.strip(), address, port, waited=waited)
        if scheme.lower() == "basic" and len(header) <= 2 * MAX_CREDENTIAL_BYTES:
            try:
                name, colon, password = b64decode(rest, validate=True).decode().partition(":")
            except (Base64Error, UnicodeDecodeError):
                colon = ""
            if colon:
                return self.login(name, password, address, port, waited=waited)
        raise self._failure("", "header", address, port, waited)

    def missing(self, address: str, port: str) -> Unauthenticated:
        """Count a request without a login, where one is necessary, and return its error."""
        del address
        self.failures[port, "missing"] += 1
        return Unauthenticated(
            "authentication is required: AUTH or HELLO AUTH, or an authorization header (Basic or Bearer)"
        )

    def timed_out(self, address: str, port: str) -> None:
        """Count a connection that was ended because it did not log in."""
        self.failures[port, "timeout"] += 1
        self._audit("login_failed", {"address": address, "port": port, "reason": "timeout"})

    def _failure(self, name: str, reason: str, address: str, port: str, waited: bool) -> Unauthenticated:
        self.failures[port, reason] += 1
        if not waited:
            self._failed.count_failure(address, self._clock.now())
        self.log.add("auth", name[:128], "AUTH", f"addr={address}", self._clock.wall())
        self._audit("login_failed", {"user": name[:128], "address": address, "port": port, "reason": reason})
        return Unauthenticated(_WRONG)

    def _succeeded(self, principal: Principal, address: str, port: str) -> None:
        self._audit("login", {"user": principal.name, "how": principal.how, "address": address, "port": port})

    def renewed(self, principal: Principal) -> Principal | None:
        """Return the principal under the present table; None if it could not log in any more."""
        if principal.is_cluster:
            return principal
        if principal.how == "none":
            return self.anonymous
        user = self.users.get(principal.name)
        if user is None or not user.enabled:
            return None
        if principal.credential and principal.credential not in user.passwords:
            return None
        return self._of(user, principal.how, principal.credential)

    def on_behalf_of(self, principal: Principal, name: str, address: str, port: str) -> Principal:
        """Return the principal of the user `name`, for whom `principal` makes a request.

        Only processes of the cluster may: AccessDenied for others, which is recorded. Raises Unauthenticated if the
        user cannot log in here. Without users it is `principal` itself.
        """
        if self.is_open:
            return principal
        if not principal.is_cluster:
            self.log.add("command", principal.name, "milena.call for a user", f"addr={address}", self._clock.wall())
            fields = {"user": principal.name, "address": address, "port": port, "command": "milena.call"}
            self._audit("denied", {**fields, "reason": "on_behalf_of", "for": name[:128]})
            raise AccessDenied(f"User {principal.name} may not make requests for other users")
        if self.users is OPEN:
            return principal
        user = self.users.get(name)
        if user is None or not user.enabled:
            raise Unauthenticated(
                f"the router forwards a request of user {name[:128]!r}, whom this node does not know: their "
                "ACL_FILE differ, or were just replaced"
            )
        return self._of(user, "router")

    def forwarded_name(self, principal: Principal) -> str:
        """Return for whom nodes should carry out what `principal` requests here; "" for the cluster itself."""
        return "" if principal.is_cluster or self.users is OPEN else principal.name

    # ---- rejections and actions

    def denied(
        self, principal: Principal, reason: Reason, command: str, what: str, address: str, port: str
    ) -> AccessDenied:
        """Record that a command, or its key, was denied, and return the error in Redis's text."""
        self.log.add(reason, principal.name, what, f"addr={address}", self._clock.wall())
        fields = {"user": principal.name, "address": address, "port": port, "command": command, "reason": reason}
        self._audit("denied", {**fields, reason: what} if reason in ("key", "channel") else fields)
        if reason in ("key", "channel"):
            return AccessDenied(f"No permissions to access a {reason}")
        return AccessDenied(f"User {principal.name} has no permissions to run the '{command}' command")

    def acted(self, principal: Principal, action: str, address: str, port: str, **fields: Any) -> None:
        """Record an action of an operator."""
        self._audit("admin", {"user": principal.name, "address": address, "port": port, "action": action, **fields})

    def record(self, event: str, **fields: Any) -> None:
        """Record another event for the audit log."""
        self._audit(event, fields)

    # ---- the table

    def replace_users(self, users: Mapping[str, User]) -> None:
        """Replace the table of users, and bring open connections to it."""
        self.users = users
        self.limits.keep_users(users)
        self._audit("acl_reload", {"users": len(users)})
        for changed in self.on_change:
            changed()

    def replace_tokens(self, tokens: Tokens) -> None:
        """Replace the tokens of the cluster; connections that were authenticated with one before stay."""
        self.tokens = tokens
        self._digests = tuple(digest_of(text.encode()) for text in tokens.texts)
        for changed in self.on_change:
            changed()

    def credentials(self) -> Credentials | None:
        """Return what this process logs in with to others of its cluster; None: nothing."""
        return Credentials.of_token(self.tokens.sent) if self.tokens.sent else None
