"""docs/recipes.md: what to use when, the rounds of the contest that have been run, those that have not, and the study
before it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

BEFORE = Path(__file__).parent / "results" / "recipe_study.json"
ROUNDS = [
    (source, size)
    for source, most in (("clip-art", 4808), ("emoji", 1300))
    for size in (500, 1000, 2000, 4000, None)
    if size is None or size < most
]


def render(rounds: list[dict[str, Any]]) -> str:
    """The page. rounds: what `recipe_study.py --open` wrote."""
    rounds = sorted(rounds, key=lambda one: (one["source"], one["size"] or float("inf")))
    return PAGE.format(contest="\n\n".join(map(_round, rounds)) or NONE, missing=_missing(rounds), before=_before())


def _round(one: dict[str, Any]) -> str:
    size = f"{one['size']:,}" if one["size"] else f"all {one['usable']:,}"
    rows = []
    for row in one["rows"]:
        gap = f"{row['difference']:+.1f} [{row['ci95'][0]:+.1f}, {row['ci95'][1]:+.1f}]" if "ci95" in row else ""
        recalls = ", ".join(f"{value:.1f}" for value in row["recalls"])
        mean = sum(row["recalls"]) / len(row["recalls"])
        rows.append(
            [row["system"], f"{mean:.1f}", recalls, f"{row['seconds']:.0f}", f"{row['trial_seconds']:.0f}", gap]
        )
    head = ["system", "mean recall", "draws", "seconds", "seconds of trials", "`default` − system [95 %]"]
    told = (
        f"{one['test']:,} test pictures; {' × '.join(one['encoders'])}; {one['trials']} trials for every tuned system; "
        f"{one['machine']}. A tuned system is compared with `default`, tuned."
    )
    table = tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
    return f"### {one['source']}, {size} pictures\n\n{table}\n\n{told}"


def _missing(rounds: list[dict[str, Any]]) -> str:
    run = {(one["source"], one["size"]) for one in rounds}
    lacking = [f"{source} {size or 'all'}" for source, size in ROUNDS if (source, size) not in run]
    listed = [f"- Rounds that have not been run: {', '.join(lacking)}."] if lacking else []
    return "\n".join([*listed, "- A third source, of photographs: none is packaged, and no hub is asked here."])


def _before() -> str:
    """The study before the contest, from its committed results."""
    study, rows = json.loads(BEFORE.read_text()), []
    for row in study["rows"]:
        gap = f"{row['default_minus']:+.1f} [{row['ci95'][0]:+.1f}, {row['ci95'][1]:+.1f}]" if "ci95" in row else ""
        size = f"{row['size']:,}" if row["size"] else f"all ({study['images']['train']:,})"
        seeds = ", ".join(f"{value:.1f}" for value in row["by_seed"])
        rows.append(
            [size, row["system"], f"{row['mean_recall']:.1f}", seeds, row["epochs"], f"{row['seconds']:.0f}", gap]
        )
    head = ["training pairs", "system", "mean recall", "seeds", "epochs", "seconds", "default − system [95 %]"]
    table = tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
    facts = {**study, "encoders": " × ".join(study["encoders"]), "test": study["images"]["test"]}
    return BEFORE_TEXT.format(**facts, val=study["images"]["val"], table=table)


NONE = "No round of it has been run yet."

PAGE = """# Which recipe, and why `default` is what it is

## What to do

- Take `default`. Below about 1,000 pairs `cca` alone ties with it and takes a second ([little data](little-data.md)).
- Do not run a paper's recipe as published on a few thousand pairs: its schedule is made for millions, and ends before
  anything is learned. `isthmus train --tune MINUTES` [finds a schedule that fits](guide/training.md#trials).
- Do not expect much of `default`'s lead over a rival that is tuned as long: at 4,000 pairs it is about a point, and
  trials of its own settings took it back (both below). It comes from the closed form beside the heads.
- Look for gains in encoders first: the recipes differ less than [encoders do](selection.md).

Written by `benchmarks/recipe_study.py --render` from committed results; do not edit.

## The contest

Every recipe as it is shipped, and every recipe tuned by as many trials as the others, over the values that its own file
lists: its authors' and those that small data ask for. Early stopping, the best epoch and the refit are the same for all
that are tuned; the test split is opened once. Mean recall: both directions, R@1, R@5 and R@10 averaged, in percent.

{contest}

### What is missing

{missing}

## The study before

{before}
"""

BEFORE_TEXT = """Weaker evidence, and older: `default` was set by hand and its rivals got {trials} random trials over
narrower spaces; validation pictures ({val}) came on top of the training pairs; no model was refitted. Its script is in
the history of this repository.

A recipe's bare name is the recipe as it was shipped: for freeze-align-pooled and sail the published schedule. {test}
held-out clip-art pictures, {encoders}, {seeds} seeds, each with its own draw of the training pairs. Every run was
capped at {max_seconds:.0f} s; the column of epochs says, for the first seed, where that or early stopping ended one
before its last epoch. Differences by a paired bootstrap over groups ({resamples} resamples). Machine: {machine}.

{table}"""
