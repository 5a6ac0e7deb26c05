"""Pure. Formats results as a table for the terminal and as JSON for later comparisons.

The table has medians and ratios; the JSON has all samples of all rounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench.against import Comparison
from bench.summary import Result


def table(result: Result) -> str:
    """Return a case's aligned rows, followed by skipped variants and targets."""
    names = list(dict.fromkeys(name for row in result.rows for name in row.medians))
    head = ["", *names, "spread", *(f"x {peer}" for peer in result.peers)]
    lines = [head]
    for row in result.rows:
        samples = [_number(row.medians[name]) if name in row.medians else "" for name in names]
        ratios = [f"{row.ratios[peer]:.2f}" for peer in result.peers]
        lines.append([row.variant, *samples, f"{row.spread:.0%}", *ratios])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [f"{result.case}: {result.about}"]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        text.append("  " + "  ".join(cells))
    text += [f"  left out: {each.name}: {each.why}" for each in result.skipped]
    for verdict in result.verdicts:
        text.append(
            f"  {'met' if verdict.met else 'MISSED'}: {verdict.target}; measured {_number(verdict.measured)}"
        )
    return "\n".join(text) + "\n"


def as_json(facts: Mapping[str, object], results: Sequence[Result], comparisons: Sequence[Comparison] = ()) -> str:
    """Return as JSON the `facts` of the run, all samples of all rounds, and the comparisons with another build."""
    parts = {
        "cases": [asdict(result) for result in results],
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    return json.dumps({**facts, **parts}, indent=2) + "\n"


def _number(value: float) -> str:
    """Format with at least three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
