"""Pure. A user of Redis's ACL language: its rules, and what they decide.

A user has one or more selectors, each with commands and key patterns; a request is allowed if one of them allows
its command and all of its keys. Passwords are kept as SHA-256, which is enough for passwords of GENPASS and too
little for those that people think of: docs/configuration.md says so.

Milena's additions: `bucket:NAME` restricts a selector to objects of that bucket, and its patterns are compared with
keys without the bucket then; without it a pattern is compared with the cache key, which is the key in the default
bucket, and `s3://bucket/key` in others. `rate:N` and `bytes:N` limit the user's requests and bytes a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, NamedTuple

from milena_common.access.commands import (
    ALWAYS_ALLOWED,
    CATEGORIES,
    CATEGORIES_OF,
    CHANNEL_COMMANDS,
    Need,
    channels_in,
    is_of_cluster,
)
from milena_common.access.glob import MAX_BYTES, Glob
from milena_common.api.errors import InvalidRequest

MAX_LIMIT: Final = 10**12
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_PATTERN: Final = re.compile(r"(?:~|%(R|W|RW|WR)~)(.*)", re.DOTALL | re.IGNORECASE)
_SHOWN: Final = re.compile(r"[-+~%&(]|(?:bucket|rate|bytes):")
_IGNORED: Final = ("sanitize-payload", "skip-sanitize-payload")
# The channel on which RESP2 clients get the invalidations of their own reads: no rule denies it.
_OWN_CHANNEL: Final = b"__redis__:invalidate"


class RuleError(ValueError):
    """A rule that is not allowed; the text says why."""


class ObjectName(NamedTuple):
    """The object of a request.

    bucket: "" for the default one
    key: without the bucket
    cache_key: the key, or `s3://bucket/key` for another bucket than the default
    alias: the name of the default bucket, if it is that one, and rules may name it; "" otherwise
    """

    bucket: str
    key: bytes
    cache_key: bytes
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A key pattern: `text` as it is shown, and whether it allows reads and writes."""

    text: bytes
    need: Need
    glob: Glob = field(compare=False, repr=False)

    def allows(self, need: Need, name: bytes) -> bool:
        return all(each in self.need for each in need) and self.glob.matches(name)

    @property
    def rule(self) -> str:
        kind = "~" if self.need == "rw" else f"%{self.need.upper()}~"
        return kind + self.text.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Selector:
    """Commands and the keys that they may have.

    commands: full names that are allowed
    command_rules: the rules that led to them, shortened, for ACL LIST
    all_keys: True if there is no restriction by patterns
    patterns: key patterns
    buckets: names, "" for the default one; empty: any
    all_channels: True if there is no restriction of channels
    channels: patterns of channels
    """

    commands: frozenset[str] = frozenset()
    command_rules: tuple[str, ...] = ("-@all",)
    all_keys: bool = False
    patterns: tuple[Pattern, ...] = ()
    buckets: tuple[str, ...] = ()
    all_channels: bool = False
    channels: tuple[Pattern, ...] = ()

    def allows_channel(self, name: bytes, *, is_pattern: bool) -> bool:
        """True if a channel is allowed; of a pattern, if it is one of the rules, letter by letter."""
        if self.all_channels or (name == _OWN_CHANNEL and not is_pattern):
            return True
        if is_pattern:
            return any(each.text == name for each in self.channels)
        return any(each.glob.matches(name) for each in self.channels)

    def allows_key(self, need: Need, name: ObjectName) -> bool:
        """True if an access of the kind `need` to the object is allowed."""
        if self.buckets and not self._names(name):
            return False
        if self.all_keys:
            return True
        compared = name.key if self.buckets else name.cache_key
        return any(pattern.allows(need, compared) for pattern in self.patterns)

    def _names(self, name: ObjectName) -> bool:
        return name.bucket in self.buckets or (bool(name.alias) and name.alias in self.buckets)

    def may_list_below(self, prefix: ObjectName) -> bool:
        """True if a key that begins with `prefix` may be readable.

        Decided by the part of a pattern before its first wildcard.
        """
        if self.buckets and not self._names(prefix):
            return False
        compared = prefix.key if self.buckets else prefix.cache_key
        return self.all_keys or any(
            "r" in pattern.need
            and (pattern.glob.literal.startswith(compared) or compared.startswith(pattern.glob.literal))
            for pattern in self.patterns
        )

    @property
    def unrestricted(self) -> bool:
        """True if any object is allowed."""
        return self.all_keys and not self.buckets

    def described(self) -> str:
        """Return the rules for keys and commands."""
        return " ".join(filter(None, (*self.key_rules(), *self.channel_rules(), *self.command_rules)))

    def channel_rules(self) -> tuple[str, ...]:
        shown = (each.text.decode(errors="replace") for each in self.channels)
        return ("&*",) if self.all_channels else tuple(f"&{text}" for text in shown)

    def key_rules(self) -> tuple[str, ...]:
        buckets = tuple(f"bucket:{bucket or 'default'}" for bucket in self.buckets)
        return (("~*",) if self.all_keys else tuple(pattern.rule for pattern in self.patterns)) + buckets


@dataclass(frozen=True, slots=True)
class User:
    """A user, as a file of users defines it.

    name: without spaces
    enabled: False: it cannot log in
    no_password: True: any password, and none, is right
    passwords: SHA-256 in hexadecimal digits
    selectors: the first is the root one
    rate: requests a second; 0: no limit
    bytes_rate: bytes of values a second; 0: no limit
    decisions: by command, the selectors that allow it; names without any are denied
    """

    name: str
    enabled: bool = False
    no_password: bool = False
    passwords: tuple[str, ...] = ()
    selectors: tuple[Selector, ...] = (Selector(),)
    rate: float = 0.0
    bytes_rate: float = 0.0
    decisions: Mapping[str, tuple[Selector, ...]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = frozenset().union(*(selector.commands for selector in self.selectors))
        decisions = {
            name: tuple(selector for selector in self.selectors if name in selector.commands) for name in names
        }
        object.__setattr__(self, "decisions", decisions)

    def may_run(self, command: str) -> bool:
        """True if the user may run `command`, a full name, on some object or without one."""
        return command in self.decisions or command in ALWAYS_ALLOWED

    def allows(self, command: str, need: Need, names: Iterable[ObjectName]) -> bool:
        """True if one selector allows `command` on all of the objects `names`."""
        for selector in self.decisions.get(command, ()):
            if selector.unrestricted or all(selector.allows_key(need, name) for name in names):
                return True
        return command in ALWAYS_ALLOWED

    def allows_channel(self, command: str, name: bytes, *, is_pattern: bool = False) -> bool:
        """True if the user may run `command`, of publish/subscribe, on a channel or a pattern of channels."""
        return any(
            selector.allows_channel(name, is_pattern=is_pattern) for selector in self.decisions.get(command, ())
        )

    def denied_channel(self, command: str, argv: Sequence[bytes]) -> bytes | None:
        """Return the first channel of a command that the user may not run it on; None if there is none."""
        if command not in CHANNEL_COMMANDS:
            return None
        for channel in channels_in(command, argv):
            if not self.allows_channel(command, channel, is_pattern=command == "psubscribe"):
                return channel
        return None

    def may_listen(self, kind: str, name: bytes) -> bool:
        """True if the user may keep a subscription to a `channel`, `pattern` or `shard` channel."""
        command = {"channel": "subscribe", "pattern": "psubscribe"}.get(kind, "ssubscribe")
        return self.allows_channel(command, name, is_pattern=kind == "pattern")

    def unrestricted_for(self, command: str) -> bool:
        """True if the user may run `command` on any object."""
        return any(selector.unrestricted for selector in self.decisions.get(command, ()))

    def may_see(self, command: str, name: ObjectName) -> bool:
        """True if `command`, which lists keys, may return this one."""
        return any(selector.allows_key("r", name) for selector in self.decisions.get(command, ()))

    def may_see_prefix(self, command: str, prefix: ObjectName) -> bool:
        """True if `command`, which lists common prefixes, may return this one; see `Selector.may_list_below`."""
        return any(selector.may_list_below(prefix) for selector in self.decisions.get(command, ()))

    @property
    def may_all(self) -> bool:
        """True if nothing is denied and nothing is limited."""
        return (
            not self.rate
            and not self.bytes_rate
            and any(
                selector.unrestricted and selector.all_channels and len(selector.commands) == len(CATEGORIES_OF)
                for selector in self.selectors
            )
        )

    def flags(self) -> list[str]:
        """Return the flags that ACL GETUSER shows."""
        root = self.selectors[0]
        shown = ["on" if self.enabled else "off"]
        if root.all_keys:
            shown.append("allkeys")
        if root.command_rules[0] == "+@all" and len(root.commands) == len(CATEGORIES_OF):
            shown.append("allcommands")
        if self.no_password:
            shown.append("nopass")
        return shown

    def described(self) -> str:
        """Return the line of ACL LIST; Redis's parser and `parse_user` take it."""
        parts = ["user", self.name, "on" if self.enabled else "off"]
        if self.no_password:
            parts.append("nopass")
        parts += [f"#{digest}" for digest in self.passwords]
        root, *others = self.selectors
        parts.append(root.described())
        parts += [f"({selector.described()})" for selector in others]
        if self.rate:
            parts.append(f"rate:{self.rate:g}")
        if self.bytes_rate:
            parts.append(f"bytes:{self.bytes_rate:.0f}")
        return " ".join(parts)


def _may_meet(literal: bytes, prefix: bytes) -> bool:
    """True if a text may begin with both."""
    return literal.startswith(prefix) or prefix.startswith(literal)


def digest_of(password: bytes) -> str:
    """Return the form in which a password is kept."""
    return sha256(password).hexdigest()


def parse_user(name: str, rules: Sequence[str], default_bucket: str = "") -> User:
    """Return the user that `rules` define, one after the other. Raises RuleError.

    `default_bucket`: the name of the default bucket, which is the same as `bucket:default`.
    """
    if not name or not name.isprintable() or " " in name:
        raise RuleError("the name of a user has no spaces and control characters")
    if name.lower() == "bearer":
        raise RuleError("the name 'Bearer' is for logins with a token")
    user = User(name)
    for number, rule in enumerate(_whole_selectors(rules), 1):
        try:
            user = _with_rule(user, rule, default_bucket)
        except RuleError as error:
            # Anything else may be a password, with a space or a mistake before it.
            shown = f" {rule[:80]!r}" if _SHOWN.match(rule) else ""
            raise RuleError(f"rule {number}{shown}: {error}") from None
    return user


def _whole_selectors(rules: Sequence[str]) -> list[str]:
    """Return the rules, with those in parentheses joined. Raises RuleError."""
    joined: list[str] = []
    open_selector: list[str] | None = None
    for rule in rules:
        if open_selector is None and not rule.startswith("("):
            joined.append(rule)
            continue
        open_selector = [*(open_selector or ()), rule]
        if rule.endswith(")"):
            joined.append(" ".join(open_selector))
            open_selector = None
    if open_selector is not None:
        raise RuleError(f"Unmatched parenthesis in selector definition starting at '{open_selector[0][:80]}'")
    return joined


def _with_rule(user: User, rule: str, default_bucket: str) -> User:
    lower = rule.lower()
    first, rest = rule[:1], rule[1:]
    root, *others = user.selectors
    match lower:
        case "on" | "off":
            return replace(user, enabled=lower == "on")
        case "nopass":
            return replace(user, no_password=True, passwords=())
        case "resetpass":
            return replace(user, no_password=False, passwords=())
        case "clearselectors":
            return replace(user, selectors=(root,))
        case "reset":
            return User(user.name)
    if first == "(":
        selector = Selector()
        for word in rule[1:-1].split():
            selector = _with_selector_rule(selector, word, default_bucket)
        return replace(user, selectors=(*user.selectors, selector))
    if first == ">" or first == "#":
        digest = digest_of(rest.encode()) if first == ">" else rest
        if not _HASH.fullmatch(digest):
            raise RuleError("the hash of a password is 64 lower-case hexadecimal digits of SHA-256")
        return replace(user, no_password=False, passwords=tuple(dict.fromkeys((*user.passwords, digest))))
    if first == "<" or first == "!":
        digest = digest_of(rest.encode()) if first == "<" else rest
        if digest not in user.passwords:
            raise RuleError("the password to remove is not a password of the user")
        return replace(user, passwords=tuple(each for each in user.passwords if each != digest))
    if lower.startswith("rate:"):
        return replace(user, rate=_limit(rule))
    if lower.startswith("bytes:"):
        return replace(user, bytes_rate=_limit(rule))
    return replace(user, selectors=(_with_selector_rule(root, rule, default_bucket), *others))


def _limit(rule: str) -> float:
    name, _, text = rule.partition(":")
    if not re.fullmatch(r"[0-9]{1,13}", text) or not 0 < int(text) <= MAX_LIMIT:
        raise RuleError(f"'{name}:' needs a whole number from 1 to {MAX_LIMIT} a second")
    return float(text)


def _with_selector_rule(selector: Selector, rule: str, default_bucket: str) -> Selector:
    lower = rule.lower()
    if lower == "allkeys" or rule == "~*" or lower == "%rw~*":
        return replace(selector, all_keys=True, patterns=())
    if lower == "resetkeys":
        return replace(selector, all_keys=False, patterns=(), buckets=())
    if lower == "allcommands":
        return _with_commands(selector, "+@all")
    if lower == "nocommands":
        return _with_commands(selector, "-@all")
    if lower in _IGNORED:
        return selector  # there are no payloads
    if lower == "allchannels" or rule == "&*":
        return replace(selector, all_channels=True, channels=())
    if lower == "resetchannels":
        return replace(selector, all_channels=False, channels=())
    if rule.startswith("&"):
        return _with_channel(selector, rule[1:].encode(errors="surrogateescape"))
    if match := _PATTERN.fullmatch(rule):
        return _with_pattern(selector, match[1] or "RW", match[2])
    if lower.startswith("bucket:"):
        return _with_bucket(selector, rule.partition(":")[2], default_bucket)
    if rule[:1] in ("+", "-"):
        return _with_commands(selector, lower)
    raise RuleError("is no rule")


def _with_pattern(selector: Selector, kind: str, text: str) -> Selector:
    if selector.all_keys:
        raise RuleError(
            "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any "
            "effect. Try 'resetkeys' to start with an empty list of patterns"
        )
    needs: dict[str, Need] = {"R": "r", "W": "w"}
    need = needs.get(kind.upper(), "rw")
    encoded = text.encode(errors="surrogateescape")
    try:
        pattern = Pattern(encoded, need, Glob(encoded))
    except InvalidRequest:
        raise RuleError(f"a pattern has at most {MAX_BYTES} bytes") from None
    same = [each for each in selector.patterns if each.text == encoded]
    if same and need != same[0].need:
        pattern = replace(pattern, need="rw")
    others = tuple(each for each in selector.patterns if each.text != encoded)
    return replace(selector, patterns=(*others, pattern))


def _with_channel(selector: Selector, text: bytes) -> Selector:
    if selector.all_channels:
        raise RuleError(
            "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any "
            "effect. Try 'resetchannels' to start with an empty list of channels"
        )
    try:
        pattern = Pattern(text, "", Glob(text))
    except InvalidRequest:
        raise RuleError(f"a pattern has at most {MAX_BYTES} bytes") from None
    return replace(selector, channels=(*(each for each in selector.channels if each.text != text), pattern))


def _with_bucket(selector: Selector, name: str, default_bucket: str) -> Selector:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise RuleError("'bucket:' needs the name of a bucket, or 'default'")
    bucket = "" if name in ("default", default_bucket) else name
    return replace(selector, buckets=tuple(dict.fromkeys((*selector.buckets, bucket))))


def _with_commands(selector: Selector, rule: str) -> Selector:
    """Return the selector with `rule`, `+name` or `-name` in lower case, applied after those before."""
    sign, name = rule[0], rule[1:]
    names = _commands_of(name)
    if name == "@all":
        return replace(selector, commands=names if sign == "+" else frozenset(), command_rules=(rule,))
    commands = selector.commands | names if sign == "+" else selector.commands - names
    # An earlier rule of the same name, or of a subcommand below it, has no effect any more.
    kept = tuple(
        each for each in selector.command_rules if each[1:] != name and not each[1:].startswith(f"{name}|")
    )
    return replace(selector, commands=commands, command_rules=(*kept, rule))


def _commands_of(name: str) -> frozenset[str]:
    """Return the full names that a rule is about. Raises RuleError."""
    if name == "@all":
        return frozenset(CATEGORIES_OF)
    if name.startswith("@"):
        if name[1:] not in CATEGORIES:
            raise RuleError("Unknown command or category name in ACL")
        return frozenset(each for each, categories in CATEGORIES_OF.items() if name[1:] in categories)
    if is_of_cluster(name):
        raise RuleError("is a command between nodes, which needs the cluster's own identity (CLUSTER_TOKEN_FILE)")
    if name not in CATEGORIES_OF:
        raise RuleError("Unknown command or category name in ACL")
    return frozenset(each for each in CATEGORIES_OF if each == name or each.startswith(f"{name}|"))
