"""All benchmarks in their order, then `docs/benchmarks.md`: what `make bench` runs.

python benchmarks/run_all.py [--render]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import RESULTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
ORDER = ["losses", "training_step", "embedding", "store", "states", "fusion", "retrieval", "index"]
HEAD = """# Benchmarks

Written by `make bench` (`benchmarks/run_all.py`) from `benchmarks/results.json`; do not edit. Each row pairs
isthmus with a named peer in the same process conditions: alternating runs, medians. Memory is anonymous memory
(RssAnon) at its peak, in a process of its own. Rows that isthmus loses are shown too.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true", help="only the page, from results that are there")
    if not parser.parse_args().render:
        for name in ORDER:
            subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
    results = json.loads(RESULTS.read_text())
    pages = [section(results[name]) for name in ORDER if name in results]
    (DOCS / "benchmarks.md").write_text("\n".join([HEAD, *pages]))


def section(result: dict[str, Any]) -> str:
    from matplotlib import rc_context

    parts = [f"## {result['title']}", result["about"]]
    for table in result["tables"]:
        parts += [table["title"] and f"**{table['title']}**", markdown(table), table["note"]]
    for number, plot in enumerate(result["plots"]):
        path = DOCS / "benchmarks" / f"{result['name']}-{number}.svg"
        path.parent.mkdir(exist_ok=True)
        with rc_context({"svg.hashsalt": "isthmus"}):  # the same numbers give the same file
            draw(plot).savefig(path, metadata={"Date": None}, bbox_inches="tight")
        parts.append(f"![{plot['title']}](benchmarks/{path.name})")
    facts = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    return "\n\n".join(part for part in [*parts, f"Machine: {facts}."] if part) + "\n"


def markdown(table: dict[str, Any]) -> str:
    lines = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    return "\n".join("| " + " | ".join(shown(cell) for cell in line) + " |" for line in lines)


def shown(cell: Any) -> str:
    if cell is None:
        return "–"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.4g}"


def draw(plot: dict[str, Any]) -> Figure:
    """A series is "who" or "who · how": a colour for each who, a line style for each how."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [name.partition(" · ") for name in plot["series"]]
    whos, hows = (list(dict.fromkeys(name[part] for name in names)) for part in (0, 2))
    for (who, _, how), points in zip(names, plot["series"].values(), strict=True):
        style = {"color": f"C{whos.index(who)}", "linestyle": ("-", "--", ":")[hows.index(how) % 3]}
        marker = "o" if who.startswith("isthmus") else "s"
        label = f"{who} · {how}" if how else who
        axes.loglog(*zip(*points, strict=True), marker=marker, label=label, markersize=4, **style)
    values = [y for points in plot["series"].values() for _, y in points]
    room = max(1.2, (10 * min(values) / max(values)) ** 0.5)  # a decade at least: noise does not look like a trend
    axes.set(xlabel=plot["x"], ylabel=plot["y"], ylim=(min(values) / room, max(values) * room))
    axes.set_title(plot["title"], loc="left", fontsize=10)
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
