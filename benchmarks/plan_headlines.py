"""The commands for both papers' headline runs, with their bytes, hours and memory computed from arguments.

    python benchmarks/plan_headlines.py --out docs/reproduce.md

Nothing is run but the counting of the operations of heads. Pairs, captions, tokens, the speed of a GPU and the share
of it that is reached are arguments. `isthmus embed --dry-run` and `isthmus train --dry-run` give the same kinds of
numbers for data that is at hand, timed on the machine at hand.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from isthmus.models.ledger import head_flops
from isthmus.training import load_recipe
from isthmus.training.contrastive.joint import build_projectors
from isthmus.training.order import batch_slices

STATES = {"adamw": 4, "lion": 3}  # weights, gradients and the optimizer's own, in float32


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder: parameters, tokens of one item, width, layers, and how many vectors of it are stored."""

    name: str
    parameters: float
    tokens: int
    width: int
    layers: int
    stored: int

    @property
    def flops(self) -> float:
        """Of one item, forward: two per weight and token, and the two products of attention."""
        return 2 * self.parameters * self.tokens + 4 * self.layers * self.tokens**2 * self.width

    def bytes(self, items: float) -> float:
        """Of features in float16, with the 16 bytes of each item's key."""
        return items * (2 * self.width * self.stored + 16)


@dataclass(frozen=True)
class Run:
    """A headline run: its recipe, how many images and captions, and the encoders."""

    recipe: str
    images: float
    captions: float
    image: Encoder
    text: Encoder

    def plan(self, flops_per_hour: float) -> dict[str, Any]:
        """Everything that follows from the sizes. hours: of one GPU. memory: of the heads' training."""
        recipe = load_recipe(self.recipe).resolve(int(self.captions))
        parts = [[side.width] * side.stored for side in (self.image, self.text)]
        pairs: Any = SimpleNamespace(image_parts=parts[0], text_parts=parts[1], modality=str)
        assert isinstance(recipe.head.width, int)
        with torch.device("cpu" if self.image.stored > 2 else "meta"):  # token heads count their tokens as they run
            heads = build_projectors(recipe.head, pairs, recipe.head.width)
        units = self.captions if recipe.optim.unit == "pairs" else self.images
        steps = len(batch_slices(int(units), recipe.optim.batch)) * recipe.optim.epochs
        seen = self.captions * recipe.optim.epochs
        step = head_flops(*heads) + 6 * recipe.optim.batch * recipe.head.width
        parameters = sum(p.numel() for head in heads for p in head.parameters())
        batch = recipe.optim.batch * 4 * (sum(map(sum, parts)) + 2 * recipe.head.width)
        encode = self.images * self.image.flops, self.captions * self.text.flops
        return {
            "parameters": parameters,
            "batch": recipe.optim.batch,
            "unit": recipe.optim.unit,
            "epochs": recipe.optim.epochs,
            "steps": steps,
            "pairs_seen": seen,
            "image_bytes": self.image.bytes(self.images),
            "text_bytes": self.text.bytes(self.captions),
            "image_hours": encode[0] / flops_per_hour,
            "text_hours": encode[1] / flops_per_hour,
            "train_hours": seen * step / flops_per_hour,
            "live_hours": recipe.optim.epochs * encode[0] / flops_per_hour,
            "memory": STATES[recipe.optim.name] * 4 * parameters + batch,
        }


def runs(args: argparse.Namespace) -> dict[str, Run]:
    """Both papers' sizes, as given."""
    dino = {"parameters": 304e6, "tokens": 257, "width": 1024, "layers": 24}
    roberta = {"parameters": 303e6, "tokens": args.fa_tokens, "width": 1024, "layers": 24}  # without its vocabulary
    arl = Encoder("all-roberta-large-v1", **roberta, stored=77)
    nv = Encoder("NV-Embed-v2", 7.1e9, args.sail_tokens, 4096, 32, stored=1)
    captions = args.sail_pairs * args.sail_captions
    return {
        "patches": Run("freeze-align", args.fa_pairs, args.fa_pairs, Encoder("DINOv2-L", **dino, stored=257), arl),
        "grid16": Run("freeze-align", args.fa_pairs, args.fa_pairs, Encoder("DINOv2-L", **dino, stored=17), arl),
        "pooled": Run(
            "freeze-align-pooled",
            args.fa_pairs,
            args.fa_pairs,
            Encoder("DINOv2-L", **dino, stored=2),
            Encoder("all-roberta-large-v1", **roberta, stored=1),
        ),
        "sail": Run("sail", args.sail_pairs, captions, Encoder("DINOv2-L", **dino, stored=2), nv),
    }


TITLES = {
    "patches": "freeze-align, every token stored",
    "grid16": "freeze-align, 4 × 4 averages of the patches",
    "pooled": "freeze-align-pooled",
    "sail": "SAIL",
}


def table(plans: dict[str, dict[str, Any]]) -> str:
    """A column for each run."""
    rows = {
        "trained parameters": lambda p: f"{p['parameters']:,}",
        "batch × steps (epochs)": lambda p: f"{p['batch']:,} {p['unit']} × {p['steps']:,} ({p['epochs']})",
        "pairs seen": lambda p: f"{p['pairs_seen'] / 1e6:,.0f} million",
        "image features on disk": lambda p: size(p["image_bytes"]),
        "text features on disk": lambda p: size(p["text_bytes"]),
        "encoding images, GPU hours": lambda p: f"{p['image_hours']:,.0f}",
        "encoding captions, GPU hours": lambda p: f"{p['text_hours']:,.0f}",
        "training heads, GPU hours": lambda p: f"{p['train_hours']:,.1f}",
        "images encoded anew every epoch (`--pixels`), GPU hours": lambda p: f"{p['live_hours']:,.0f}",
        "GPU memory of the heads' training, at least": lambda p: size(p["memory"]),
    }
    lines = ["| | " + " | ".join(TITLES[name] for name in plans) + " |", "|---|" + "---:|" * len(plans)]
    return "\n".join(
        [*lines, *(f"| {name} | " + " | ".join(map(cell, plans.values())) + " |" for name, cell in rows.items())]
    )


def size(value: float) -> str:
    return f"{value / 1e12:,.1f} TB" if value >= 1e12 else f"{value / 1e9:,.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fa-pairs", type=float, default=20e6)
    parser.add_argument("--fa-tokens", type=int, default=24, help="of a caption, on average, as encoded")
    parser.add_argument("--sail-pairs", type=float, default=23e6)
    parser.add_argument("--sail-captions", type=float, default=2, help="of an image: raw, and recaptioned")
    parser.add_argument("--sail-tokens", type=int, default=60)
    parser.add_argument("--tflops", type=float, default=312, help="of the GPU in bf16 (312: A100)")
    parser.add_argument("--reached", type=float, default=0.35, help="share of it that is reached")
    parser.add_argument("--out", type=Path, help="write the page there (default: print the table)")
    args = parser.parse_args()
    per_hour = 3600e12 * args.tflops * args.reached
    plans = {name: run.plan(per_hour) for name, run in runs(args).items()}
    if args.out is None:
        print(table(plans))
        return
    page = (Path(__file__).parent / "reproduce.md.in").read_text(encoding="utf-8")
    given = {name: getattr(args, name) for name in ("fa_tokens", "sail_captions", "sail_tokens", "tflops", "reached")}
    hours = args.fa_pairs / 300 / 3600
    filled = page.format(plan=table(plans), fa=args.fa_pairs / 1e6, sail=args.sail_pairs / 1e6, decoding=hours, **given)
    args.out.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
