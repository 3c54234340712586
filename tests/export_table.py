"""Which heads and encoders each export target takes: runs every case, keeps what came of it, writes the table.

python tests/export_table.py [TARGET…]     # runs the cases that tests/export_table.json lacks, then renders
python tests/export_table.py --render      # docs/export.md alone
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import isthmus as ist
from export_cases import CASES, build, make_encoders
from isthmus.errors import UsageError

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "export_table.json", HERE.parent / "docs" / "export.md"
TARGETS = ("hf", "st-plain", "onnx")
BEGIN = "<!-- written by tests/export_table.py from tests/export_table.json; not edited by hand -->\n"
END = "<!-- end -->"


def outcome(name: str, target: str, encoders: Path) -> dict[str, Any]:
    """{"difference": the largest of any component} or {"reason": why it is refused}."""
    with TemporaryDirectory() as folder:
        try:
            report = ist.export(build(name, encoders), Path(folder) / "out", to=target, allow_unknown_licence=True)
        except UsageError as error:
            return {"reason": re.sub(r"\S+: ", "", str(error)).replace(str(encoders), "")}
    return {"difference": max(report["differences"].values())}


def load() -> dict[str, dict[str, Any]]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row per case: the largest difference, or why not."""
    lines = [f"| head or encoder | {' | '.join(f'`{one}`' for one in TARGETS)} |", "|---|---|---|---|"]
    for name in CASES:
        cells = [shown(results[name].get(target)) for target in TARGETS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    told = "A number: exported, with the largest difference of any component on tiny random models (float32)."
    return "\n".join([told, "", *lines, "", *refusals(results)]) + "\n"


def refusals(results: dict[str, dict[str, Any]]) -> list[str]:
    """Each “no” in the words that export refuses with, its cases together."""
    cases: dict[tuple[str, str], list[str]] = {}
    for name in CASES:
        for target in TARGETS:
            if reason := results[name].get(target, {}).get("reason"):
                cases.setdefault((target, reason), []).append(name)
    return [f"- `{target}`, {', '.join(names)}: {reason}" for (target, reason), names in cases.items()]


def shown(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    return f"{found['difference']:.0e}" if "difference" in found else "no"


def rendered(page: str, results: dict[str, dict[str, Any]]) -> str:
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table(results) + END + rest.partition(END)[2]


def main(arguments: list[str]) -> None:
    results = load()
    wanted = [] if arguments == ["--render"] else arguments or TARGETS
    with TemporaryDirectory() as folder:
        encoders = make_encoders(Path(folder)) if wanted else Path(folder)
        for target in wanted:
            for name in CASES:
                if target not in results.setdefault(name, {}):
                    results[name][target] = outcome(name, target, encoders)
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
