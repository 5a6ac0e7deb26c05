"""Pure. The known capabilities of the S3 store, and their consequences for conditional requests.

Some stores accept `If-Match` and `If-None-Match` and ignore them, and in others an object's ETag, just read, does
not satisfy `If-Match`. `store_probe` probes at the start, uploads report what they find later. Where a condition
does not work the node decides itself: it reads the object's state, decides, and writes, while it holds the key's
lock. That is safe only while this node is the only writer of the key.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, NamedTuple

from milena_cache.objects.object_store import Ref
from milena_common.api.errors import FailedPrecondition

ConditionsMode = Literal["auto", "require", "off"]
CONDITIONS_MODES: tuple[ConditionsMode, ...] = ("auto", "require", "off")

# After so many different objects in a row whose valid condition was denied, the store itself is considered faulty.
MAX_EXCEPTIONS = 3


class Capability(Enum):
    """A capability of a store; the value is the label of the metric and the name in `milena s3 check`."""

    CREATE = "put_if_none_match"
    REPLACE = "put_if_match"
    DELETE = "delete_if_match"
    MULTIPART = "multipart_if_none_match"
    COPY = "copy_keeps_attributes"
    METADATA = "user_metadata"
    LISTING = "listing_order"
    ETAG = "etag_is_md5"

    # Every upload looks several up, and Enum's own hash is a Python function.
    __hash__ = object.__hash__


class State(Enum):
    """The state of a capability.

    IGNORED: the store accepts the condition, and writes although it does not hold. UNSUPPORTED: the store reports
    that it does not implement it. NEVER_HOLDS: the store denies a condition that holds. BROKEN: the response
    differs from what was stored.
    """

    UNKNOWN = "unknown"
    WORKS = "works"
    IGNORED = "ignored"
    UNSUPPORTED = "unsupported"
    NEVER_HOLDS = "never holds"
    BROKEN = "broken"


class Finding(NamedTuple):
    """A state, and `detail`: what was observed, "" if nothing."""

    state: State
    detail: str = ""


NOT_PROBED = Finding(State.UNKNOWN, "not probed yet")
CONDITIONAL_WRITES = (Capability.CREATE, Capability.REPLACE, Capability.DELETE)
# The consequences, for the log and /readyz. Other ETags are no fault: a bucket with SSE-KMS has them.
_CONSEQUENCES = {
    Capability.CREATE: "create-only writes are decided by the node, safe only while it is the only writer",
    Capability.REPLACE: "changes by other writers are looked for before each write, and can be missed in between",
    Capability.DELETE: "deletes remove what they find, also what is written between the look and the delete",
    Capability.MULTIPART: "create-only writes of objects over 8 MiB can replace one that is created meanwhile",
    Capability.COPY: "EXPIRE, PERSIST and GETEX write the value anew, and tags are lost",
    Capability.METADATA: "versions and expiry times of objects are lost: use no TTLs, and one writer",
    Capability.LISTING: "SCAN and listings can miss keys or return them twice",
}


class Conditions:
    """The capabilities of the store, and the resulting use of conditions. `mode` is S3_CONDITIONS."""

    def __init__(self, mode: ConditionsMode) -> None:
        self.mode = mode
        self.findings: dict[Capability, Finding] = dict.fromkeys(Capability, NOT_PROBED)
        self.exceptions = 0  # valid conditions that were denied since the start
        self._exceptions: dict[Capability, set[Ref]] = {each: set() for each in Capability}

    def learn(self, findings: dict[Capability, Finding]) -> None:
        """Adopt the findings of a probe. A capability that failed in use stays failed until the node's restart."""
        for capability, finding in findings.items():
            if finding.state is not State.UNKNOWN or self.state(capability) is State.UNKNOWN:
                self.findings[capability] = finding

    def state(self, capability: Capability) -> State:
        return self.findings[capability].state

    def sends(self, capability: Capability) -> bool:
        """True if a write should carry this condition."""
        return self.mode != "off" and self.findings[capability].state in (State.WORKS, State.UNKNOWN)

    def trusts(self, capability: Capability) -> bool:
        """True if the condition alone protects other writers' objects, so that a write needs no HEAD before it."""
        return self.mode != "off" and self.findings[capability].state is State.WORKS

    @property
    def copies(self) -> bool:
        """True if an object can be copied onto itself inside S3."""
        return self.state(Capability.COPY) not in (State.UNSUPPORTED, State.BROKEN)

    @property
    def foretells_etags(self) -> bool:
        """True if the ETag that S3 will give to a put is its MD5, as far as is known."""
        return self.state(Capability.ETAG) is not State.BROKEN

    def unsupported(self, capability: Capability) -> bool:
        """Record a 501 response to the condition; return True for the first one."""
        news = self.state(capability) is not State.UNSUPPORTED
        self.findings[capability] = Finding(State.UNSUPPORTED, "S3 responded with 501")
        return news

    def held(self, capability: Capability) -> None:
        """Record that the condition held."""
        self._exceptions[capability].clear()

    def did_not_hold(self, capability: Capability, ref: Ref) -> None:
        """Record that the condition was denied, although HEADs before and after the write show that it holds.

        A single object may have changed forth and back in between, so only MAX_EXCEPTIONS of them count against the
        store.
        """
        self.exceptions += 1
        seen = self._exceptions[capability]
        seen.add(ref)
        if len(seen) >= MAX_EXCEPTIONS:
            seen.clear()
            self.findings[capability] = Finding(State.NEVER_HOLDS, "the ETag just looked up does not match itself")

    def check(self, capability: Capability) -> None:
        """Raise FailedPrecondition if S3_CONDITIONS=require, and S3 does not enforce this condition."""
        finding = self.findings[capability]
        if self.mode == "require" and finding.state is not State.WORKS:
            raise FailedPrecondition(
                f"S3_CONDITIONS=require: conditional writes are rejected, "
                f"because {_description(capability, finding)}"
            )

    def not_ready(self) -> list[str]:
        """Return the reasons why the node must not serve: conditions are required, and the store lacks them."""
        if self.mode != "require":
            return []
        return [
            f"S3_CONDITIONS=require: {_description(each, self.findings[each])}"
            for each in self._failed_conditions()
        ]

    def _failed_conditions(self) -> list[Capability]:
        working = (State.WORKS, State.UNKNOWN)
        return [each for each in CONDITIONAL_WRITES if self.state(each) not in working]

    def degraded(self, *, found_only: bool = False) -> list[str]:
        """Return what does not work at this store, or could not be probed, with its consequences.

        `found_only`: without what could not be probed.
        """
        reasons = []
        for capability, consequence in _CONSEQUENCES.items():
            finding = self.findings[capability]
            if finding.state is State.WORKS or finding == NOT_PROBED:
                continue
            if self.mode == "off" and capability in CONDITIONAL_WRITES:
                continue
            known = finding.state is not State.UNKNOWN
            if found_only and not known:
                continue
            reasons.append(f"S3: {_description(capability, finding)}{f'; {consequence}' if known else ''}")
        for capability, objects in self._exceptions.items():
            if objects:
                reasons.append(f"S3: {capability.value}: denied for {len(objects)} objects that it holds for")
        return reasons


def _description(capability: Capability, finding: Finding) -> str:
    detail = f" ({finding.detail})" if finding.detail else ""
    return f"{capability.value}: {finding.state.value}{detail}"
