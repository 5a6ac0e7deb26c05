"""Pure. What the S3 store can do, as far as is known, and what follows for conditional requests.

Stores exist that accept `If-Match` and `If-None-Match` and ignore them, and others where an object's ETag, just
looked up, does not satisfy `If-Match`. `store_probe` finds out at the start, `upload` reports what it meets later.
Where a condition does not work the node decides itself: it looks at the object, decides, and writes, while it holds
the key's lock. That is safe only as long as this node is the only writer of the key.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, NamedTuple

from milena_cache.objects.object_store import Ref
from milena_common.api.errors import FailedPrecondition

ConditionsMode = Literal["auto", "require", "off"]
CONDITIONS_MODES: tuple[ConditionsMode, ...] = ("auto", "require", "off")

# After so many different objects in a row whose condition did not hold although it should have, it is the store.
MAX_EXCEPTIONS = 3


class Capability(Enum):
    """What a store is probed for; the value is the label of the metric and the name in `milena s3 check`."""

    CREATE = "put_if_none_match"
    REPLACE = "put_if_match"
    DELETE = "delete_if_match"
    MULTIPART = "multipart_if_none_match"
    COPY = "copy_keeps_attributes"
    METADATA = "user_metadata"
    LISTING = "listing_order"

    # Every upload looks several up. Enum's own hash is a function in Python.
    __hash__ = object.__hash__


class State(Enum):
    """How a capability was found.

    IGNORED: the condition is accepted, and the write done although it does not hold. UNSUPPORTED: the store answers
    that it does not know it. NEVER_HOLDS: the object is what the condition names, and the store denies it. BROKEN:
    the answer is not what was stored.
    """

    UNKNOWN = "unknown"
    WORKS = "works"
    IGNORED = "ignored"
    UNSUPPORTED = "unsupported"
    NEVER_HOLDS = "never holds"
    BROKEN = "broken"


class Finding(NamedTuple):
    """`detail` says what was seen, "" if there is nothing to say."""

    state: State
    detail: str = ""


NOT_PROBED = Finding(State.UNKNOWN, "not probed yet")
CONDITIONAL_WRITES = (Capability.CREATE, Capability.REPLACE, Capability.DELETE)
# What is lost, in words for the log and /readyz. Milena itself writes in one piece, so MULTIPART is only reported.
_CONSEQUENCES = {
    Capability.CREATE: "create-only writes are decided by the node, safe only while it is the only writer",
    Capability.REPLACE: "changes by other writers are looked for before each write, and can be missed in between",
    Capability.DELETE: "deletes remove what they find, also what is written between the look and the delete",
    Capability.COPY: "EXPIRE, PERSIST and GETEX write the value anew, and tags are lost",
    Capability.METADATA: "versions and expiry times of objects are lost: use no TTLs, and one writer",
    Capability.LISTING: "SCAN and listings can miss keys or return them twice",
}


class Conditions:
    """What is known of the store, and whether writes carry conditions. `mode` is S3_CONDITIONS."""

    def __init__(self, mode: ConditionsMode) -> None:
        self.mode = mode
        self.findings: dict[Capability, Finding] = dict.fromkeys(Capability, NOT_PROBED)
        self.exceptions = 0  # conditions that did not hold although they should have, since the start
        self._exceptions: dict[Capability, set[Ref]] = {each: set() for each in Capability}

    def learn(self, findings: dict[Capability, Finding]) -> None:
        """Take over what was found. A capability that failed in use stays failed until the node's restart."""
        for capability, finding in findings.items():
            if finding.state is not State.UNKNOWN or self.state(capability) is State.UNKNOWN:
                self.findings[capability] = finding

    def state(self, capability: Capability) -> State:
        return self.findings[capability].state

    def sends(self, capability: Capability) -> bool:
        """True if a write should carry this condition."""
        return self.mode != "off" and self.findings[capability].state in (State.WORKS, State.UNKNOWN)

    def trusts(self, capability: Capability) -> bool:
        """True if the condition alone keeps a write from what it must not overwrite, so that no look is needed."""
        return self.mode != "off" and self.findings[capability].state is State.WORKS

    @property
    def copies(self) -> bool:
        """True if an object can be copied onto itself inside S3."""
        return self.state(Capability.COPY) not in (State.UNSUPPORTED, State.BROKEN)

    def unsupported(self, capability: Capability) -> bool:
        """Note a 501 answer to the condition; True if that is news."""
        news = self.state(capability) is not State.UNSUPPORTED
        self.findings[capability] = Finding(State.UNSUPPORTED, "answered with 501")
        return news

    def held(self, capability: Capability) -> None:
        """Note that the condition held."""
        self._exceptions[capability].clear()

    def did_not_hold(self, capability: Capability, ref: Ref) -> None:
        """Note that the condition was denied, and that a look before and a look after it show that it holds.

        One object may have changed to and fro in between, so that the store is judged by MAX_EXCEPTIONS of them.
        """
        self.exceptions += 1
        seen = self._exceptions[capability]
        seen.add(ref)
        if len(seen) >= MAX_EXCEPTIONS:
            seen.clear()
            self.findings[capability] = Finding(State.NEVER_HOLDS, "the ETag just looked up does not match itself")

    def check(self, capability: Capability) -> None:
        """Raise FailedPrecondition if S3_CONDITIONS=require, and this conditional write cannot be left to S3."""
        finding = self.findings[capability]
        if self.mode == "require" and finding.state is not State.WORKS:
            raise FailedPrecondition(
                f"S3_CONDITIONS=require: conditional writes are refused, "
                f"because {_description(capability, finding)}"
            )

    def not_ready(self) -> list[str]:
        """The reasons why the node must not serve: conditions are required, and the store has none."""
        if self.mode != "require":
            return []
        return [
            f"S3_CONDITIONS=require: {_description(each, self.findings[each])}"
            for each in self._failed_conditions()
        ]

    def _failed_conditions(self) -> list[Capability]:
        working = (State.WORKS, State.UNKNOWN)
        return [each for each in CONDITIONAL_WRITES if self.state(each) not in working]

    def degraded(self) -> list[str]:
        """What does not work at this store, or could not be probed, and what follows from it."""
        reasons = []
        for capability, consequence in _CONSEQUENCES.items():
            finding = self.findings[capability]
            if finding.state is State.WORKS or finding == NOT_PROBED:
                continue
            if self.mode == "off" and capability in CONDITIONAL_WRITES:
                continue
            known = finding.state is not State.UNKNOWN
            reasons.append(f"S3: {_description(capability, finding)}{f'; {consequence}' if known else ''}")
        for capability, objects in self._exceptions.items():
            if objects:
                reasons.append(f"S3: {capability.value}: denied for {len(objects)} objects that it holds for")
        return reasons


def _description(capability: Capability, finding: Finding) -> str:
    detail = f" ({finding.detail})" if finding.detail else ""
    return f"{capability.value}: {finding.state.value}{detail}"
