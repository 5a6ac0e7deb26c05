"""All documents: links and files that they name exist, and they speak of the project alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, anchors, links, text

DOCS = ROOT / "docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    beginnings = [path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(beginnings)})/[\w./-]*\w)", text(document))
    made = {"bench/results", "build/compiled", "k8s/overlays/mine"}
    assert [name for name in named if name not in made and not (ROOT / name).exists()] == []


def test_there_are_the_documents_that_people_look_for() -> None:
    expected = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert expected <= {document.name for document in DOCUMENTS}
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert len(text(ROOT / "README.md").splitlines()) < 200
    for document in DOCS.glob("*.md"):
        assert f"(docs/{document.name})" in text(ROOT / "README.md"), document.name


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "LICENSE"], ids=lambda path: path.name)
def test_documents_speak_of_the_project_alone(document: Path) -> None:
    # Paths of a machine; what is not finished; words that say nothing.
    for forbidden in (r"/home/\w", r"/Users/", r"/root/", r"\bTODO\b", r"\bFIXME\b"):
        assert not re.search(forbidden, text(document)), forbidden
    for empty in ("blazing", "seamless", "cutting-edge", "world-class", "effortless", "robust", "powerful"):
        assert empty not in text(document).lower(), empty


def test_the_readme_says_which_redis_clients_work_with_several_nodes() -> None:
    readme = text(ROOT / "README.md")
    assert "any Redis client" not in readme
    assert all(
        word in readme for word in ("Redis *Cluster* clients", "`RedisCluster`", "plain `redis.Redis`", "any node")
    )
