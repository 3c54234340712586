"""docs/composition.md from what `composition_study.py` found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from isthmus.evaluation.pages.longtext import tick_labels

PAGE = Path(__file__).parent.parent / "docs" / "composition.md"
SHOWN_KINDS = {"left-right": "left of", "above-below": "above", "size": "big, small", "count": "how many of each"}
CHOICES = {
    "replace_object": "another noun",
    "add_object": "a third thing, not there",
    "replace_relation": "the opposite relation",
    "replace_count": "one more or less",
    "swap_left-right": "nouns swapped, left of",
    "swap_above-below": "nouns swapped, above",
    "swap_size": "sizes swapped",
    "swap_count": "counts swapped",
}


def judge(result: dict[str, Any], name: str) -> str:
    """`above`, `below` or `` (not told from) chance, by the 95 % interval."""
    low, high = result["ci95"][name]
    chance = result["chance"][name]
    return "above" if low > chance else "below" if high < chance else ""


def cell(result: dict[str, Any], name: str, compare: bool = True) -> str:
    value, (low, high) = result["metrics"][name], result["ci95"][name]
    word = judge(result, name) if compare else ""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]{' ' + word if word else ''}"


def grid(rows: list[list[str]], heads: list[str]) -> str:
    return tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)


def render(found: dict[str, Any]) -> str:
    models = found["models"]
    first = next(iter(models))
    main, others = models[first], [name for name in models if "sugarcrepe" in models[name]]
    draw(main)
    scores = ("text_score", "image_score", "group_score", "matching_score")
    (wino,) = main["winoground"]
    kinds = {row["category"]: row for row in wino["per_category"]}
    winoground = [[shown, *(cell(kinds[kind], score) for score in scores)] for kind, shown in SHOWN_KINDS.items()]
    winoground.append(["all", *(cell(wino, score) for score in scores)])
    heads = [[name, *(cell(models[name]["winoground"][0], score) for score in scores)] for name in others]
    crepe = {name: {one["dataset"].partition("/")[2]: one for one in models[name]["sugarcrepe"]} for name in others}
    choices = [[shown, *(cell(crepe[name][key], "accuracy") for name in others)] for key, shown in CHOICES.items()]
    (whatsup,) = main["whatsup"]
    relations = [[row["category"].replace("_", " "), cell(row, "accuracy")] for row in whatsup["per_category"]]
    relations += [[f"all four, {name}", cell(whatsup, f"{name}_accuracy")] for name in ("pair", "set")]
    (counting,) = main["counting"]
    counts = [[row["category"].strip(), cell(row, "accuracy", compare=False)] for row in counting["per_category"]]
    keys = [f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 10)]
    lengths = [
        [str(one["max_tokens"]), str(one["truncated"]), *(cell(one, key, compare=False) for key in keys)]
        for one in main["longtext"]
    ]
    bins = [
        [f"{row['tokens'][0]} to {row['tokens'][1]}", str(row["n"]), *(f"{100 * row[k]:.1f}" for k in keys[:2])]
        for row in main["longtext"][-1]["by_length"]
    ]
    sides = ("captions", "other captions", "pictures", "other pictures")
    alike = [[SHOWN_KINDS[kind], *(f"{row[side]:.3f}" for side in sides)] for kind, row in main["alike"].items()]
    languages = [
        [
            one["language"],
            cell(one, "acc1", compare=False),
            f"{100 * one['reading']['unknown_tokens']:.0f} %",
            f"{one['reading']['characters_per_token']:.1f}",
        ]
        for one in main["languages"]
        if one["task"] == "zeroshot_classification"
    ]
    refused = "\n".join(f"- {reason}" for one in main["languages"] for _, reason in one.get("skipped") or [])
    return PAGE_TEXT.format(
        **found,
        verdict=verdict(main),
        encoders=" × ".join(main["encoders"]),
        first=first,
        winoground=grid(winoground, ["scenes differ in", *(score.replace("_", " ") for score in scores)]),
        heads=grid(heads, ["head", *(score.replace("_", " ") for score in scores)]),
        choices=grid(choices, ["wrong caption", *others]),
        relations=grid(relations, ["truth", "accuracy"]),
        counts=grid(counts, ["things", "accuracy"]),
        all_counts=cell(counting, "accuracy"),
        lengths=grid(
            lengths, ["tokens read", "captions cut", "caption → image, R@1", "R@10", "image → caption, R@1", "R@10"]
        ),
        bins=grid(bins, ["tokens of the caption", "captions", "caption → image, R@1", "R@10"]),
        alike=grid(alike, ["scenes differ in", *sides]),
        languages=grid(languages, ["language", "acc1", "unknown tokens", "characters a token"]),
        refused=refused,
        n_languages=main["languages"][0]["n"]["images"],
    )


def verdict(main: dict[str, Any]) -> str:
    """What the intervals decide, in words."""
    (wino,), (whatsup,), (counting,) = main["winoground"], main["whatsup"], main["counting"]
    crepe = {one["dataset"].partition("/")[2]: one for one in main["sugarcrepe"]}
    long, short = main["longtext"][-1], main["longtext"][0]

    def says(result: dict[str, Any], name: str) -> str:
        where = {"above": "above chance", "below": "below chance", "": "not distinguishable from chance"}[
            judge(result, name)
        ]
        return f"{cell(result, name, compare=False)} %, {where} ({100 * result['chance'][name]:.3g})"

    kinds = [f"{SHOWN_KINDS[row['category']]}: {says(row, 'matching_score')}" for row in wino["per_category"]]
    lines = {
        "What is there": f"Another noun in the caption is refused in {says(crepe['replace_object'], 'accuracy')}.",
        "What is not there": f"A third thing is refused in {says(crepe['add_object'], 'accuracy')}.",
        "Where, how big, how many of which": f"The right matching of two scenes and two captions: {'; '.join(kinds)}.",
        "Winoground's own scores": f"Image: {says(wino, 'image_score')}. Group: {says(wino, 'group_score')}.",
        "Four relations": f"{says(whatsup, 'accuracy')}; all four right: {says(whatsup, 'set_accuracy')}.",
        "Counting to twelve": f"{says(counting, 'accuracy')}.",
        "Long captions": compared(long, short),
    }
    return "\n".join(f"- **{name}.** {line}" for name, line in lines.items())


def compared(long: dict[str, Any], short: dict[str, Any]) -> str:
    """Captions read to their end against their beginnings; a tie where the intervals overlap."""
    key = "image_retrieval_recall@10"
    apart = long["ci95"][key][0] > short["ci95"][key][1] or long["ci95"][key][1] < short["ci95"][key][0]
    few, all_of_it = (f"{cell(one, key, False)} % with {one['max_tokens']} tokens" for one in (short, long))
    return f"R@10 is {few} and {all_of_it}{'' if apart else ': the intervals overlap'}."


def draw(main: dict[str, Any]) -> None:
    """Counting and long captions, as docs/composition_curves.png."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = main["counting"][0]["per_category"]
    counts = [int(row["category"]) for row in rows]
    values = np.array([row["metrics"]["accuracy"] for row in rows])
    low, high = np.array([row["ci95"]["accuracy"] for row in rows]).T
    left.errorbar(
        counts, 100 * values, 100 * np.stack([values - low, high - values]), fmt="o", color="#2a9d8f", capsize=2
    )
    left.axhline(100 / len(counts), color="#8d99ae", ls=":")
    left.set(xlabel="things in the picture", ylabel="right number chosen, %", xticks=counts, ylim=(-2, None))
    tokens = [one["max_tokens"] for one in main["longtext"]]
    for colour, way in (("#e08a1e", "image"), ("#3b82f6", "text")):
        key = f"{way}_retrieval_recall@10"
        low, high = 100 * np.array([one["ci95"][key] for one in main["longtext"]]).T
        label = {"image": "caption → image", "text": "image → caption"}[way]
        right.plot(tokens, [100 * one["metrics"][key] for one in main["longtext"]], "o-", color=colour, label=label)
        right.fill_between(tokens, low, high, color=colour, alpha=0.15, lw=0)
    right.axhline(1000 / main["longtext"][0]["n"]["images"], color="#8d99ae", ls=":")
    right.set(xscale="log", xlabel="tokens read of each caption", ylabel="R@10, %", ylim=(0, None))
    right.set_xticks(tokens, tick_labels(tokens))
    right.minorticks_off()
    right.legend(frameon=False, loc="lower right")
    figure.savefig(PAGE.with_name("composition_curves.png"), dpi=110)


PAGE_TEXT = """# What a head on frozen encoders knows of composition

## What to do

- Use such a model to find what is in a picture. Do not ask it where things are, how many, or which is the larger.
- Read the chance beside every score, and for pairs of captions the matching score: a preference stands below chance.
- Embed long captions with `max_tokens=` in the text encoder's URI only after `longtext` has shown that they are read.

## Why

Written by `benchmarks/composition_study.py --render` from `benchmarks/results/composition_study.json`; do not edit.

{verdict}

![Scenes and their captions](composition.png)

Scenes are composed from {cutouts} cut-outs of {nouns} things of the demo's test split, which no model was trained on:
the truth is exact. Two scenes of an example have the same drawings and the same background. The model is the
demo's `{first}` ({encoders}), trained on titles and keywords of single
drawings, never on a scene or a sentence. Brackets are 95 % intervals over examples; as all scenes share {cutouts}
drawings, they are somewhat too narrow. "above" and "below" say on which side of chance an interval lies; without a word
it contains chance.

## Two scenes, two captions (Winoground's layout)
150 examples of each kind. Chance is 25 for text and image score, 16.7 for the group, 50 for the matching.

{winoground}

Chance assumes independent scores. A model that does not see the difference prefers one picture for both captions and
scores below. The matching score takes such preferences out. Other heads on the same encoders:

{heads}

Mean cosines within an example, and between different examples, in the joint space:

{alike}

An example's two captions are nearly one; its pictures differ, most where sizes or counts do. The text encoder's mean
of tokens holds which words there are and hardly their order, and no head can bring back what its input lacks. We do
not know why sizes are matched the wrong way round more often than not.

## One scene, two captions (SugarCrepe's layout)
Chance is 50. A score below it is a preference for the wrong wording ("right" for "left"), whatever the picture.

{choices}

## One scene, four captions (What's Up's layout)
100 pairs of things in four relations; chance is 25, 6.2 for a relation and its opposite, 0.4 for all four.

{relations}

## Counting
One to twelve of one thing, twelve captions; chance is 8.3, which any answer given to all pictures gets too. All:
{all_counts}. Of each number there are 40 pictures; intervals near 0 are rough.

{counts}

## Long captions
300 scenes of one to twelve things; a caption has one sentence for each with its place. The same captions,
cut; chance is 0.3 for R@1 and 3.3 for R@10:

{lengths}

By their own length, all of it read (longer captions have fuller pictures):

{bins}

![Counting, and recall against the tokens that are read](composition_curves.png)

## Languages
{n_languages} labelled drawings of ten categories of unequal size, class names in six languages; a uniform guess gets
10. The text encoder is an English one: this is how an unsuitable encoder shows.

{languages}

Refused:
{refused}

## To repeat it
```
python benchmarks/composition_study.py
isthmus eval out/demo/model winoground out/composition/winoground
isthmus eval out/demo/model sugarcrepe out/composition/winoground/sugarcrepe --images out/composition/winoground/images
isthmus eval out/demo/model whatsup    out/composition/whatsup
isthmus eval out/demo/model longtext   out/composition/long/pairs.jsonl --report lengths.html
```
"""
