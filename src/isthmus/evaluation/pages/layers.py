"""The page of `isthmus eval MODEL layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.evaluation.layer_findings import LayerFindings, Look
from isthmus.evaluation.pages.layers_figures import by_kind, cosines, weights
from isthmus.metrics.results import Result
from isthmus.models.fusion_model import FusionModel
from isthmus.report import Picture, render_page, write_page

SHOWN = 224  # pixels of an example
GLOW = (255, 140, 0)


def write_report(found: LayerFindings, model: FusionModel, written: Result, path: Path) -> None:
    """Write the page. Raises `UsageError` where the extra `report` is not installed."""
    page = render_page(
        "isthmus.evaluation.pages",
        "layers.html.j2",
        command=f"isthmus eval {written['model']} layers {written['dataset']}",
        result=written,
        aggregator=model.network.plan.options.aggregator,
        encoders={side: model.records[side][0]["uri"].partition("?")[0] for side in SIDES},
        weights=weights(found.mixing, found.numbers),
        rows=_rows(found),
        adaptive=any(one.adaptive for listed in found.mixing.values() for one in listed),
        kinds=_kinds(found),
        cosines=cosines(found.cosine),
        looks=[_shown(look) for look in found.looks],
    )
    write_page(page, path)


def _rows(found: LayerFindings) -> list[dict[str, Any]]:
    """A line for each half and cross-modal layer."""
    rows = []
    for side, listed in found.mixing.items():
        for place, one in enumerate(listed, 1):
            best = int(np.argmax(one.mean))
            told = {"side": side, "place": place, "best": found.numbers[side][best], "share": float(one.mean[best])}
            spreads = {"samples": float(one.sample_spread.max()), "tokens": float(one.token_spread.max())}
            rows.append(told | spreads | {"entropy": one.entropy, "adaptive": one.adaptive})
    return rows


def _kinds(found: LayerFindings) -> dict[str, str]:
    """For each half, where the last cross-modal layer chooses by sample: its mean weights by kind of question."""
    kinds = np.array(found.kinds)
    names = sorted(set(found.kinds) - {""})
    figures = {}
    for side, listed in found.mixing.items():
        last = listed[-1]
        if last.adaptive and len(names) > 1:
            shares = {name: last.samples[kinds == name].mean(0) for name in names}
            figures[side] = by_kind(shares, found.numbers[side], side)
    return figures


def _shown(look: Look) -> dict[str, Any]:
    right = max(look.asked.scores, key=look.asked.scores.__getitem__, default="")
    return {
        "picture": Picture(look.picture, look.asked.question),
        "glow": Picture(glowing(look.picture, look.map), look.asked.question),
        "question": look.asked.question,
        "answer": look.answer,
        "probability": look.probability,
        "right": right,
        "correct": look.answer in look.asked.scores,
    }


def glowing(picture: Image.Image, attention: np.ndarray) -> Image.Image:
    """The picture in grey, with what is looked at glowing: attention [side, side], relative to its largest value."""
    base = picture.convert("L").convert("RGB").resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    base = Image.blend(base, Image.new("RGB", base.size, (255, 255, 255)), 0.35)
    above = np.clip(attention - np.median(attention), 0, None)
    strength = (210 * above / max(float(above.max()), 1e-9)).astype(np.uint8)
    mask = Image.fromarray(strength).resize(base.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", base.size, GLOW), base, mask)
