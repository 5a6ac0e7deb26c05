"""The page made of result files."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.case import Case, Samples, Skipped, Target
from bench.page.charts import Point, against_bar, over_runs
from bench.page.document import page
from bench.page.runs import Bar, Measurement, Name, Run, measurements, read_run
from bench.report import as_json
from bench.summary import summarize

NAME = Name("c", "own", "per_s", "peer")
TARGETS = (
    Target("own", "per_s", peer="peer", at_least=2),
    Target("own", "p50_us", at_most=5),
)


def result_file(
    own: list[float], peer: list[float], day: int = 1, seconds: float = 1.0, about: str = "two ways"
) -> str:
    """The text of a result file of one case, whose latency is 9 µs."""
    rounds: dict[str, list[Samples]] = {
        "own": [{"per_s": value, "p50_us": 9.0} for value in own],
        "peer": [{"per_s": value, "p50_us": 1.0} for value in peer],
    }
    case = Case("c", about, "per_s", ["peer"], lambda _: nullcontext([]), TARGETS)
    facts = {
        "started": f"2026-11-{day:02}T10:00:00+00:00",
        "rounds": len(own),
        "seconds": seconds,
        "load": 0.5,
        "machine": {"python": "3.11", "redis-server": "7.0.15"},
    }
    return as_json(facts, [summarize(case, rounds, [Skipped("other", "is <not> here")])])


def run(own: list[float], peer: list[float], day: int = 1, seconds: float = 1.0, about: str = "two ways") -> Run:
    return read_run(f"{day}.json", result_file(own, peer, day, seconds, about))


def test_measurements_are_ratios_of_the_same_round_with_their_span_and_bar() -> None:
    found = measurements(run([100, 300, 200], [100, 100, 50]).cases["c"])
    assert found == [
        Measurement(NAME, 3.0, 1.0, 4.0, Bar(2, at_most=False)),
        Measurement(Name("c", "own", "p50_us", ""), 9.0, 9.0, 9.0, Bar(5, at_most=True)),
    ]
    assert [measurement.met for measurement in found] == [True, False]


def test_a_ratio_without_a_bar_is_a_measurement_too() -> None:
    case = run([100], [50]).cases["c"] | {"verdicts": []}
    assert measurements(case) == [Measurement(NAME, 2.0, 2.0, 2.0, None)]


def test_the_verdicts_of_older_builds_have_no_bar() -> None:
    case = run([100], [50]).cases["c"] | {"verdicts": [{"target": "per_s of own", "measured": 1, "met": True}]}
    assert measurements(case) == [Measurement(NAME, 2.0, 2.0, 2.0, None)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"started": "yesterday"}'])
def test_what_is_no_result_file_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.json: not a result file"):
        read_run("x.json", text)


def positions(svg: str, element: str) -> list[float]:
    return [float(found) for found in re.findall(rf'<{element} class="[^"]*"[^>]* cx="([\d.]+)"', svg)]


def test_a_bar_is_at_one_place_in_all_drawings() -> None:
    for value in (0.02, 3.0, 40_000.0):
        at_it = Measurement(NAME, value, value, value, Bar(value, at_most=False))
        (x,) = positions(against_bar(at_it), "circle")
        below = Measurement(NAME, value / 2, value / 2, value, Bar(value, at_most=False))
        assert positions(against_bar(below), "circle") == [x / 2]
        assert f'<line class="bar" x1="{x}"' in against_bar(at_it)
        assert "point missed" in against_bar(below)
    unbound = against_bar(Measurement(NAME, 1.0, 1.0, 1.0, None))
    assert positions(unbound, "circle") == [x]
    assert "parity" in unbound


def test_what_is_far_above_its_bar_is_an_arrow() -> None:
    drawn = against_bar(Measurement(NAME, 9.0, 8.0, 10.0, Bar(1.0, at_most=False)))
    assert "<path" in drawn
    assert "<circle" not in drawn


def test_a_history_goes_from_the_oldest_to_the_newest_run() -> None:
    old, new = run([100], [100], day=1, seconds=0.2), run([300], [100], day=2)
    drawn = over_runs([Point(each, measurements(each.cases["c"])[0]) for each in (old, new)])
    first, second = positions(drawn, "circle")
    assert first < second
    heights = [float(found) for found in re.findall(r'cy="([\d.]+)"', drawn)]
    assert heights[0] > heights[1], "more is higher, and y grows downwards"
    assert re.findall(r'<circle class="(\w+)"', drawn) == ["hollow", "dot"]
    assert "2026-11-01 10:00: 1.00 (1.00 to 1.00), short rounds" in drawn


class Elements(HTMLParser):
    """Checks that elements are closed in order, and collects attributes that would load something."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[tuple[str, str | None]] = []

    @staticmethod
    def loading(attrs: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
        return [each for each in attrs if each[0] in ("src", "href", "srcset", "xlink:href")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += self.loading(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += self.loading(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


def test_the_page_is_one_well_formed_file_that_loads_nothing() -> None:
    text = page([run([100], [50], 2, about="a <b> & c"), run([50, 60], [50, 50], 1)], ["x.json: <script>"])
    elements = Elements()
    elements.feed(text)
    elements.close()
    assert (elements.open, elements.loads) == ([], [])
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "a &lt;b&gt; &amp; c" in text
    assert "x.json: &lt;script&gt;" in text
    assert "is &lt;not&gt; here" in text


def test_the_page_is_for_light_and_dark_screens() -> None:
    text = page([run([100], [50])])
    style = text[text.index("<style>") : text.index("</style>")]
    assert "color-scheme: light dark" in style
    light, _, dark = style.partition("prefers-color-scheme: dark")
    names = re.findall(r"(--\w+):", light)
    assert names == re.findall(r"(--\w+):", dark)
    assert set(re.findall(r"var\((--\w+)\)", style)) == set(names)
    # Drawings take their colours from the style sheet alone.
    assert not re.search(r'(fill|stroke)="', text)


def test_each_case_is_shown_as_in_its_newest_run_with_its_history_and_versions() -> None:
    text = page([run([400], [100], 3), run([100], [100], 1), run([200], [100], 2)])
    assert "3 runs, 2026-11-01 to 2026-11-03. 1 of 2 bars are met." in text
    assert text.count("<h2 id=") == 1
    assert "2026-11-03 10:00 UTC, 1 rounds of 1 s, load 0.5 before it." in text
    assert "<title>4.00, rounds from 4.00 to 4.00, bar ≥ 2</title>" in text
    assert text.count('class="history"') == 2
    assert "<td>redis-server</td><td>7.0.15</td>" in text
    assert "<th>3.json<br>2.json<br>1.json</th>" in text, "runs on one machine share a column"


def test_comparisons_of_builds_are_shown_with_their_interval() -> None:
    row = {"variant": "milena", "sample": "per_s", "own": 2.0, "other": 1.0, "ratio": 2.0, "low": 1.5, "high": 2.5}
    found = json.loads(result_file([1], [1])) | {"comparisons": [{"case": "c", "pairs": 11, "rows": [row]}]}
    text = page([read_run("x.json", json.dumps(found))])
    assert "c, two builds" in text
    assert "1.500 to 2.500" in text


def test_the_command_makes_the_page_of_all_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    file = tmp_path / "made" / "page.html"
    assert command.main(["--report", str(file)]) == 1
    assert "has no results" in capsys.readouterr().err
    (tmp_path / "a.json").write_text(result_file([100], [50]))
    (tmp_path / "b.json").write_text("{}")
    assert command.main(["--report", str(file)]) == 0
    assert "not shown: b.json: not a result file" in capsys.readouterr().err
    assert "two ways" in file.read_text()
    assert "b.json: not a result file" in file.read_text()
