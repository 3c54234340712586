"""What a second fit on all pairs brings on a test split: the part of docs/little-data.md that says so.

    python benchmarks/refit_study.py --store out/demo/store      # goes on where it stopped
    python benchmarks/refit_study.py --render                    # the table again, from the committed JSON

Of the demo's pictures some are drawn as all that a user has; a fifth of them validates. The same run is measured
before and after the refit, on the demo's test split. Three draws for every size; differences by a paired bootstrap
over groups.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from tabulate import tabulate

import isthmus as ist
from isthmus.files import write_json
from isthmus.training import train_projectors
from recipe_runs import RESAMPLES, Hits, difference, drawn, hits, mean_recall, test_part

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "refit_study.json"
PAGE = HERE.parent / "docs" / "little-data.md"
SIZES = {"cca": (250, 500, 1000, 2000, None), "default": (250, 500, 1000)}
SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="out/demo/store")
    parser.add_argument("--work", type=Path, default=Path("out/refit_study"))
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    if not options.render:
        measure(options.store, options.work)
    text = PAGE.read_text(encoding="utf-8")
    table = f"<!-- refit -->\n{render(json.loads(RESULTS.read_text()))}\n<!-- /refit -->"
    PAGE.write_text(re.sub(r"<!-- refit -->.*<!-- /refit -->", lambda _: table, text, flags=re.S), encoding="utf-8")


def measure(store: str, work: Path) -> None:
    """Every size, written to the results as soon as its draws are there."""
    pairs, rows = ist.open_store(store).pairs(), []
    test = test_part(pairs)
    encoders = [record["uri"] for record in (*pairs.image_encoder, *pairs.text_encoder)]
    for recipe, sizes in SIZES.items():
        for size in sizes:
            both = [run(pairs, recipe, size, seed, work) for seed in range(SEEDS)]
            before, after = ([one[name] for one in both] for name in ("before", "after"))
            recalls = {name: [mean_recall(one[name]) for one in both] for name in ("before", "after")}
            rows.append({"recipe": recipe, "size": size, **recalls, **difference(after, before, test)})
            facts = {"encoders": encoders, "seeds": SEEDS, "resamples": RESAMPLES, "test": len(test)}
            write_json(RESULTS, {**facts, "all": len(pairs) - len(test), "rows": rows})


def run(pairs: Any, recipe: str, size: int | None, seed: int, work: Path) -> dict[str, Hits]:
    """What is found before and after the refit of one draw, remembered."""
    path = work / f"{recipe}-{size or 'all'}-{seed}.json"
    if not path.exists():
        train, val = drawn(pairs, size, seed)
        test, found = test_part(pairs), {}
        for name, refit in (("before", "false"), ("after", "true")):  # the second call goes on from the first one's end
            loaded = ist.load_recipe(recipe, [f"stop.refit={refit}"])
            trained = train_projectors(train, val, loaded, seed=seed, out=path.with_suffix(""))
            found[name] = hits(trained.image_projector, trained.text_projector, test)
        write_json(path, found)
        print(path.stem, {name: round(mean_recall(one), 2) for name, one in found.items()}, flush=True)
    return json.loads(path.read_text())


def render(study: dict[str, Any]) -> str:
    rows = []
    for row in study["rows"]:
        before, after = (f"{sum(row[name]) / len(row[name]):.1f}" for name in ("before", "after"))
        gap = f"{row['difference']:+.2f} [{row['ci95'][0]:+.2f}, {row['ci95'][1]:+.2f}]"
        size = f"{row['size']:,}" if row["size"] else f"all ({study['all']:,})"
        rows.append([size, f"`{row['recipe']}`", before, after, gap])
    head = ["pairs, a fifth validates", "recipe", "before", "after", "after − before [95 %]"]
    told = (
        f"Mean recall (both directions, R@1, R@5 and R@10 averaged, %) on {study['test']:,} clip-art pictures of the "
        f"demo's test split, {' × '.join(study['encoders'])}, {study['seeds']} draws. From "
        "`benchmarks/refit_study.py`, which writes this table; do not edit."
    ) + alone(study["rows"])
    return f"{tabulate(rows, headers=head, tablefmt='github', disable_numparse=True)}\n\n{told}"


def alone(rows: list[dict[str, Any]]) -> str:
    """In how many draws `default` is the closed form alone, whose numbers it has then."""
    closed = {row["size"]: row["before"] for row in rows if row["recipe"] == "cca"}
    pairs = [
        pair
        for row in rows
        if row["recipe"] == "default"
        for pair in zip(row["before"], closed[row["size"]], strict=True)
    ]
    same = sum(one == other for one, other in pairs)
    return f" In {same} of {len(pairs)} draws `default` gave its heads no share, and is `cca`."


if __name__ == "__main__":
    main()
