"""Which score of `isthmus select` ranks encoder pairs as training the recipe `default` on them does?

    python benchmarks/ranking_study.py             # goes on where it stopped; needs apt-get for three packages of data
    python benchmarks/ranking_study.py --render    # docs/ranking.md from the committed JSON

Every pair of image view and text view is scored on training and validation pictures, then trained by `default` on the
same, then tested on pictures that neither saw. Data: clip art and emoji with captions (recall), and the clip art's
categories with the names of their classes for captions (accuracy), at several sizes. What was measured before stays in
the JSON: the settings of 120 pictures are of three EfficientNets and two layers of a ViT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from emoji import build as build_emoji
from isthmus.data import FeaturePairs
from isthmus.files import write_json
from isthmus.metrics.retrieval import ranks
from isthmus.selection.scoring import FALLBACK, LABELS, PROBE

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ranking_study.json"
PAGE = HERE.parent / "docs" / "ranking.md"
WORK = Path("out/ranking_study")
BOTH = "mean of CCA and probe"
DRAWS = 2000
VIT = "wheel:dinov2-small-saliency?{}pool=cls+mean&size=70"  # small pictures throughout, to be cheap
LITE = "wheel:efficientnet-lite0?{}size=128"
IMAGES = [
    LITE.format(""),
    LITE.format("layer=6&pool=mean&"),
    *(VIT.format(layer) for layer in ("layer=8&", "layer=10&", "")),
]
TEXTS = ["wheel:minilm-l6", "wheel:wordllama"]
TEST, VAL = 160, 100  # pictures of each set, at most
SIZES = {"clip art": (60, 400, 1200), "emoji": (60, 400, 1200), "categories": (400, 1200)}  # training pictures, at most
LABELLED = ("categories",)
MOST = max(size for sizes in SIZES.values() for size in sizes)


@dataclass(frozen=True)
class Setting:
    """A data set at a size: the pictures' rows in the store, and what belongs to them."""

    name: str
    train: int
    rows: list[dict[str, Any]]

    @property
    def folder(self) -> Path:
        return WORK / f"{self.name.replace(' ', '-')}-{self.train}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--embed-only", action="store_true")
    parser.add_argument("--most", type=int, default=MOST, help="no larger size, to see something first")
    options = parser.parse_args()
    if not options.render:
        measure(options.embed_only, options.most)
    if not options.embed_only:
        PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")


def measure(embed_only: bool, most: int) -> None:
    table = gathered(WORK / f"pictures-{most}.parquet", most)
    store = ist.embed(ist.read_pairs(table), IMAGES, TEXTS, out=WORK / "store", batch_size=4, progress=True)
    if embed_only:
        return
    rows = pq.read_table(table, columns=["id", "caption", "label", "group", "split", "set"]).to_pylist()
    kept = json.loads(RESULTS.read_text())["settings"] if RESULTS.exists() else []
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
    for setting in settings(rows, most):
        path = setting.folder / "judged.json"
        if not path.exists():
            write_json(path, judged(setting, store))
        known = {(one["set"], one["train"]): one for one in kept}
        kept = list((known | {(setting.name, setting.train): json.loads(path.read_text())}).values())
        write_json(RESULTS, {"machine": machine, "test": TEST, "settings": kept})


# --- data ---------------------------------------------------------------------------------------------------------


def gathered(path: Path, most: int) -> Path:
    """One table of all pictures that take part, `VAL` + `TEST` and the most that a size asks for of each set."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    sets = {
        "clip art": pq.read_table(isthmus_demo.PAIRS).to_pylist(),
        "emoji": pq.read_table(build_emoji(WORK / "emoji")).to_pylist(),
    }
    columns = ("image", "caption", "label", "group", "split")
    kept = [
        {"id": f"{name}/{row['id']}", "set": name, **{column: row[column] for column in columns}}
        for name, listed in sets.items()
        for row in drawn(listed, {"train": min(most, max(SIZES[name])), "val": VAL, "test": TEST})
    ]
    for row in kept:
        row["group"] = f"{row['set']}/{row['group']}"
    pq.write_table(pa.Table.from_pylist(kept), path)
    return path


def drawn(rows: list[dict[str, Any]], wanted: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The first pictures of each split in the order of a hash."""
    ordered = sorted(rows, key=lambda row: hashlib.blake2b(str(row["id"]).encode()).digest())
    for split, count in wanted.items():
        yield from [row for row in ordered if row["split"] == split][:count]


def settings(rows: list[dict[str, Any]], most: int) -> Iterator[Setting]:
    """Smaller sizes first, so that a run that stops has something of every set."""
    by_set = {name: [row for row in rows if row["set"] == name] for name in SIZES}
    by_set["categories"] = [row | {"caption": row["label"]} for row in by_set["clip art"] if row["label"]]
    for size in sorted({size for sizes in SIZES.values() for size in sizes if size <= most}):
        for name in (name for name, sizes in SIZES.items() if size in sizes):
            train = [row for row in by_set[name] if row["split"] == "train"][:size]
            rest = [row for row in by_set[name] if row["split"] != "train"]
            yield Setting(name, len(train), train + rest)


# --- scores and results -------------------------------------------------------------------------------------------


def judged(setting: Setting, store: Any) -> dict[str, Any]:
    """Scores and results of every encoder pair in one setting."""
    place = {id: row for row, id in enumerate(store.images["id"].to_pylist())}
    index = np.array([place[row["id"]] for row in setting.rows])
    images = {uri: np.asarray(store.features("image", uri)[index], np.float32) for uri in IMAGES}
    captions = [row["caption"] for row in setting.rows]
    texts = {uri: texts_of(uri, captions) for uri in TEXTS}
    told = {name: [row[key] for row in setting.rows] for name, key in (("groups", "group"), ("splits", "split"))}
    told |= {"ids": [row["id"] for row in setting.rows], "captions": captions}
    labels = [row["label"] for row in setting.rows]
    found = ist.select(
        None, images, texts, out=setting.folder, seeds=2, bootstrap=0, labels=labels, progress=True, **told
    )
    pairs = []
    for row in found.pairs:
        features = FeaturePairs.from_arrays(images[row["image"]], texts[row["text"]], **told)
        result = trained(setting, features, setting.folder / "default", f"{row['image']} {row['text']}")
        scores = {name: one["value"] for name, one in row["scores"].items()}
        pairs.append({"image": row["image"], "text": row["text"], "scores": scores, "result": result})
        print(setting.name, setting.train, row["image"], row["text"], result, flush=True)
    unimodal = {row["name"]: row["unimodal"] for row in found.encoders["image"]}
    return {"set": setting.name, "train": setting.train, "pairs": pairs, "unimodal": unimodal, "n": found.facts["n"]}


def texts_of(uri: str, captions: list[str]) -> np.ndarray:
    """Features [M, D]; each caption is encoded once."""
    different = sorted(set(captions))
    cache = WORK / f"{hashlib.blake2b(repr((uri, different)).encode(), digest_size=8).hexdigest()}.npy"
    if not cache.exists():
        np.save(cache, ist.load_encoder(uri).encode(different))
    row = {caption: at for at, caption in enumerate(different)}
    return np.load(cache)[[row[caption] for caption in captions]]


def trained(setting: Setting, pairs: FeaturePairs, folder: Path, name: str) -> dict[str, float]:
    """`default` on training and validation pairs, tested on the rest; kept in a file."""
    path = folder / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.json"
    if path.exists():
        return json.loads(path.read_text())
    parts = pairs.split()
    fit = np.flatnonzero(np.array(pairs.splits) != "test")
    model = ist.train(pairs.subset(fit), recipe="default", seed=0)
    test = parts["test"]
    image, text = model.project("image", test.image), model.project("text", test.text)
    result = accuracy(image, text, test.captions) if setting.name in LABELLED else recalls(image, text, test.image_of)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


def recalls(image: np.ndarray, text: np.ndarray, image_of: np.ndarray) -> dict[str, float]:
    """Recall at 1 and 10, the mean of both directions."""
    found = ranks(image, text, image_of)
    return {f"recall@{k}": float(np.mean([side.mean() for side in found.hits(k)])) for k in (10, 1)}


def accuracy(image: np.ndarray, text: np.ndarray, captions: list[str]) -> dict[str, float]:
    """Share of pictures whose nearest class name is their own."""
    names = sorted(set(captions))
    classes = text[[captions.index(name) for name in names]]
    given = (image @ classes.T).argmax(axis=1)
    return {"accuracy": float(np.mean([names[at] == own for at, own in zip(given.tolist(), captions, strict=True)]))}


# --- the page -----------------------------------------------------------------------------------------------------


def columns_of(setting: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each score of the pairs of a setting by its label, and the result of `default`."""
    pairs = setting["pairs"]
    found = {LABELS[name]: np.array([pair["scores"][name] for pair in pairs]) for name in pairs[0]["scores"]}
    found[BOTH] = (found[LABELS[FALLBACK]] + found[LABELS[PROBE]]) / 2
    return found, np.array([next(iter(pair["result"].values())) for pair in pairs])


def tau(score: np.ndarray, result: np.ndarray) -> float:
    """Kendall's tau-b, 0 where all are equal; as `scipy.stats.kendalltau`, but quick for a few values."""
    x, y = (np.sign(one[:, None] - one) for one in (score, result))
    of = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / of) if of else 0.0


def lost(score: np.ndarray, result: np.ndarray) -> float:
    """Percentage points between the best result and that of the pair that a score puts first."""
    return 100 * float(result.max() - result[score.argmax()])


def drawn_taus(columns: list[tuple[dict[str, np.ndarray], np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean tau of every score, `DRAWS` times: data sets are drawn with replacement, and encoder pairs within them."""
    rng = np.random.default_rng(0)
    found = {label: np.empty(DRAWS) for label in columns[0][0]}
    for draw in range(DRAWS):
        chosen = [columns[place] for place in rng.integers(len(columns), size=len(columns))]
        rows = [rng.integers(len(result), size=len(result)) for _, result in chosen]
        for label, values in found.items():
            values[draw] = np.mean([tau(x[label][at], y[at]) for (x, y), at in zip(chosen, rows, strict=True)])
    return found


def render(found: dict[str, Any]) -> str:
    settings = found["settings"]
    columns = [columns_of(setting) for setting in settings]
    drawn = drawn_taus(columns)
    own = {label: [tau(x[label], y) for x, y in columns] for label in drawn}
    order = sorted(own, key=lambda label: -np.mean(own[label]))
    sizes = [nominal(setting) for setting in settings]
    named = [setting["set"] in LABELLED for setting in settings]
    rows = []
    for label in order:
        low, high = np.quantile(drawn[label], [0.025, 0.975])
        taus = np.array(own[label])
        by_size = [taus[np.array(sizes) == size].mean() for size in sorted(set(sizes))]
        by_kind = [taus[np.array(named) == kind].mean() for kind in (False, True)]
        points = np.mean([lost(x[label], y) for x, y in columns])
        less, more = np.quantile(drawn[label] - drawn[LABELS[PROBE]], [0.025, 0.975])
        beside = "" if label == LABELS[PROBE] else f"{less:+.2f} to {more:+.2f}"
        interval = f"{taus.mean():.2f} [{low:.2f}, {high:.2f}]"
        rows.append([label, interval, beside, *(f"{one:.2f}" for one in [*by_size, *by_kind]), f"{points:.1f}"])
    heads = [*(f"n ≈ {size:,}" for size in sorted(set(sizes))), "captions", "class names"]
    table = markdown(rows, ["score", "mean tau [95 %]", "minus the probe", *heads, "points lost"])
    return PAGE_TEXT.format(
        table=table,
        each=each_setting(settings, columns),
        verdict=verdict(drawn),
        pairs=len(columns[0][1]),
        settings=len(settings),
        test=found.get("test", 120),
        machine=found["machine"],
    )


def nominal(setting: dict[str, Any]) -> int:
    """About the size: a set may have fewer pictures than were asked for."""
    return min((60, 120, 400, 1200), key=lambda size: abs(size - setting["train"]))


def verdict(drawn: dict[str, np.ndarray]) -> str:
    """What the intervals of the differences to the probe say."""
    apart = {label: np.quantile(values - drawn[LABELS[PROBE]], [0.025, 0.975]) for label, values in drawn.items()}
    better = [label for label, (low, _) in apart.items() if low > 0]
    worse = [label for label, (_, high) in apart.items() if high < 0]
    tied = [label for label in apart if label not in (*better, *worse, LABELS[PROBE])]
    told = [f"Better than the probe: **{', '.join(better) or 'none'}**."]
    told += [f"Not to be told from it: {', '.join(tied)}."] if tied else []
    return " ".join([*told, f"Worse: {', '.join(worse) or 'none'}."])


def each_setting(settings: list[dict[str, Any]], columns: list[tuple[dict[str, np.ndarray], np.ndarray]]) -> str:
    labels = [LABELS[PROBE], LABELS[FALLBACK], BOTH, LABELS["mutual_knn"], LABELS["cka"]]
    rows = [
        [setting["set"], f"{setting['train']:,}", f"{100 * y.min():.0f} to {100 * y.max():.0f}"]
        + [f"{tau(x[label], y):.2f} / {lost(x[label], y):.1f}" for label in labels]
        for setting, (x, y) in zip(settings, columns, strict=True)
    ]
    return markdown(rows, ["set", "training pictures", "results, %", *labels])


def markdown(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


PAGE_TEXT = """\
# Which score ranks encoder pairs as training does?

Written by `benchmarks/ranking_study.py --render` from `benchmarks/results/ranking_study.json`; do not edit.

- {verdict}
- `isthmus select` ranks by the probe. A score that is better than it here would take its place.
- Train the first few pairs where it matters: no score names the best pair for sure.

**What was done.** Five image views (networks, layers, poolings) and two text encoders, paired each with each ({pairs}
pairs), scored by `isthmus select` on training and validation pictures, then trained by `default` on the same and
tested on {test} others at most: recall at 10 of captions, mean of both directions, or accuracy over the names of
classes. Clip art and emoji (Noto Color Emoji) have captions, the latter Unicode's CLDR names and keywords; the
categories are the clip art's, with the names of classes for captions. Settings of 120 pictures have EfficientNet-Lite
0 to 2 and two layers of a small ViT for views; any others have three layers of the ViT and two of EfficientNet-Lite0.

Kendall's tau between score and result: 1 where both rank alike, 0 where they have nothing to do with each other.
Intervals: 2,000 draws of the {settings} settings, and of pairs within each. *Minus the probe*: the same draws, as a
difference. *Points lost*: the best result minus that of the pair that a score puts first, mean over settings.

{table}

Setting by setting: the range of the pairs' results, and for some scores tau / points lost.

{each}

**What that cannot show.** Few settings: sizes and sets are in the second table. Small networks of two kinds, pictures
of 70 and 128 pixels, one labelled set. `default` holds a CCA, which may favour CCA's score. Settings of one set share
their test pictures and pairs share networks, so the intervals are, if anything, too narrow. One seed of `default` a
pair: its own spread is in the results. Machine: {machine}.
"""


if __name__ == "__main__":
    main()
