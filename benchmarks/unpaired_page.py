"""docs/unpaired.md: what `unpaired_study.py` found."""

from __future__ import annotations

from typing import Any

import numpy as np
from tabulate import tabulate

SYSTEMS = {
    "cca": "`cca`",
    "spread": "`cca`, covariances of everything",
    "default": "`default`",
    "unpaired": "`default` and SOTAlign's loss, unpaired data",
    "own": "`default` and SOTAlign's loss, on the pairs themselves",
}


def render(study: dict[str, Any]) -> str:
    """The page. study: what `unpaired_study.py` wrote."""
    sizes = sorted(map(int, study["sizes"]))
    return PAGE.format(
        **{name: f"{study[name]:,}" for name in ("test", "usable", "nouns", "batch", "resamples")},
        encoders=" × ".join(f"`{one}`" for one in study["encoders"]),
        seeds=study["seeds"],
        first=f"{sizes[0]:,}",
        left=" or ".join(f"{study['usable'] - size:,}" for size in sizes),
        verdict=_verdict(study),
        more=", ".join(f"{_mean(study, size, 'rows', 'default'):.1f} at {size:,} pairs" for size in sizes),
        alone="; ".join(_alone(study, size) for size in sizes),
        tried=_tried(study),
        whole="\n\n".join(_table(study, size, "rows") for size in sizes),
        heads="\n\n".join(_table(study, size, "heads") for size in sizes),
        shares=_shares(study),
        own=OWN.format(first=f"{sizes[0]:,}")
        if any(row["system"] == "own" for row in study["sizes"][str(sizes[0])]["heads"])
        else NO_OWN,
    )


def _row(study: dict[str, Any], size: int, kind: str, system: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = study["sizes"][str(size)][kind]
    return next(row for row in rows if row["system"] == system)


def _mean(study: dict[str, Any], size: int, kind: str, system: str) -> float:
    return float(np.mean(_row(study, size, kind, system)["recalls"]))


def _gap(row: dict[str, Any], over: str = "default") -> str:
    found = row[f"over {over}"]
    return f"{found['difference']:+.2f} [{found['ci95'][0]:+.2f}, {found['ci95'][1]:+.2f}]"


def _verdict(study: dict[str, Any]) -> str:
    """What unpaired data bring to `default`, in words."""
    found = {size: _row(study, int(size), "rows", "unpaired") for size in study["sizes"]}
    helped = [f"{int(size):,}" for size, row in found.items() if row["over default"]["ci95"][0] > 0]
    told = "; ".join(f"{_gap(row)} points at {int(size):,} pairs" for size, row in found.items())
    if helped:
        return f"They help `default` at {' and '.join(helped)} pairs: {told}"
    return f"They do not help `default`: {told}"


def _alone(study: dict[str, Any], size: int) -> str:
    before, after = (_mean(study, size, "heads", system) for system in ("default", "unpaired"))
    return f"{before:.1f} → {after:.1f} at {size:,} pairs, where `cca` has {_mean(study, size, 'rows', 'cca'):.1f}"


def _tried(study: dict[str, Any]) -> str:
    rows = []
    for one in study["tried"]:
        texts = "captions, WordNet" if one["wordnet"] else "captions"
        chosen = "chosen" if all(one[name] == value for name, value in study["chosen"].items()) else ""
        rows.append(
            [f"{one['weight']:g}", one["teacher"], one["student"], texts, f"{100 * one['val_recall']:.1f}", chosen]
        )
    head = ["weight", "ε, teacher", "ε, student", "unpaired texts", "validation", ""]
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)


def _table(study: dict[str, Any], size: int, kind: str) -> str:
    listed = study["sizes"][str(size)][kind]
    over = [name.removeprefix("over ") for name in listed[0] if name.startswith("over ")]
    rows = []
    for row in listed:
        gaps = ["" if row["system"] == name else _gap(row, name) for name in over]
        draws = ", ".join(f"{value:.1f}" for value in row["recalls"])
        rows.append([SYSTEMS[row["system"]], f"{np.mean(row['recalls']):.2f}", draws, *gaps])
    head = [f"{size:,} pairs", "mean recall", "draws", *(f"minus `{name}` [95 %]" for name in over)]
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)


def _shares(study: dict[str, Any]) -> str:
    """The share of the closed form in each draw, in words."""
    told = []
    for size, found in study["sizes"].items():
        for name, label in (("default", "`default`"), ("unpaired", "with unpaired data")):
            told.append(f"{', '.join(f'{share:g}' for share in found['shares'][name])} ({label}, {int(size):,} pairs)")
    return "; ".join(told)


OWN = "The last row for {first} pairs has the same loss without unpaired data, on the pairs' own pictures and captions."
NO_OWN = (
    "Not measured: how much of this the teacher brings on the pairs' own pictures and captions, without unpaired data."
)

PAGE = """\
# Pictures without captions, texts without pictures

## What to do

- Leave them out: `isthmus train` takes none. {verdict}.
- Caption more pictures instead: `default` has {more}.
- Heads without a closed form beside them come nearer to it ({alone}), but `cca` itself is there in a second.

## Why

Written by `benchmarks/unpaired_study.py --render` from `benchmarks/results/unpaired_study.json`; do not edit.

[SOTAlign](https://arxiv.org/abs/2602.23353) trains heads on few pairs, and on many pictures and texts of which
nobody knows what belongs together. A closed form of the pairs is the teacher: its similarities between unpaired
pictures and texts give a transport plan, soft pairs in which everything counts equally. The heads' similarities
give another. The divergence between both is added to the loss on the pairs.

Here {first} or more of the demo's {usable} training pictures are drawn with their captions; a fifth validates. The
other {left} pictures and as many captions are unpaired; so are {nouns} names of things from WordNet ("guitar,
stringed instrument"). Every step takes {batch} unpaired pictures and {batch} texts beside its pairs. The teacher is
`cca`, which stands beside the heads of `default` anyway. {encoders}; {seeds} draws; mean recall (both directions,
R@1, R@5 and R@10 averaged, %).

The way was chosen on the validation pairs of {first}, with their draws averaged: a weight first, then WordNet's
texts, then both ε the other way round (the authors' code has 0.05 for the heads and 0.005 for the teacher).

{tried}

## On the test split

{test} pictures; everything was refitted on all of its pairs; differences by a paired bootstrap over
groups ({resamples} resamples). "Covariances of everything": CCA that knows the covariance within each side from all
training pictures and captions, and only the one between the sides from pairs.

{whole}

Shares of the closed form in the ensemble, by draw: {shares}. On the few validation pictures the taught heads looked
better than the closed form and were given most of the ensemble; on the test split they are not.

The choice is made on validation pairs by the script. Some rows of the test split were looked at before its last trials
were done; the script did not change after that.

Not tried: photographs, larger encoders, as many pairs and unpaired items as the authors have, a choice of the way
at each size.

## The heads alone

The same heads without the closed form beside them. The teacher passes on what it knows, and the heads come nearer
to it; what they gain is what the ensemble has from the closed form already.

{heads}

{own}
"""
