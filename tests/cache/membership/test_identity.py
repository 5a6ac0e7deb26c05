"""Which connections a node takes for its own, and which cluster it says it belongs to."""

from __future__ import annotations

import pytest

from milena_cache.membership.identity import NodeIdentity
from milena_common.api.errors import WrongNode
from milena_common.resp.identity import ANY, Identity

MINE = Identity("c1", "photos", "n1")


@pytest.fixture
def node() -> NodeIdentity:
    made = NodeIdentity("photos", "n1")
    made.ring_changed("c1")
    return made


@pytest.mark.parametrize("meant", [MINE, ANY, MINE._replace(node_id=""), MINE._replace(cluster_id="")])
def test_a_caller_that_names_this_node_or_none_is_served(node: NodeIdentity, meant: Identity) -> None:
    node.check(meant)


@pytest.mark.parametrize("field", Identity._fields)
def test_a_caller_that_names_another_node_is_rejected_with_both_names(node: NodeIdentity, field: str) -> None:
    with pytest.raises(WrongNode, match=f"another.*{getattr(MINE, field)}"):
        node.check(MINE._replace(**{field: "another"}))


def test_before_it_has_joined_a_node_is_known_by_its_process_alone() -> None:
    fresh = NodeIdentity("photos", "n1")
    fresh.check(MINE)
    with pytest.raises(WrongNode):
        fresh.check(MINE._replace(node_id="n0"))
    with pytest.raises(WrongNode, match="not joined"):
        fresh.check(MINE._replace(node_id=""))


def test_the_ids_of_all_its_routers_are_its_own_until_they_agree(node: NodeIdentity) -> None:
    node.observe("r2:1", "c0")
    assert node.claimed == "c0"
    node.check(MINE)
    node.check(MINE._replace(cluster_id="c0"))


@pytest.mark.parametrize(("has_writes", "claimed"), [(True, "c1"), (False, "")])
def test_the_cluster_of_the_journal_counts_while_it_has_writes(has_writes: bool, claimed: str) -> None:
    assert NodeIdentity("photos", "n1", "c1", lambda: has_writes).claimed == claimed


def test_a_new_cluster_id_is_kept_once() -> None:
    kept: list[str] = []
    node = NodeIdentity("photos", "n1", "c1", keep=kept.append)
    node.ring_changed("c1")
    node.observe("r:1", "c1")
    assert kept == []
    node.observe("r:1", "c2")
    node.ring_changed("c2")
    node.ring_changed("c2")
    assert kept == ["c2"]


@pytest.mark.parametrize("identity", [MINE, ANY, Identity("a b", "é%", "\n")])
def test_it_travels_as_metadata(identity: Identity) -> None:
    ((_, text),) = identity.metadata()
    assert text.isascii()
    assert text.isprintable()
    assert Identity.from_metadata(text) == identity


def test_what_was_accepted_is_looked_at_again_when_the_node_learns_of_another_cluster() -> None:
    node = NodeIdentity("photos", "n1")
    node.ring_changed("c1")
    meant = Identity("c1", "photos", "n1")
    node.check(meant)
    node.check(meant)
    node.ring_changed("c2")
    with pytest.raises(WrongNode, match="cluster 'c1'"):
        node.check(meant)
    node.observe("r:1", "c1")
    node.check(meant)
