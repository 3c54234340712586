"""Is "nothing fits" right? Probabilities of searches against what the captions say; and what curate's floor keeps.

    python benchmarks/absence_study.py             # goes on where it stopped; needs apt-get for the emoji's packages
    python benchmarks/absence_study.py --render    # docs/absence.md from the committed JSON

Closed forms of several sizes on the demo's drawings and on emoji, and what `make demo` trained, search held-out
pictures of the same kind. Queries: the one-word names of emoji in Unicode's CLDR, without the nouns that the
calibration itself uses; alone and with an article. A query is present if a caption of the searched pictures holds it
as a whole word, absent if none holds it even within a word; the best picture is right if its own caption holds it. The
floor is tried on drawings of which a third have the captions of one another.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from emoji import build as build_emoji
from isthmus.curation import floor
from isthmus.data import FeaturePairs
from isthmus.encoders.callables import from_callable
from isthmus.files import write_json
from isthmus.metrics.absence import ALTERNATIVE, SHARPEST, VAGUEST, absent, nouns, null_best
from isthmus.metrics.nearest import top_k

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "absence_study.json"
PAGE = HERE.parent / "docs" / "absence.md"
WORK = Path("out/absence_study")
IMAGES = {"clip art": "wheel:efficientnet-lite1", "emoji": "wheel:efficientnet-lite1?size=128"}
TEXT = "wheel:minilm-l6"
EVERY = {"clip art": 1, "emoji": 3}  # of so many pictures one, to be cheap
SIZES = (250, 500, 1000, 5000)  # training pictures of `cca`, at most; 5,000: all
DEMO = Path("out/demo/models")  # what `make demo` left there is judged too
GALLERIES = (150, 500, 2000)  # pictures searched, at most
FORMS = ("word", "a word")
EDGES = np.append(0.0, 10 ** np.linspace(-4, 0, 25))  # of p-values, as they are counted
SHARES = (0.5, 0.75, 0.9, 0.95)  # of concepts that are not there, that the floor gives nothing
POOL, SIDES_OF_PAIRS = 3600, ("caption", "both")
BEFORE = 0.25  # ALTERNATIVE as it was once, for every model
GRID = np.linspace(0.05, 0.95, 91)  # of ALTERNATIVE
TOLD = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)  # where bins of probability end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--floor-seeds", type=int, default=2)
    options = parser.parse_args()
    if not options.render:
        machine = f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
        found = {"machine": machine, "searches": list(searches()), "floor": floors(options.floor_seeds)}
        write_json(RESULTS, found)
    PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")


# --- searches -----------------------------------------------------------------------------------------------------


def searches() -> Iterator[dict[str, Any]]:
    """Counts of p-values for every model and gallery."""
    tables = {"clip art": isthmus_demo.PAIRS, "emoji": build_emoji(WORK / "emoji")}
    words = vocabulary(pq.read_table(tables["emoji"], columns=["caption"])["caption"].to_pylist())
    for name, table in tables.items():
        place = WORK / f"store-{name.replace(' ', '-')}"
        pairs = ist.read_pairs(table)
        some = pairs.subset(pairs.images["id"].to_pylist()[:: EVERY[name]])
        store = ist.embed(some, IMAGES[name], TEXT, out=place, batch_size=4, progress=True)
        most = len(store.pairs(split="train"))
        for size in sorted({min(size, most) for size in SIZES}):
            folder = trained(store, size, WORK / "models" / name.replace(" ", "-") / f"cca-{size}")
            yield from judged_once(folder, folder, {"set": name, "recipe": "cca", "pairs": size}, store, words)
        for recipe in ("linear", "default") if name == "clip art" and DEMO.exists() else ():
            about = {"set": name, "recipe": recipe, "pairs": most}
            yield from judged_once(DEMO / recipe, WORK / "models" / recipe, about, store, words)


def judged_once(
    model: Path, kept: Path, about: dict[str, Any], store: Any, words: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A model on every gallery; kept in files."""
    kept.mkdir(exist_ok=True)
    for gallery in galleries(store):
        path = kept / f"searched-{len(gallery)}.json"
        if not path.exists():
            write_json(path, about | judged(ist.DualEncoder.from_pretrained(model), gallery, words))
        yield json.loads(path.read_text())


def vocabulary(captions: Sequence[str]) -> list[str]:
    """The one-word names of emoji that are no nouns of the calibration."""
    names = {caption.partition(",")[0].lower() for caption in captions}
    return sorted(name for name in names - set(nouns()) if re.fullmatch("[a-z]{3,}", name))


def trained(store: Any, size: int, folder: Path) -> Path:
    """The folder of a closed form of so many training pictures, drawn once."""
    train, val = store.pairs(split="train"), store.pairs(split="val")
    ids = np.random.default_rng(0).permutation(train.image_ids)[:size].tolist()
    if not (folder / "config.json").exists():
        ist.train(store, recipe="cca", only=[*ids, *val.image_ids], out=folder, seed=0)
    return folder


def galleries(store: Any) -> list[FeaturePairs]:
    """Test pictures, fewer and more."""
    test = store.pairs(split="test")
    order = np.random.default_rng(1).permutation(len(test))
    sizes = sorted({min(size, len(test)) for size in GALLERIES})
    return [test.subset(np.sort(order[:size])) for size in sizes]


@cache
def encoder() -> Any:
    return ist.load_encoder(TEXT)


KNOWN: dict[str, np.ndarray] = {}  # features by text: the same are asked for again and again


def features(texts: Sequence[str]) -> np.ndarray:
    fresh = [text for text in dict.fromkeys(texts) if text not in KNOWN]
    if fresh:
        KNOWN.update(zip(fresh, encoder().encode(fresh), strict=True))
    return np.stack([KNOWN[text] for text in texts])


def judged(model: ist.DualEncoder, gallery: FeaturePairs, words: Sequence[str]) -> dict[str, Any]:
    """Counts of p-values by what a query is, with captions told to the calibration and without them."""
    images = model.project("image", gallery.image)
    captions = [caption.lower() for caption in gallery.captions or []]

    def best(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = top_k(model.project("text", features(texts)), images, 1)
        return scores[:, 0], rows[:, 0]

    names = nouns()
    noun_scores = best(names)[0]
    missing = absent(names, captions)
    nulls = {"known": null_best(noun_scores, missing), "unknown": null_best(noun_scores)}
    found: dict[str, Any] = {"pictures": len(gallery), "captions_tell": missing is not None}
    if missing is not None:
        found["nouns"] = counts(nulls["known"].p_value(noun_scores[~missing]))
    whole = [re.compile(rf"\b{word}\b") for word in words]
    present = [any(one.search(caption) for caption in captions) for one in whole]
    within = [any(word in caption for caption in captions) for word in words]
    for form in FORMS:
        asked = [form.replace("a ", "an " if word[0] in "aeiou" else "a ").replace("word", word) for word in words]
        scores, rows = best(asked)
        right = [bool(one.search(captions[row])) for one, row in zip(whole, rows.tolist(), strict=True)]
        kind = np.array([2 if r else 1 if p else 3 if w else 0 for p, w, r in zip(present, within, right, strict=True)])
        for told, null in nulls.items():
            p = null.p_value(scores)
            found[f"{form}, {told}"] = [counts(p[kind == one]) for one in range(3)]  # absent, found wrongly, found
    return found


def counts(p: np.ndarray) -> list[int]:
    return np.histogram(p, EDGES)[0].tolist()


# --- the floor ----------------------------------------------------------------------------------------------------


def floors(seeds: int) -> list[dict[str, Any]]:
    """What several quantiles keep of right and of shuffled pairs, without quotas, and what absent concepts get."""
    train = ist.open_store(WORK / "store-clip-art").pairs(split="train")
    classes = sorted({label for label in train.labels or [] if label})
    words = vocabulary(pq.read_table(build_emoji(WORK / "emoji"), columns=["caption"])["caption"].to_pylist())
    held = " ".join(train.captions or []).lower()
    lacking = [word for word in words if word not in held]
    found = []
    for seed in range(seeds):
        pool, right = noisy(train, seed)
        for sides in SIDES_OF_PAIRS:
            for share in SHARES:
                path = WORK / "floor" / f"{seed}-{sides}-{share}.json"
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    about = {"seed": seed, "sides": sides, "share": share, "pairs": len(pool)}
                    write_json(path, about | kept(pool, right, classes, lacking, sides, share))
                found.append(json.loads(path.read_text()))
    return found


def noisy(train: FeaturePairs, seed: int) -> tuple[FeaturePairs, np.ndarray]:
    """`POOL` pairs of which a third have the captions of one another, and bool [POOL]: which are right."""
    rows = np.random.default_rng([4, seed]).permutation(len(train))[:POOL]
    texts = rows.copy()
    texts[: POOL // 3] = np.roll(rows[: POOL // 3], 1)
    captions = [(train.captions or [])[row] for row in texts]
    pairs = FeaturePairs.from_arrays(train.image[rows], train.text[texts], captions=captions, ids=list(map(str, rows)))
    return pairs, np.arange(POOL) >= POOL // 3


def kept(
    pool: FeaturePairs, right: np.ndarray, classes: list[str], lacking: list[str], sides: str, share: float
) -> dict[str, Any]:
    """Share of right and of shuffled pairs that stay for the classes' names, and of absent concepts without a pair."""
    floor.SHARE = share
    row = {id: place for place, id in enumerate(pool.image_ids)}
    options = {"keep": len(pool), "sides": sides, "encoder": from_callable(features, "text", TEXT)}
    chosen = ist.curate(pool, classes, per_concept=len(pool), **options)
    stays = np.zeros(len(pool), bool)
    stays[[row[id] for id in chosen.ids]] = True
    try:
        empty = np.mean(
            [count == 0 for count in ist.curate(pool, lacking, per_concept=1, **options).per_concept.values()]
        )
    except ist.InputError:  # nothing reaches the floor
        empty = 1.0
    shares = {"right": float(stays[right].mean()), "shuffled": float(stays[~right].mean())}
    return {"least": chosen.manifest["floor"]["least"], "kept": shares, "absent": len(lacking), "empty": float(empty)}


# --- the page -----------------------------------------------------------------------------------------------------


def middles() -> np.ndarray:
    """The p-value that stands for each bin."""
    return np.sqrt(np.maximum(EDGES[:-1], EDGES[1] / 3) * EDGES[1:])


def probability(alternative: float) -> np.ndarray:
    """Of each bin of p-values, as `NullBest.probability`."""
    factor = alternative * middles() ** (alternative - 1)
    return factor / (1 + factor)


def fitted(found: Sequence[int]) -> float:
    """The parameter of Beta(a, 1) that p-values in these bins follow best, as `null_best`."""
    counted = np.array(found)
    return float(np.clip(counted.sum() / -(counted * np.log(middles())).sum(), SHARPEST, VAGUEST))


@dataclass
class Judged:
    """Queries of a case in bins: weights of those that are there, and not, each half of all; those found right."""

    there: np.ndarray
    missing: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, case: dict[str, Any], told: str) -> Judged:
        both = np.sum([case[f"{form}, {told}"] for form in FORMS], axis=0)
        there = both[1] + both[2]
        half = 2 * there.sum()
        return cls(there / half, both[0] / (2 * both[0].sum()), both[2] / half)

    def error(self, alternative: float) -> float:
        """Mean distance between probability and share, in bins of probability (expected calibration error)."""
        given = probability(alternative)
        place = np.digitize(given, TOLD)
        parts = [place == one for one in range(len(TOLD) + 1)]
        weight = self.there + self.missing
        return float(sum(abs((self.there[at] - (given * weight)[at]).sum()) for at in parts))

    def loss(self, alternative: float) -> float:
        """Mean negative log-likelihood, in bits; 1 for a probability of one half throughout."""
        given = probability(alternative)
        return float(-(self.there * np.log2(given) + self.missing * np.log2(1 - given)).sum())

    def said(self, alternative: float) -> tuple[float, float]:
        """Of how many that are missing, and that are there, "nothing fits" is said."""
        low = probability(alternative) < 0.5
        return 2 * float(self.missing[low].sum()), 2 * float(self.there[low].sum())


def render(found: dict[str, Any]) -> str:
    cases = found["searches"]
    told = [case for case in cases if case["captions_tell"]]
    own = [(Judged.of(case, "known"), fitted(case["nouns"])) for case in told]
    blind = [Judged.of(case, "unknown") for case in cases]
    names = dict.fromkeys(case["set"] for case in cases)
    constant = {name: best_constant([one for one, case in zip(blind, cases, strict=True) if case["set"] == name])
                for name in names}  # fmt: skip
    each = [model_row(case, *one) for case, one in zip(told, own, strict=True)]
    heads = ["model", "pictures", "found right", "a, of nouns", "of queries", "absent", "present", "error", "before"]
    lists = [own, [(one, BEFORE) for one, _ in own]] + [[(one, a) for one in blind] for a in (ALTERNATIVE, BEFORE)]
    losses = [f"{np.mean([one.loss(a) for one, a in listed]):.2f}" for listed in lists]
    errors = [f"{100 * np.mean([one.error(a) for one, a in listed]):.0f}" for listed in lists]
    return PAGE_TEXT.format(
        reliability=markdown(reliability(own), ["probability", "mean", "queries", "there", "best picture right"]),
        each=markdown(each, heads),
        losses=losses,
        errors=errors,
        constant=", ".join(f"{a:.2f} ({name})" for name, a in constant.items()),
        alternative=ALTERNATIVE,
        before=BEFORE,
        share=floor.SHARE,
        kinds=" and ".join(names),
        rightly=100 * np.mean([one.said(a)[0] for one, a in own]),
        missed=100 * np.mean([one.said(a)[1] for one, a in own]),
        floor=floor_table(found["floor"]),
        machine=found["machine"],
    )


def best_constant(cases: list[Judged]) -> float:
    """The `a` with the least loss in all of them."""
    return float(min(GRID, key=lambda a: sum(one.loss(a) for one in cases)))


def reliability(own: list[tuple[Judged, float]]) -> list[list[str]]:
    """In bins of probability: its mean, the share of all queries, of those that are there, of those found right."""
    sums = np.zeros((len(TOLD) + 1, 4))
    for one, alternative in own:
        given = probability(alternative)
        weight = one.there + one.missing
        for values, place in zip(
            np.stack([given * weight, weight, one.there, one.right], axis=1), np.digitize(given, TOLD), strict=True
        ):
            sums[place] += values
    edges = [0.0, *TOLD, 1.0]
    rows = []
    for low, high, (p, n, t, r) in zip(edges, edges[1:], sums.tolist(), strict=False):
        if n:
            shares = (p / n, n / len(own), t / n, r / n)
            rows.append([f"{100 * low:.0f} to {100 * high:.0f} %", *(f"{100 * one:.1f} %" for one in shares)])
    return rows


def model_row(case: dict[str, Any], one: Judged, alternative: float) -> list[str]:
    both = np.sum([case[f"{form}, known"] for form in FORMS], axis=0)
    absent_said, present_said = one.said(alternative)
    return [
        f"{case['set']}, {case['recipe']}, {case['pairs']:,}",
        f"{case['pictures']:,}",
        f"{200 * one.right.sum():.0f} %",
        f"{alternative:.2f}",
        f"{fitted(both[1] + both[2]):.2f}",
        f"{100 * absent_said:.0f} %",
        f"{100 * present_said:.0f} %",
        f"{100 * one.error(alternative):.0f}",
        f"{100 * one.error(BEFORE):.0f}",
    ]


def floor_table(found: list[dict[str, Any]]) -> str:
    rows = []
    for sides in SIDES_OF_PAIRS:
        for share in SHARES:
            mine = [one for one in found if (one["sides"], one["share"]) == (sides, share)]
            right, shuffled = (np.mean([one["kept"][kind] for one in mine]) for kind in ("right", "shuffled"))
            empty = np.mean([one["empty"] for one in mine])
            of = right * 2 / (right * 2 + shuffled)
            rows.append([sides, f"{share:g}", *(f"{100 * value:.0f} %" for value in (right, shuffled, of, empty))])
    heads = ["right kept", "shuffled kept", "right of what is kept", "absent concepts without a pair"]
    return markdown(rows, ["sides", "quantile", *heads])


def markdown(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


PAGE_TEXT = """\
# Is it there at all?

Written by `benchmarks/absence_study.py --render` from `benchmarks/results/absence_study.json`; do not edit.

- The probability of a search says how likely it is that *something* fits, not that the first picture is the right one.
- A weak model rarely goes far from 50 %: it does not know. Train on more before you trust "nothing fits".
- "Nothing fits" was said of {missed:.0f} % of the queries that were there (of {rightly:.0f} % of the absent): these
  models do not see most of what is there. It tells of the model as much as of the pictures.
- Of small galleries, of pictures without captions and of captions in other languages less is known: look yourself.
- `curate`'s floor asks how many concepts that are not there should get nothing; every step up costs right pairs.

## Searches

Closed forms (`cca`) of {kinds}, and the demo's own models, search held-out pictures of the same kind. Queries are
the one-word names of emoji in Unicode's CLDR, alone and with an article, without the nouns that the calibration
itself uses. A query is *there* if a caption of the searched pictures holds it as a whole word, *absent* if none
holds it even within a word; both count half. The best picture is *right* if its own caption holds the word; others
may fit all the same.

{reliability}

A search compares the best score with those of everyday nouns over the same pictures. Where captions tell at least
twenty that are there and twenty that are not, the former say how sharply this model tells them apart: p-values of
texts that are there follow Beta(a, 1), and `a` is measured (1: it knows nothing). Before, a was {before} for every
model. Loss in bits (1: always 50 %) and mean distance between probability and share, in points, over models and
galleries:

| probability | loss | distance |
|---|---|---|
| captions tell, a measured | {losses[0]} | {errors[0]} |
| captions tell, a = {before} as before | {losses[1]} | {errors[1]} |
| no captions, a = {alternative} | {losses[2]} | {errors[2]} |
| no captions, a = {before} as before | {losses[3]} | {errors[3]} |

Without captions the best single a is {constant}, by the kind of pictures it is chosen on.

Model by model. *Absent*, *present*: of how many queries "nothing fits" is said, rightly and wrongly. *Error*: the
distance as above, with `a` measured and as before.

{each}

## The floor of curate

The demo's training drawings, of which a third have the captions of one another; concepts are the names of the 51
categories, without quotas. *Quantile*: of absent concepts, that shall get no pair; the default is {share:g}. *Absent
concepts*: names of emoji that no caption holds.

{floor}

The caption side cannot see a picture that does not fit its caption; both sides can in part. What stays below the
floor is not wrong: it is no better than what concepts find that are not there. No quantile is best: the default keeps
its promise to concepts that are not there and costs about half of the right pairs, which matters where there are few.
`--floor 0.5` (a cosine) or `--floor none` keeps more; the page of `curate` shows the weakest pairs.

Machine: {machine}.
"""


if __name__ == "__main__":
    main()
