"""Run as a program, FOLDER STRIKE EVERY CASE…: what `faults` strikes, on toys. Prints the number of strikes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import faults
import isthmus as ist
import isthmus.store
from isthmus.curation import report
from isthmus.curation.curated import SELECTED
from isthmus.curation.output import MANIFEST
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError
from isthmus.files import locate, read_sealed
from isthmus.store import stream
from isthmus.training import checkpoint
from store_cases import IMAGE, OTHER, TEXT, snapshot, write
from toys import pixel_encoder, word_encoder, write_pairs

INCIDENTAL = ("seconds", "pairs_per_second")


def embed(root: Path) -> dict[str, Any]:
    """A new store; `embed_more` adds images and an encoder to one."""
    pairs = ist.read_pairs(write_pairs(root / "data", copies=1))
    ids = pairs.images["id"].to_pylist()
    few, more = pairs.subset(ids[:5]), pairs.subset(ids[:9])
    return {
        "start": lambda path: ist.embed(few, pixel_encoder(), word_encoder(), out=path),
        "work": lambda path: ist.embed(more, [pixel_encoder(), pixel_encoder("2")], word_encoder(), out=path),
        "content": store_content,
        "files": snapshot,
    }


def store(root: Path) -> dict[str, Any]:
    """The same at the level of the writer, with images that were skipped."""
    first, more = ["a", "b", "c"], ["a", "b", "c", "d"]
    skipped = (("z", "not an image"),)
    return {
        "start": lambda path: write(path, first, (IMAGE, TEXT), captions_each=1),
        "work": lambda path: write(path, more, (IMAGE, OTHER, TEXT), captions_each=1, skipped=skipped),
        "content": store_content,
        "files": snapshot,
    }


def store_content(path: Path) -> dict[str, Any]:
    """All a reader can see, whichever shard holds a row."""
    opened = ist.store.open_store(path, verify=True)
    seen: dict[str, Any] = {name: getattr(opened, name).to_pylist() for name in ("images", "captions", "skipped")}
    for one in opened.encoders:
        matrix = opened.features(one["modality"], one["fingerprint"])
        seen[one["fingerprint"]] = matrix.gather(range(len(matrix))).tolist()
    assert {row["id"] for row in seen["captions"]} <= {row["id"] for row in seen["images"]}
    return seen


def train(root: Path) -> dict[str, Any]:
    """A model with a checkpoint after every step; `train_over` puts another in its place."""
    draws = np.random.default_rng(0)
    pairs, val = (
        FeaturePairs.from_arrays(
            *draws.normal(size=(2, rows, 6)).astype(np.float32), image_encoder=[RECORD], text_encoder=[RECORD]
        )
        for rows in (12, 6)
    )
    settings = ["head.width=4", "optim.batch=6", "optim.epochs=1", "stop.restore_best=true"]

    def model(path: Path, seed: int, **options: Any) -> None:
        ist.train(
            pairs, val=val, recipe="linear", overrides=settings, out=path, seed=seed, checkpoint_seconds=0, **options
        )

    return {
        "start": lambda path: (model(path, 0), checkpoint.clear(path / "checkpoint")),
        "work": lambda path: model(path, 1, resume=not (path / "config.json").exists() or resumable(path)),
        "content": model_content,
    }


RECORD = {"uri": "callable:normal", "fingerprint": "0" * 64, "width": 6, "modality": "image", "parts": [6]}


def resumable(path: Path) -> bool:
    """Whether the new run has begun: its checkpoint is there."""
    return (path / "checkpoint" / "state.json").exists()


def model_content(path: Path) -> Any:
    model = ist.DualEncoder.from_pretrained(path, load=False)
    weights = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    return weights, model.scale, lasting(model.summary)


def lasting(found: Any) -> Any:
    """Without what no two runs share, at any depth."""
    if not isinstance(found, dict):
        return found
    return {key: lasting(value) for key, value in found.items() if key not in INCIDENTAL}


def curate(root: Path) -> dict[str, Any]:
    """A selection of arrays; `curate_over` makes another of a smaller quota."""
    draws = np.random.default_rng(0)
    features = draws.normal(size=(40, 6)).astype(np.float32)
    ids = [f"image {row}" for row in range(40)]
    pool = FeaturePairs.from_arrays(features, features, ids=ids, captions=ids)
    report.histogram = lambda *arguments: ""  # drawing takes a second, and writes nothing

    def select(path: Path, quota: int) -> None:
        ist.curate(pool, "auto:3", out=path, per_concept=quota, keep=20)

    return {
        "start": lambda path: select(path, 6),
        "work": lambda path: select(path, 3),
        "content": selection_content,
    }


def selection_content(path: Path) -> Any:
    selected, manifest = (locate(path, name) for name in (SELECTED, MANIFEST))
    if not selected.exists():
        raise InputError(f"{path}: nothing selected yet")
    rows = pq.read_table(selected).to_pylist()
    told = read_sealed(manifest)
    assert told["selected"] == len(rows), "the manifest is of another selection"
    return rows, {key: value for key, value in told.items() if key not in INCIDENTAL}


CASES = {"store": store, "embed": embed, "train": train, "curate": curate}


def main(root: Path, strike: str, every: int, cases: list[str]) -> None:
    os.fsync = lambda handle: None  # the disk itself does not fail here, and waiting for it is slow
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    strikes = 0
    for case in cases:
        name, _, over = case.partition("_")
        stream.SHARD_BYTES = 24 if name == "store" else 2048  # several shards
        made = CASES[name](root / case)
        made |= {} if over else {"start": None}
        strikes += faults.check_boundaries(root / case / "runs", getattr(faults, strike), every, **made)
    print(strikes)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
