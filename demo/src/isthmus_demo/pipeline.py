"""The demo, step by step: pack → store → five models → table, results.json, report.html."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from isthmus.api import train
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.splits import SPLITS
from isthmus.embedding import embed
from isthmus.encoders import Encoder, load_encoders
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError
from isthmus.files import read_cached, read_sealed, write_json, write_sealed
from isthmus.index import build_index, is_index, open_index
from isthmus.index.identity import model_fingerprint
from isthmus.metrics import results as results_file
from isthmus.models.dual_encoder import DualEncoder
from isthmus.report import Picture
from isthmus.store import Store, open_store
from isthmus.training import load_recipe
from isthmus.version import __version__
from isthmus_demo import PAIRS, first_look, pack
from isthmus_demo.measure import (
    Measured,
    TextFeatures,
    best_images,
    chance,
    confident_mistakes,
    difference,
    labelled,
    measure,
)
from isthmus_demo.report import Mistake, Report, Search, write_report
from isthmus_demo.results import Curve, SystemResult
from isthmus_demo.segments import Scenes, segments

# The best single one of the packaged, layers and poolings included, on the validation split, as
# benchmarks/encoder_choice.py found; two side by side are better still, but take longer than a demo should.
IMAGE_ENCODERS = ["wheel:efficientnet-lite1"]
TEXT_ENCODER = "wheel:minilm-l6"
RECIPES = ("cca", "linear", "freeze-align-pooled", "sail", "default")
# Published schedules are for millions of pairs: SAIL's 100 epochs of one batch end here before its warm-up has begun.
# Both run as trials on 4,000 pairs chose (benchmarks/results/recipe_study.json), and are named so.
SCALED = {
    "freeze-align-pooled": "optim.epochs=30 optim.batch=512 optim.warmup=0.1 optim.weight_decay=0.1",
    "sail": "optim.epochs=30 optim.batch=1024 optim.lr=1e-4 optim.weight_decay=0.01 loss.bias='auto'"
    " loss.normalize='batch'",
}
NAMES = {
    "freeze-align-pooled": "freeze-align, schedule scaled to the data",
    "sail": "SAIL, schedule scaled to the data",
}
NO_SUBJECT = {"computer icon"}  # a purpose of drawings (arrows, drinks, locks), not a class
MAIN = "default"  # the recipe whose model is kept, searched with and compared to
MAX_SECONDS, LEAST_SECONDS = 240.0, 5.0  # of training for each recipe, on all pairs and on a few: for slow machines
QUERIES = (  # written with the captions' subjects in view, before any result was seen; none is a caption
    "a pet dog",
    "a birthday cake",
    "a boat on the water",
    "a woman's face",
    "a musical instrument with strings",
    "something cold to drink in summer",
    "an insect that makes honey",
    "a piece from a game of chess",
    "decorations for Christmas",
    "the flag of an African country",
    "watch out, danger ahead",
    "a hat that keeps the sun off",
)
HITS, MISTAKES = 6, 12
BESIDE = "cca"  # the recipe that `isthmus serve` compares it with
NOTE = "demo.json"  # beside a finished model: its data, settings and training time

Say = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """The results of a run: the facts of the report, the records of results.json, what was skipped."""

    report: Report
    records: list[results_file.Result]
    skipped: list[tuple[str, str]]


class Stages:
    """Times the steps of a run, and logs when each begins."""

    def __init__(self, log: Say) -> None:
        self.log, self.began = log, time.monotonic()
        self.done: list[tuple[str, float]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        self.log(f"[{start - self.began:6.1f} s] {name}")
        yield
        self.done.append((name, time.monotonic() - start))


def run_demo(
    out: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    data: str | Path | None = None,
    image: Sequence[str | Encoder] = tuple(IMAGE_ENCODERS),
    text: str | Encoder = TEXT_ENCODER,
    command: str = "isthmus demo",
    log: Say = lambda line: None,
    progress: bool = False,
) -> Demo:
    """Write `store/`, `models/`, `model/` (of `default`), `index/`, `index-cca/`, `results.json` and `report.html` into
    `out`; of many pictures first a slice, with a model in `first/` and `first-look.png`.

    Features, and models whose data and recipe are unchanged, that `out` holds already are not computed again.

    Args:
        out: folder for everything.
        limit: use at most so many pictures, in whole groups of near-duplicates, and scale the training time.
        seed: of training and of the bootstraps; the pack has its own split.
        data: another table of pairs, with split and label columns; default the packaged one.
        image, text: encoders; several image encoders stand side by side.
        command: as quoted in the report. log: called with a line as each step begins.

    Raises:
        InputError: data without labels or without one of the splits.
        OfflineError: an encoder is not in the cache and cannot be fetched.
    """
    out, stages = Path(out), Stages(log)
    pairs, max_seconds = chosen_pairs(data, limit)
    classes = class_names(pairs)
    with stages("load the encoders"):
        images, texts = load(image, "image"), load([text], "text")
    features = TextFeatures(texts[0])
    look_first(pairs, images, texts, features, out, seed, stages, progress)
    with stages(f"embed {len(pairs):,} pictures and {len(pairs.captions):,} captions"):
        skipped = embed(pairs, images, texts, out=out / "store", progress=progress).skipped
    store = open_store(out / "store")
    splits = feature_splits(store, pairs, images, texts)
    models = train_all(store, splits, out, seed, max_seconds, stages)
    indexed(models, images, texts, pairs, store, out, stages)
    with stages("evaluate on the test split"):
        measured = {name: measure(m, splits["test"], classes, features, seed) for name, m in models.items()}
        records = list(result_records(measured, [*images, *texts], command))
        write_json(out / "results.json", records)
    scenes = composed_scenes(models[MAIN], images, texts, seed, stages) if data is None else None
    log("           write the report")
    searches, mistakes = pictures(pairs, splits["test"], models[MAIN], measured[MAIN], classes, features)
    report = Report(
        command=command,
        machine=machine(),
        data=pack.DESCRIPTION,
        encoders=[encoder.record() for encoder in (*images, *texts)],
        stages=stages.done,
        results=results(models, measured, out / "models", splits["test"], seed),
        max_seconds=max_seconds,
        confusion=measured[MAIN].zeroshot["confusion"],
        searches=searches,
        mistakes=mistakes,
        scenes=scenes,
        **facts(splits, classes),
    )
    write_report(report, out / "report.html")
    return Demo(report, records, skipped)


def facts(splits: Mapping[str, FeaturePairs], classes: list[str]) -> dict[str, Any]:
    """The report's facts about the data."""
    return {
        "splits": {name: counts(split) for name, split in splits.items()},
        "chance": chance(splits["test"], len(classes)),
        "captions_with_class": pack.share_with_class(splits["train"].captions or [], classes),
        "classes": classes,
    }


def composed_scenes(
    model: DualEncoder, images: Sequence[Encoder], texts: Sequence[Encoder], seed: int, stages: Stages
) -> Scenes | None:
    """Scenes made of the pack's own drawings, segmented; None with an encoder that gives no patches."""
    if not all(encoder.pools for encoder in images):
        return None
    with stages("segment scenes composed of test pictures"):
        return segments(model, images, texts, seed)


# --- data ---------------------------------------------------------------------------------------------------


def chosen_pairs(data: str | Path | None, limit: int | None) -> tuple[Pairs, float]:
    """The pairs of the run, and the seconds each recipe may train on them."""
    pairs = read_pairs(data or PAIRS)
    if limit is None:
        return pairs, MAX_SECONDS
    some = pairs.subset(pack.some_groups(pairs.images, limit))
    return some, max(LEAST_SECONDS, MAX_SECONDS * len(some) / len(pairs))


def load(encoders: Sequence[str | Encoder], modality: Modality) -> list[Encoder]:
    """Load encoders given by URI; others are returned as they are."""
    loaded = iter(load_encoders([e for e in encoders if isinstance(e, str)], modality=modality))
    return [next(loaded) if isinstance(e, str) else e for e in encoders]


def feature_splits(
    store: Store, pairs: Pairs, images: Sequence[Encoder], texts: Sequence[Encoder]
) -> dict[str, FeaturePairs]:
    """The three splits of `pairs`; other content of the store is ignored."""
    readable = pairs.images["id"].filter(pc.is_in(pairs.images["id"], value_set=store.images["id"].combine_chunks()))
    image, text = ([encoder.fingerprint for encoder in encoders] for encoders in (images, texts))
    return {split: store.pairs(split, image, text, only=readable.to_pylist()) for split in SPLITS}


def class_names(pairs: Pairs) -> list[str]:
    """The labels that occur, in any split, and name a subject: the classes an image may be given."""
    names = sorted(set(pairs.images["label"].drop_null().to_pylist()) - NO_SUBJECT)
    if not names:
        raise InputError(f"{pairs.path}: no image has a label; the demo classifies them.")
    return names


def counts(pairs: FeaturePairs) -> dict[str, int]:
    """Images and groups of near-duplicates."""
    return {"images": len(pairs), "groups": len(set(pairs.bootstrap_group.tolist()))}


# --- training -----------------------------------------------------------------------------------------------


def look_first(
    pairs: Pairs,
    images: Sequence[Encoder],
    texts: Sequence[Encoder],
    features: TextFeatures,
    out: Path,
    seed: int,
    stages: Stages,
    progress: bool,
) -> None:
    """Of many pictures a slice embedded into the store, a model of them in `first/`, and what it finds; once."""
    if len(pairs) <= 2 * first_look.PICTURES or (out / first_look.SHEET).exists():
        return
    some = pairs.subset(pack.some_groups(pairs.images, first_look.PICTURES))
    with stages(f"for a first look, embed {len(some):,} of {len(pairs):,} pictures"):
        embed(some, images, texts, out=out / "store", progress=progress)
    store = open_store(out / "store")
    splits = feature_splits(store, some, images, texts)
    model = trained(store, splits, first_look.RECIPE, out / "first", seed, LEAST_SECONDS, stages.log)
    stages.log(first_look.show(out, model, pairs, splits["test"], features))


def train_all(
    store: Store, splits: Mapping[str, FeaturePairs], out: Path, seed: int, max_seconds: float, stages: Stages
) -> dict[str, DualEncoder]:
    """The model of every recipe, in `models/`; that of `default` also in `model/`."""
    models = {}
    for recipe in RECIPES:
        with stages(f"train {NAMES.get(recipe, recipe)}"):
            models[recipe] = trained(store, splits, recipe, out / "models" / recipe, seed, max_seconds, stages.log)
    models[MAIN].save_pretrained(out / "model")
    return models


def indexed(
    models: Mapping[str, DualEncoder],
    images: Sequence[Encoder],
    texts: Sequence[Encoder],
    pairs: Pairs,
    store: Store,
    out: Path,
    stages: Stages,
) -> None:
    """Indexes of the pictures for `isthmus serve`: of the model that is kept, and of one to compare it with."""
    with stages("index the pictures for `isthmus serve`"):
        for recipe, name in ((MAIN, "index"), (BESIDE, f"index-{BESIDE}")):
            folder, model = out / name, models[recipe].with_encoders(image=images, text=texts)
            if is_index(folder) and open_index(folder).model["fingerprint"] != model_fingerprint(model):
                shutil.rmtree(folder)  # of an earlier run's model
            build_index(model, pairs, out=folder, store=store, text_graph=recipe == MAIN, progress=False)


def trained(
    store: Store,
    splits: Mapping[str, FeaturePairs],
    recipe: str,
    folder: Path,
    seed: int,
    max_seconds: float,
    log: Say,
) -> DualEncoder:
    """The model of `recipe`: the one in `folder` if data, recipe, seed and time are still the same."""
    overrides = SCALED.get(recipe, "").split()
    identity = {
        "isthmus": __version__,
        "recipe": load_recipe(recipe, overrides).resolve(len(splits["train"].image_of)).to_dict(),
        "data": {name: digest(store, splits[name]) for name in ("train", "val")},
        "seed": seed,
        "max_seconds": max_seconds,
    }
    note = folder / NOTE
    known = read_cached(note) or {}
    if known.get("identity") == identity and isinstance(known.get("seconds"), float):
        log(f"           as before, in {folder}")
        return DualEncoder.from_pretrained(folder, load=False)
    note.unlink(missing_ok=True)
    start = time.monotonic()
    model = train(
        store,
        image=fingerprints(splits["train"].image_encoder),
        text=fingerprints(splits["train"].text_encoder),
        only=[*splits["train"].image_ids, *splits["val"].image_ids],
        recipe=recipe,
        overrides=overrides,
        out=folder,
        seed=seed,
        max_seconds=max_seconds,
        resume=False,
    )
    write_sealed(note, {"identity": identity, "seconds": time.monotonic() - start})
    return model


def digest(store: Store, pairs: FeaturePairs) -> str:
    """Fingerprint of what training sees: encoders, images and captions by content, and which belong together."""
    images = rows_of(store.images, "id", pairs.image_ids).select(["id", "content_hash", "group"])
    captions = rows_of(store.captions, "caption_id", pairs.caption_ids).select(["caption_id", "content_hash"])
    encoders = fingerprints([*pairs.image_encoder, *pairs.text_encoder])
    content = json.dumps([encoders, images.to_pydict(), captions.to_pydict()])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def fingerprints(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fingerprints of these encoders."""
    return [record["fingerprint"] for record in records]


def rows_of(table: pa.Table, column: str, values: Sequence[str]) -> pa.Table:
    """The rows of `table` whose `column` is among `values`."""
    return table.filter(pc.is_in(table[column], value_set=pa.array(values, pa.string())))


# --- results ------------------------------------------------------------------------------------------------


def result_records(
    measured: Mapping[str, Measured], encoders: Sequence[Encoder], command: str
) -> Iterator[results_file.Result]:
    """Two records for each recipe, as CLIP_benchmark writes them."""
    model = " ".join(str(encoder.uri) for encoder in encoders)
    for recipe, found in measured.items():
        named = {"model": model, "pretrained": NAMES.get(recipe, recipe)}
        origin = {"dataset": "isthmus-demo/test", **named, "command": command}
        yield results_file.result(found.retrieval, task="zeroshot_retrieval", **origin)
        yield results_file.result(found.zeroshot, task="zeroshot_classification", **origin)


def results(
    models: Mapping[str, DualEncoder],
    measured: Mapping[str, Measured],
    folder: Path,
    test: FeaturePairs,
    seed: int,
) -> list[SystemResult]:
    """The rows of the table."""
    found = []
    for recipe, model in models.items():
        own, seconds = measured[recipe], read_sealed(folder / recipe / NOTE)["seconds"]
        found.append(
            SystemResult(
                recipe=NAMES.get(recipe, recipe),
                training=in_words(model.summary),
                planned=model.summary["epochs_planned"],
                seconds=seconds,
                parameters=model.summary["parameters"],
                metrics=own.retrieval["metrics"] | own.zeroshot["metrics"],
                ci95=own.retrieval["ci95"] | own.zeroshot["ci95"],
                curve=curve(folder / recipe / "history.jsonl", model.summary["seconds"], seconds),
                difference=None if recipe == MAIN else difference(own.ranks, measured[MAIN].ranks, test, seed),
            )
        )
    return found


def in_words(summary: Mapping[str, Any]) -> str:
    """How far training got, in words."""
    if not summary["epochs_planned"]:
        return "closed form"
    text = summary["stopped"] or f"all {summary['epochs_planned']} epochs"
    if "time limit" in text and summary["epochs"] < summary["epochs_planned"] / 2:
        text += ": too early to judge it by"
    kept = summary["returned_epoch"]
    return text if kept == summary["epochs"] else f"{text}; epoch {kept:g} kept"


def curve(path: Path, stepping: float, seconds: float) -> Curve:
    """The validation records of a run's history.

    Their times follow from the run's mean speed: of all its `seconds`, `stepping` went into epochs, after preparations
    such as a closed form.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    judged = [line for line in map(json.loads, lines) if "val_recall@1" in line]
    epochs = [line["epoch"] for line in judged]
    pace = stepping / epochs[-1] if epochs[-1] else 0.0
    times = [seconds - stepping + pace * epoch for epoch in epochs]
    return Curve(times, epochs, [line["val_recall@1"] for line in judged])


def pictures(
    pairs: Pairs,
    test: FeaturePairs,
    model: DualEncoder,
    measured: Measured,
    classes: Sequence[str],
    features: TextFeatures,
) -> tuple[list[Search], list[Mistake]]:
    """The pictures in the report: searches, and the most confident mistakes."""
    source = {id: row for row, id in enumerate(pairs.images["id"].to_pylist())}
    captions = dict(zip(test.image_of.tolist(), test.captions or (), strict=True))

    def picture(row: int) -> Picture:
        return Picture(pairs.decode(source[test.image_ids[row]]), captions.get(row, ""))

    found = best_images(model.project("text", features(QUERIES)), measured.image, HITS)
    searches = [
        Search(query, [(picture(row), score) for row, score in hits])
        for query, hits in zip(QUERIES, found, strict=True)
    ]
    rows, labels = labelled(test, classes)
    wrong = confident_mistakes(model, measured.image[rows], measured.classes, labels, MISTAKES)
    mistakes = [Mistake(picture(int(rows[i])), classes[labels[i]], classes[j], p) for i, j, p in wrong]
    return searches, mistakes


def machine() -> str:
    """The processor and the versions that the times depend on."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        info = []
    named = (line.partition(":")[2].strip() for line in info if line.startswith("model name"))
    processor = next(named, "") or platform.processor() or platform.machine()
    return (
        f"{processor}; {os.cpu_count()} cores, of which torch used {torch.get_num_threads()}; "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
