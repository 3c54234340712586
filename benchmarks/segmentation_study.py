"""Open-vocabulary segmentation of composed scenes: categories seen in training or not, heads, sizes, attention.

    python benchmarks/segmentation_study.py embed       # tokens of 2,481 training pictures; minutes
    python benchmarks/segmentation_study.py measure     # heads, validation scenes, test scenes; writes the results
    python benchmarks/segmentation_study.py longer      # adds token heads of more steps to them
    python benchmarks/segmentation_study.py draw        # docs/segmentation.png
    python benchmarks/segmentation_study.py page        # docs/segmentation.md, from the results

Categories are nouns of `isthmus_demo.scenes` with at least four cut-outs: `TEST` of them for the test scenes, `VAL`
for the validation scenes, on which layer and thresholds are chosen. "Unseen": no pair whose caption, title or file
name mentions any of them is trained on. Scenes are composed of cut-outs of the test split, which no head was trained
on; test scenes are looked at once, with the settings of each line of the table fixed before.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from isthmus.encoders import Encoder
from isthmus.evaluation.segmentation import PixelTally, _metrics
from isthmus.files import read_json, write_json
from isthmus.metrics.bootstrap import estimate
from isthmus.metrics.zeroshot import load_templates
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.saved import check_encoders
from isthmus.segmentation import Segmenter
from isthmus.segmentation.data import IGNORE
from isthmus.segmentation.labels import BACKGROUND
from isthmus.segmentation.overlay import blend
from isthmus_demo.scenes import NOUNS, Scene, names, random_scene, read_cutouts

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = Path(__file__).parent / "results" / "segmentation_study.json", ROOT / "docs" / "segmentation.md"
PICTURE = ROOT / "docs" / "segmentation.png"
ENCODER, CNN, TEXT = "wheel:dinov2-small-saliency", "wheel:efficientnet-lite1", "wheel:minilm-l6"
TEXT_TOKENS = f"{TEXT}?max_tokens=32&pool=tokens"
LAYERS = (8, 9, 10, 11, 12)
GRID = "cls+grid16"
POOLS = ("cls", "mean", "cls+mean", GRID)
THRESHOLDS = tuple(float(x) for x in np.round(np.arange(0.06, 1.0, 0.06), 2))
PLAIN = "background; plain background; texture; empty area"
PIXELS, WHOLE = 336, {"size": 336}
SECONDS = 30.0  # of training a head at most
VARIANTS: dict[str, dict[str, Any]] = {
    "at 224 pixels": {"size": 224},
    "windows of 224 in 336": {"window": 224, "stride": 112},
    "qq attention": {"attention": "qq"},
    "last block's attention alone": {"alone": True},
    "both": {"attention": "qq", "alone": True},
}
TEST, VAL = 20, 10  # categories
SERIES = {"star": 100, "computer icon": 250, "flag": 100, "playing card": 50}  # no more of these in training


def view(layer: int, pool: str) -> str:
    return f"{ENCODER}?layer={layer}&pool={pool}"


def categories() -> tuple[list[str], list[str]]:
    """Names of the test and of the validation categories, drawn once."""
    known = names(read_cutouts(split=None, least=4))
    drawn = np.random.default_rng(0).permutation(known).tolist()
    return sorted(drawn[:TEST]), sorted(drawn[TEST : TEST + VAL])


def training_ids(seen: bool) -> list[str]:
    """Training and validation pairs, long series cut short. seen: with those that mention one of the categories."""
    held_out = [name for some in categories() for name in some]
    mention = re.compile(r"\b(?:" + "|".join(NOUNS[name] for name in held_out) + r")(?:s|es)?\b")
    room, ids = dict(SERIES), []
    columns = ["id", "caption", "title", "label", "split"]
    for row in pq.read_table(isthmus_demo.PAIRS, columns=columns).to_pylist():
        words = " ".join(re.findall("[a-z]+", f"{row['caption']} {row['title']} {row['id']}".lower()))
        series = f"{row['label']}"
        if row["split"] == "test" or room.get(series, 1) < 1:
            continue
        if mention.search(words):
            if seen:
                ids.append(row["id"])
            continue
        if series in room:
            room[series] -= 1
        ids.append(row["id"])
    return ids


def embed(out: Path) -> None:
    """Class token, mean, and 4 × 4 averages of the patches at every layer: one forward pass a picture."""
    views = [view(layer, pool) for layer in LAYERS for pool in POOLS]
    ids = training_ids(seen=True)
    print(f"{len(ids)} pictures, {len(views)} views of {ENCODER}", flush=True)
    print(ist.embed(isthmus_demo.PAIRS, views, [TEXT, TEXT_TOKENS], out=out / "store", only=ids, batch_size=8))


def scenes(kind: str, count: int) -> list[Scene]:
    """Composed of the test split's cut-outs of the test or of the validation categories."""
    wanted = categories()[kind == "val"]
    cutouts = [cutout for cutout in read_cutouts(split="test") if cutout.name in wanted]
    return [random_scene(cutouts, 1000 * (kind == "val") + i, side=PIXELS) for i in range(count)]


class Encoders:
    """The frozen encoders, loaded once. The outputs for the scene in hand are kept, whichever head asks for them."""

    def __init__(self) -> None:
        self.image = {uri: ist.load_encoder(uri) for uri in (ENCODER, CNN)}
        self.text = {uri: ist.load_encoder(uri) for uri in (TEXT, TEXT_TOKENS)}
        self.kept: dict[Any, Any] = {}

    def model(self, head: Head) -> DualEncoder:
        """The head with its encoders."""
        text = self.text[TEXT_TOKENS if head.pool == GRID else TEXT]
        image = self.image[head.encoder].at(head.layer, head.pool)
        check_encoders([image], head.trained.records["image"])
        check_encoders([text], head.trained.records["text"])
        head.trained.encoders = {"image": [image], "text": [text]}
        return head.trained

    def segmenter(self, head: Head, classes: Sequence[str], **how: Any) -> Segmenter:
        made = Segmenter(self.model(head), classes, load_templates("clipart"), **how)
        (patches,) = made.dense.patches
        view, variant = patches.encoder, (how.get("attention"), how.get("alone"))

        def run(inputs: dict[str, Any], layers: bool) -> Any:
            key = (head.encoder, inputs[patches.key].numpy().tobytes(), *variant, head.layer if any(variant) else None)
            if key not in self.kept:
                self.kept[key] = Encoder.run(view, inputs, layers=True)
            return self.kept[key]

        view.run = run  # type: ignore[method-assign]
        return made


@dataclass
class Head:
    """A trained head: on which encoder, layer and pooling."""

    encoder: str
    layer: int | None
    pool: str
    trained: DualEncoder = field(repr=False)


def train(
    store: Path,
    seen: bool,
    recipe: str,
    layer: int | None,
    pool: str,
    encoder: str = ENCODER,
    overrides: Sequence[str] = (),
    seconds: float = SECONDS,
) -> Head:
    """On the pairs with or without the categories, the validation pairs likewise."""
    began, opened, ids = time.monotonic(), ist.open_store(store), training_ids(seen)
    image = view(layer, pool) if layer is not None else encoder
    text = TEXT_TOKENS if pool == GRID else TEXT
    train, val = (opened.pairs(split, image, text, only=ids) for split in ("train", "val"))
    trained = ist.train(train, val=val, recipe=recipe, overrides=overrides, max_seconds=seconds)
    print(f"  {recipe} on {image}, seen {seen}: {len(train)} pairs, {time.monotonic() - began:.0f} s", flush=True)
    return Head(encoder, layer, pool, trained)


def evaluate(
    encoders: Encoders,
    lines: dict[str, tuple[Head, dict[str, Any]]],
    shown: Sequence[Scene],
    thresholds: Sequence[float],
) -> dict[str, dict[float | None, PixelTally]]:
    """Each line's tally on the scenes: with the background at every threshold, and of objects alone (None)."""
    classes = [BACKGROUND, *shown[0].classes]
    segmenters = {name: encoders.segmenter(head, classes, threshold=0.0, **how) for name, (head, how) in lines.items()}
    tallies: dict[str, dict[float | None, PixelTally]] = {
        name: {threshold: PixelTally(classes) for threshold in (None, *thresholds)} for name in lines
    }
    for scene in shown:
        encoders.kept.clear()
        objects = np.where(scene.mask == 0, IGNORE, scene.mask).astype(np.uint8)
        for name, segmenter in segmenters.items():
            label, probability = segmenter.classify(segmenter.scores(scene.image), *scene.mask.shape)
            tallies[name][None].add(objects, label)
            for threshold in thresholds:
                tallies[name][threshold].add(scene.mask, np.where(probability < threshold, 0, label).astype(np.uint8))
    return tallies


def by_text(encoders: Encoders, line: tuple[Head, dict[str, Any]], shown: Sequence[Scene]) -> PixelTally:
    """The background as a class with texts of its own, instead of a threshold."""
    classes = [PLAIN, *shown[0].classes]
    segmenter, tally = encoders.segmenter(line[0], classes, **line[1]), PixelTally(classes)
    for scene in shown:
        encoders.kept.clear()
        tally.add(scene.mask, segmenter(scene.image))
    return tally


def baselines(shown: Sequence[Scene], frequent: int) -> dict[str, dict[str, Any]]:
    """A class drawn for every pixel; always the most frequent class (by pixels) of the scenes' truth."""
    classes = [BACKGROUND, *shown[0].classes]
    tallies = {(name, part): PixelTally(classes) for name in ("chance", "majority") for part in ("objects", "all")}
    rng = np.random.default_rng(0)
    for scene in shown:
        objects = np.where(scene.mask == 0, IGNORE, scene.mask).astype(np.uint8)
        for part, truth, least, usual in (("objects", objects, 1, frequent), ("all", scene.mask, 0, 0)):
            drawn = rng.integers(least, len(classes), truth.shape).astype(np.uint8)
            tallies["chance", part].add(truth, drawn)
            tallies["majority", part].add(truth, np.full_like(truth, usual))
    return {
        name: {part: summary(tallies[name, part]) for part in ("objects", "all")} for name in ("chance", "majority")
    }


def summary(tally: PixelTally) -> dict[str, Any]:
    found = tally.scores(bootstrap=1000)
    return {"metrics": found["metrics"], "ci95": found["ci95"], "per_category": found["per_category"]}


def miou(tally: PixelTally) -> float:
    return float(tally.scores(bootstrap=0)["metrics"]["miou"])


def heads(store: Path, demo: Path, layer: int) -> dict[str, tuple[Head, dict[str, Any]]]:
    """The lines of the table that differ in their head."""
    lines = {f"{pool}, closed form": (train(store, True, "cca", layer, pool), WHOLE) for pool in POOLS if pool != GRID}
    lines["cls+mean, freeze-align-pooled"] = (train(store, True, "freeze-align-pooled", layer, "cls+mean"), WHOLE)
    token = train(store, True, "freeze-align", layer, GRID)
    lines["token head, freeze-align"] = (token, WHOLE)
    lines["token head, its patches without the class token"] = (token, {**WHOLE, "cls": False})
    lines["unseen: mean, closed form"] = (train(store, False, "cca", layer, "mean"), WHOLE)
    lines["unseen: token head, freeze-align"] = (train(store, False, "freeze-align", layer, GRID), WHOLE)
    for name, seen in (("EfficientNet-Lite1", True), ("unseen: EfficientNet-Lite1", False)):
        lines[f"{name}, closed form"] = (train(demo, seen, "cca", None, "mean", CNN), {"size": 480})
    return lines


def measure(out: Path, demo: Path, test: int, val: int) -> None:
    encoders, store, began = Encoders(), out / "store", time.monotonic()
    shown = scenes("val", val)
    tried = {
        f"{layer}, {pool}": (train(store, True, "cca", layer, pool), WHOLE) for layer in LAYERS for pool in POOLS[:3]
    }
    layers = {name: miou(tallies[None]) for name, tallies in evaluate(encoders, tried, shown, ()).items()}
    print(layers, f"{time.monotonic() - began:.0f} s", flush=True)
    layer = int(max(layers, key=lambda name: layers[name]).partition(",")[0])
    lines = heads(store, demo, layer)
    tallies = evaluate(encoders, lines, shown, THRESHOLDS)
    print({name: round(miou(found[None]), 4) for name, found in tallies.items()}, f"{time.monotonic() - began:.0f} s")
    vit = [name for name, (head, _) in lines.items() if head.encoder == ENCODER and "unseen" not in name]
    best = max(vit, key=lambda name: miou(tallies[name][None]))
    head, how = lines[best]
    variants = {f"{best}; {name}": (head, {**how, **changes}) for name, changes in VARIANTS.items()}
    tallies |= evaluate(encoders, variants, shown, THRESHOLDS)
    lines |= variants
    threshold = {name: max(THRESHOLDS, key=lambda t: miou(found[t])) for name, found in tallies.items()}
    print("validated", best, f"{time.monotonic() - began:.0f} s", flush=True)

    final = scenes("test", test)
    found = evaluate(encoders, lines, final, sorted(set(threshold.values())))
    pixels = np.sum([np.bincount(scene.mask.ravel(), minlength=256) for scene in final], axis=0)
    rows = {name: row(lines[name], tallies[name], threshold[name], tally, found[best]) for name, tally in found.items()}
    winner = max(rows, key=lambda name: rows[name]["validation"])
    write_json(
        RESULTS,
        {
            "categories": dict(zip(("test", "val"), categories(), strict=True)),
            "scenes": {"test": test, "val": val, "pixels": PIXELS, "classes": len(final[0].classes)},
            "training": {name: len(training_ids(seen)) for name, seen in (("seen", True), ("unseen", False))},
            "layers": layers,
            "layer": layer,
            "best": best,
            "winner": winner,
            "background by text": summary(by_text(encoders, lines[winner], final)),
            "baselines": baselines(final, int(pixels[1:].argmax()) + 1),
            "rows": rows,
            "seconds": time.monotonic() - began,
        },
    )
    draw(demo)
    print(f"{time.monotonic() - began:.0f} s", flush=True)


def row(
    line: tuple[Head, dict[str, Any]],
    validated: dict[float | None, PixelTally],
    threshold: float,
    tested: dict[float | None, PixelTally],
    best: dict[float | None, PixelTally],
) -> dict[str, Any]:
    """A line of the table, for the page."""
    return {
        "encoder": line[0].encoder,
        "layer": line[0].layer,
        "options": line[1],
        "steps": line[0].trained.summary.get("steps"),
        "threshold": threshold,
        "validation": miou(validated[None]),
        "objects": summary(tested[None]),
        "all": summary(tested[threshold]),
        "difference": difference(tested[None], best[None]),
    }


def difference(a: PixelTally, b: PixelTally) -> dict[str, Any]:
    """mIoU of `a` minus that of `b` on the same draws of scenes."""
    both = np.stack([np.stack(a.areas), np.stack(b.areas)], axis=1)
    values, ci95 = estimate(
        lambda weights: np.array([np.subtract(*(_metrics(areas)[0] for areas in np.tensordot(weights, both, 1)))]),
        ["difference"],
        len(both),
        1000,
        0,
    )
    return {"value": values["difference"], "ci95": ci95["difference"]}


def page() -> None:
    """`docs/segmentation.md` between its markers: the table of the results, and what it says."""
    found = read_json(RESULTS)
    lines = [
        [name, row["options"].get("size"), _cell(row["objects"]), _cell(row["all"]), _against(row["difference"])]
        for name, row in found["rows"].items()
    ]
    for name, both in found["baselines"].items():
        lines.append([f"*{name}*", "", _cell(both["objects"]), _cell(both["all"]), ""])
    lines.append([f"{found['winner']}; background by its text", "", "", _cell(found["background by text"]), ""])
    headers = ["head and setting", "pixels", "mIoU, objects", "mIoU, with background", "− best ViT head, objects"]
    layers = [[name, f"{100 * value:.1f}"] for name, value in found["layers"].items()]
    text = PAGE.read_text(encoding="utf-8")
    facts = (
        f"{found['scenes']['test']} test scenes of {found['scenes']['pixels']} pixels, {found['scenes']['classes']} "
        f"categories; {found['scenes']['val']} validation scenes of other categories. {found['training']['seen']:,} "
        f"training and validation pairs, {found['training']['unseen']:,} without the categories. ViT layer "
        f"{found['layer']}; best ViT head on validation: {found['best']}.\n"
    )
    for name, body in (
        ("facts", facts),
        ("table", tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)),
        ("layers", tabulate(layers, headers=["layer, pooling", "validation mIoU, objects"], tablefmt="github")),
    ):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = text[: text.index(begin) + len(begin)] + "\n" + body + "\n" + text[text.index(end) :]
    PAGE.write_text(text, encoding="utf-8")


def _cell(scores: dict[str, Any]) -> str:
    low, high = scores["ci95"]["miou"]
    return f"{100 * scores['metrics']['miou']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _against(gain: dict[str, Any]) -> str:
    low, high = gain["ci95"]
    if low == high == 0:
        return ""
    return f"{100 * gain['value']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]" + (", tie" if low <= 0 <= high else "")


def longer(out: Path) -> None:
    """Add the token head trained with batches of 256, hence about seven times the steps, to the results."""
    found, encoders, began = read_json(RESULTS), Encoders(), time.monotonic()
    how = ["optim.batch=256", "optim.epochs=40"]
    head = train(out / "store", True, "freeze-align", found["layer"], GRID, overrides=how, seconds=100)
    print(head.trained.summary.get("epochs"), f"{time.monotonic() - began:.0f} s", flush=True)
    lines = {
        "token head, batches of 256": (head, WHOLE),
        "token head, batches of 256, without the class token": (head, {**WHOLE, "cls": False}),
    }
    tallies = evaluate(encoders, lines, scenes("val", found["scenes"]["val"]), THRESHOLDS)
    threshold = {name: max(THRESHOLDS, key=lambda t: miou(one[t])) for name, one in tallies.items()}
    best = found["best"]
    against = {best: (train(out / "store", True, "cca", found["layer"], best.partition(",")[0]), WHOLE)}
    final = evaluate(
        encoders, lines | against, scenes("test", found["scenes"]["test"]), sorted(set(threshold.values()))
    )
    for name, line in lines.items():
        found["rows"][name] = row(line, tallies[name], threshold[name], final[name], final[best])
    write_json(RESULTS, found)
    print(f"{time.monotonic() - began:.0f} s", flush=True)


def draw(demo: Path, count: int = 12) -> None:
    """The first test scenes, their truth, and on the objects' pixels the answer of the CNN's head."""
    head, final, size = train(demo, True, "cca", None, "mean", CNN), scenes("test", count), 220
    segmenter = Encoders().segmenter(head, [BACKGROUND, *final[0].classes], threshold=0.0, size=480)
    sheet = Image.new("RGB", (3 * (3 * size + 20), -(-count // 3) * (size + 20)), "white")
    for number, scene in enumerate(final):
        label = np.where(scene.mask == 0, 0, segmenter(scene.image)).astype(np.uint8)
        answers = (blend(scene.image, one, segmenter.classes) for one in (scene.mask, label))
        for i, picture in enumerate((scene.image, *answers)):
            place = number % 3 * (3 * size + 20) + i * size, number // 3 * (size + 20)
            sheet.paste(picture.resize((size, size), Image.Resampling.LANCZOS), place)
    sheet.quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["embed", "measure", "longer", "draw", "page"])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "segmentation_study")
    parser.add_argument(
        "--demo", type=Path, default=ROOT / "out" / "demo" / "store", help="the demo's store, for the CNN"
    )
    parser.add_argument("--test", type=int, default=60, help="test scenes (60)")
    parser.add_argument("--val", type=int, default=16, help="validation scenes (16)")
    options = parser.parse_args()
    if options.step == "embed":
        embed(options.out)
    elif options.step == "measure":
        measure(options.out, options.demo, options.test, options.val)
    elif options.step == "longer":
        longer(options.out)
    elif options.step == "draw":
        draw(options.demo)
    else:
        page()
