"""Dashboard, recording rules and alerts: they parse, they are complete, and they say what to do."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from milena_client.cli.app import milena
from tests.docs.test_quoted_code import parse_command
from tests.stack.files import MONITORING, load_yaml
from tests.stack.queries import (
    RULES,
    Query,
    dashboard,
    dashboard_queries,
    labels_named,
    metrics_named,
    queries,
    rules,
    variables,
)

# Sent by dashboards of people who come from elsewhere.
PROMISED = (
    "sum(rate(milena_cache_hits_total[5m])) / (sum(rate(milena_cache_hits_total[5m])) +"
    " sum(rate(milena_cache_misses_total[5m])))",
    "histogram_quantile(0.95, sum(rate(milena_operation_duration_seconds_bucket[5m])) by (le))",
    "sum(rate(milena_request_counter[5m]))",
    "sum(rate(milena_error_counter[5m]))",
)

RULE_TESTS = sorted((MONITORING / "rules").glob("*_test.yml"))


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def promtool(*arguments: str | Path) -> None:
    """Run promtool; it must be content."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    ran = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.place)
def test_expressions_parse(query: Query) -> None:
    assert "$" not in query.expression
    promql_parser.parse(query.expression)


def test_the_promised_expressions_are_on_the_dashboard_as_they_stand() -> None:
    shown = {query.expression for query in dashboard_queries()}
    assert set(PROMISED) <= shown


def test_the_promised_expressions_are_tested_as_they_stand() -> None:
    (group,) = load_yaml(MONITORING / "rules" / "queries_test.yml")["tests"]
    assert {case["expr"] for case in group["promql_expr_test"]} == set(PROMISED)


def test_recorded_series_that_are_queried_are_recorded() -> None:
    requested = {name for name in labels_named() if ":" in name}
    assert requested == {rule["record"] for rule in rules() if "record" in rule}


def test_only_milenas_own_series_and_those_of_every_process_are_queried() -> None:
    others = {name for name in labels_named() if ":" not in name} - metrics_named()
    assert others == {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def test_prometheus_accepts_its_configuration() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")


def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", *RULES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    promtool("test", "rules", path)


def test_prometheus_reads_the_rules_and_not_their_tests() -> None:
    listed = load_yaml(MONITORING / "prometheus.yml")["rule_files"]
    assert {MONITORING / path for path in listed} == set(RULES)


def test_every_alert_fires_in_a_test() -> None:
    text = (MONITORING / "rules" / "alerts_test.yml").read_text()
    for rule in rules():
        if "alert" in rule:
            assert f'alertname="{rule["alert"]}", alertstate="firing"' in text, rule["alert"]


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["for"]
            assert set(rule["annotations"]) == {"summary", "description"}
            assert len(rule["annotations"]["description"]) > 100, rule["alert"]


def test_commands_that_alerts_name_exist() -> None:
    texts = [rule["annotations"]["description"] for rule in rules() if "alert" in rule]
    named = [subcommand.split() for text in texts for subcommand in re.findall(r'"milena ([^"]+)"', text)]
    assert ["writeback", "status"] in named
    for arguments in named:
        parse_command(milena, "milena", arguments, None)


def test_every_panel_explains_itself() -> None:
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        if panel["type"] != "stat":
            assert panel["options"]["legend"]["showLegend"] is True, panel["title"]


def test_panels_follow_the_chosen_data_source() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])


def test_variables() -> None:
    assert variables() == ["datasource", "job", "instance", "router"]
    used = " ".join(query.expression for query in dashboard_queries())
    assert all(f"${name}" in used for name in variables()[1:])


def test_panels_have_their_own_place() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in panels()}) == len(panels())
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
