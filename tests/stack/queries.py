"""Shell. Every PromQL expression of the dashboard and the rules, and what they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser

from tests.stack.files import MONITORING, load_yaml

DASHBOARD = MONITORING / "grafana" / "dashboards" / "milena.json"
RULES = (MONITORING / "rules" / "recording.yml", MONITORING / "rules" / "alerts.yml")

_DURATIONS = {"$__rate_interval": "1m", "$__range": "1h"}
# Given to every sample by the scraper.
_TARGET_LABELS = {"job", "instance"}


class Query(NamedTuple):
    """An expression and where it stands."""

    place: str
    expression: str


def dashboard() -> Any:
    """The dashboard as Grafana reads it."""
    return json.loads(DASHBOARD.read_text())


def rules() -> Iterator[dict[str, Any]]:
    """Every recording and alert rule."""
    for path in RULES:
        for group in load_yaml(path)["groups"]:
            yield from group["rules"]


def variables() -> list[str]:
    """The names of the dashboard's variables."""
    return [variable["name"] for variable in dashboard()["templating"]["list"]]


def dashboard_queries() -> Iterator[Query]:
    """As they stand in the dashboard, with Grafana's variables."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield Query(f"panel {panel['title']!r}", target["expr"])
    for annotation in dashboard()["annotations"]["list"]:
        if "expr" in annotation:
            yield Query(f"annotation {annotation['name']!r}", annotation["expr"])
    for variable in dashboard()["templating"]["list"]:
        requested = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", ""))
        if requested:
            yield Query(f"variable {variable['name']!r}", f"count by ({requested[2]}) ({requested[1]})")


def queries() -> list[Query]:
    """All of them, as Prometheus gets them."""
    found = [Query(place, _filled_in(expression)) for place, expression in dashboard_queries()]
    found += [Query(f"rule {rule.get('alert') or rule['record']}", rule["expr"]) for rule in rules()]
    return found


def _filled_in(expression: str) -> str:
    for name, value in _DURATIONS.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\{?(\w+)\}?", lambda found: ".*" if found[1] in variables() else found[0], expression)


def metrics_named() -> set[str]:
    """The names of all samples of Milena's processes that the dashboard and the rules ask for."""
    return {name for name in labels_named() if name.startswith("milena_")}


def labels_named() -> dict[str, set[str]]:
    """By the name of a sample: the labels of its own that the dashboard and the rules select or group it by."""
    found: dict[str, set[str]] = {}
    for query in queries():
        _collect(promql_parser.parse(query.expression), set(), found)
    return {name: labels - _TARGET_LABELS for name, labels in found.items()}


def _collect(node: Any, grouped_by: set[str], found: dict[str, set[str]]) -> None:
    match node:
        case promql_parser.VectorSelector():
            assert node.name, node.prettify()
            names = {matcher.name for matcher in node.matchers.matchers}
            found.setdefault(node.name, set()).update(names | grouped_by)
        case promql_parser.MatrixSelector():
            _collect(node.vector_selector, grouped_by, found)
        case promql_parser.AggregateExpr():
            _collect(node.expr, grouped_by | set(node.modifier.labels if node.modifier else ()), found)
        case promql_parser.BinaryExpr():
            _collect(node.lhs, grouped_by, found)
            _collect(node.rhs, grouped_by, found)
        case promql_parser.Call():
            for argument in node.args:
                _collect(argument, grouped_by, found)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            _collect(node.expr, grouped_by, found)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            pass
        case _:
            raise TypeError(f"unknown kind of expression: {node!r}")
