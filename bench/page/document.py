"""Pure. Puts the page together: one HTML file without scripts, fonts or links to other files, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.page.charts import Point, against_bar, bound, number, over_runs
from bench.page.runs import Measurement, Run, measurements

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1f2328; --soft: #656d76; --rule: #d8dee4;
  --met: #1a7f37; --missed: #cf222e; --plain: #0969da; --bar: #1f2328; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --soft: #8d96a0; --rule: #30363d;
  --met: #3fb950; --missed: #f85149; --plain: #58a6ff; --bar: #e6edf3; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; font-family: ui-monospace, monospace; }
p { margin: .2rem 0 .6rem; } .soft { color: var(--soft); } code { font-family: ui-monospace, monospace; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th, td { border-bottom: 1px solid var(--rule); padding: .25rem .7rem; text-align: left; vertical-align: middle; }
th { color: var(--soft); font-weight: 500; } .n { text-align: right; }
.met { color: var(--met); } .missed { color: var(--missed); }
svg { display: block; } .axis { stroke: var(--rule); } .bar { stroke: var(--bar); stroke-width: 2; }
.parity { stroke: var(--soft); stroke-dasharray: 3 3; }
.span { stroke: var(--plain); stroke-width: 6; stroke-linecap: round; opacity: .35; }
.point { fill: var(--plain); } .span.met { stroke: var(--met); } .span.missed { stroke: var(--missed); }
.point.met { fill: var(--met); } .point.missed { fill: var(--missed); }
.band { fill: var(--plain); opacity: .18; } .line { fill: none; stroke: var(--plain); stroke-width: 1.5; }
.dot { fill: var(--plain); } .hollow { fill: var(--back); stroke: var(--plain); stroke-width: 1.5; }
details { margin: .3rem 0; } summary { color: var(--soft); cursor: pointer; }
"""


def page(runs: Sequence[Run], unread: Sequence[str] = ()) -> str:
    """Return the page of `runs`, at least one, in any order; each case is shown as in its newest run.

    `unread`: the files that are not shown, with the reason.
    """
    ordered = sorted(runs, key=lambda run: run.started)
    newest: dict[str, Run] = {name: run for run in ordered for name in run.cases}
    shown = [(name, run, measurements(run.cases[name])) for name, run in sorted(newest.items())]
    with_bars = [measurement for _, _, found in shown for measurement in found if measurement.bar]
    met = sum(measurement.met for measurement in with_bars)
    body = [
        "<h1>Milena: benchmarks</h1>",
        f"<p>{len(runs)} runs, {ordered[0].started:%Y-%m-%d} to {ordered[-1].started:%Y-%m-%d}. "
        f"{met} of {len(with_bars)} bars are met.</p>",
        '<p class="soft">A point is the median over the rounds, the wide line the span from the lowest to the '
        "highest round. Ratios are of the same round. The upright line is the bar; where there is none, the dashed "
        "one is the peer itself, 1. An arrow: further to the right than is drawn. In a history, hollow points had "
        "short rounds.</p>",
    ]
    for name, run, found in shown:
        body += _case(run.cases[name], run, found, _history(name, ordered))
    for run in ordered:
        for comparison in run.comparisons:
            body += _comparison(comparison, run)
    body += ["<h2>Machines and versions</h2>", _machines(ordered)]
    body += [f'<p class="soft">Not shown: {escape(reason)}</p>' for reason in unread]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Milena: benchmarks</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _history(case: str, ordered: Sequence[Run]) -> dict[object, list[Point]]:
    """Return the points of each measurement of `case`, by its name."""
    points: dict[object, list[Point]] = {}
    for run in ordered:
        if case in run.cases:
            for measurement in measurements(run.cases[case]):
                points.setdefault(measurement.name, []).append(Point(run, measurement))
    return points


def _case(
    case: Mapping[str, Any], run: Run, found: Sequence[Measurement], history: Mapping[object, Sequence[Point]]
) -> list[str]:
    parts = [
        f'<h2 id="{escape(case["case"])}">{escape(case["case"])}</h2>',
        f'<p>{escape(case["about"])} <span class="soft">{run.started:%Y-%m-%d %H:%M} UTC, {run.rounds} rounds of '
        f"{run.seconds:g} s{'' if run.load is None else f', load {run.load:g} before it'}.</span></p>",
    ]
    rows = []
    for measurement in found:
        name = measurement.name
        what = f"{name.sample} of {name.variant}{f' / {name.peer}' if name.peer else ''}"
        points = history[name]
        limit = bound(measurement.bar) if measurement.bar else ""
        state = "" if measurement.bar is None else "met" if measurement.met else "missed"
        rows.append(
            f'<tr><td>{escape(what)}</td><td class="n">{number(measurement.median)}</td>'
            f'<td>{against_bar(measurement)}</td><td class="n">{limit}</td><td class="{state}">{state}</td>'
            f"<td>{over_runs(points) if len(points) > 1 else ''}</td></tr>"
        )
    if rows:
        head = "".join(
            f"<th{kind}>{each}</th>"
            for each, kind in (
                ("measurement", ""),
                ("median", ' class="n"'),
                ("against the bar", ""),
                ("bar", ' class="n"'),
                ("", ""),
                ("history", ""),
            )
        )
        parts.append(f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>')
    parts.append(f"<details><summary>all samples</summary>{_samples(case)}</details>")
    parts += [
        f'<p class="soft">Left out: {escape(each["name"])}: {escape(each["why"])}</p>' for each in case["skipped"]
    ]
    return parts


def _samples(case: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for row in case["rows"] for name in row["medians"]))
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in names)
    rows = "".join(
        f"<tr><td>{escape(row['variant'])}</td>"
        + "".join(
            f'<td class="n">{number(row["medians"][name]) if name in row["medians"] else ""}</td>' for name in names
        )
        + f'<td class="n">{row["spread"]:.0%}</td></tr>'
        for row in case["rows"]
    )
    return f'<div class="wide"><table><tr><th></th>{head}<th class="n">spread</th></tr>{rows}</table></div>'


def _comparison(comparison: Mapping[str, Any], run: Run) -> list[str]:
    rows = "".join(
        f"<tr><td>{escape(row['variant'])}</td><td>{escape(row['sample'])}</td>"
        f'<td class="n">{number(row["own"])}</td><td class="n">{number(row["other"])}</td>'
        f'<td class="n">{row["ratio"]:.3f}</td><td class="n">{row["low"]:.3f} to {row["high"]:.3f}</td></tr>'
        for row in comparison["rows"]
    )
    return [
        f"<h2>{escape(comparison['case'])}, two builds</h2>",
        f'<p class="soft">{run.started:%Y-%m-%d %H:%M} UTC, {comparison["pairs"]} pairs, this tree against another '
        "build.</p>",
        '<div class="wide"><table><tr><th></th><th>sample</th><th class="n">this</th><th class="n">other</th>'
        f'<th class="n">ratio</th><th class="n">95 % interval</th></tr>{rows}</table></div>',
    ]


def _machines(ordered: Sequence[Run]) -> str:
    """Return a table of the facts: a column for each different set of them, newest first."""
    columns: list[tuple[Mapping[str, str | int], list[Run]]] = []
    for run in reversed(ordered):
        for facts, same in columns:
            if facts == run.machine:
                same.append(run)
                break
        else:
            columns.append((run.machine, [run]))
    names = list(dict.fromkeys(name for facts, _ in columns for name in facts))
    head = "".join(f"<th>{'<br>'.join(escape(run.file) for run in same)}</th>" for _, same in columns)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{escape(str(facts.get(name, '')))}</td>" for facts, _ in columns)
        + "</tr>"
        for name in names
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{rows}</table></div>'
