"""Which layers of its encoders a model that fuses reads, when, and where a text looks in its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.asked import Asked, AskedQuestions
from isthmus.data.pairs import read_pairs
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.asking import GivenFusion, opened_fusion
from isthmus.evaluation.datasets.asked_sets import read_asked
from isthmus.evaluation.layer_findings import LayerFindings, look_at
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result

DEFINITION = (
    "For each cross-modal layer, the mean weight of each layer of an encoder over texts and tokens; entropy of a "
    "token's weights as a share of the largest there is (1: all layers alike); spread over samples, the standard "
    "deviation of their means, and over tokens, within a sample: both are 0 where weights are learned once. cosine: of "
    "what enters a cross-modal layer with what enters the next, of the last with what it gives; mean over real tokens."
)


@task(primary=None)
def layers(
    model: GivenFusion,
    data: AskedQuestions | str | Path,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    limit: int = 200,
    report: str | Path | None = None,
) -> Result:
    """Which layers of its encoders a model that fuses reads, and where a question looks.

    Args:
        limit: the most pictures to look at.
    """
    loaded, name = opened_fusion(model, "mixing layers")
    if limit < 1:
        raise UsageError(f"limit={limit}: look at one picture or more.")
    questions = questions_or_captions(data, split, images)
    found = look_at(loaded, questions, limit)
    scores: dict[str, Any] = {
        "metrics": _metrics(found),
        "layers": {side: [one.to_dict() for one in listed] for side, listed in found.mixing.items()},
        "layer_numbers": found.numbers,
        "cosine": found.cosine,
        "n": {"texts": found.asked},
        "definition": DEFINITION,
        "skipped": found.skipped,
    }
    written = result(scores, dataset=questions.name, model=name, task="layer_mixing")
    if report is not None:
        from isthmus.evaluation.pages.layers import write_report

        write_report(found, loaded, written, Path(report))
    return written


def questions_or_captions(
    data: AskedQuestions | str | Path, split: str | None, images: str | Path | None
) -> AskedQuestions:
    """Questions, or pairs, whose captions stand for them."""
    try:
        return read_asked(data, split=split, images=images)
    except InputError:
        if isinstance(data, AskedQuestions):
            raise
    pairs = read_pairs(data, split=split, images=images)
    rows = pairs.captions.select(["id", "caption"]).to_pylist()
    return AskedQuestions(pairs, [Asked(row["id"], row["caption"], {}) for row in rows], str(data))


def _metrics(found: LayerFindings) -> dict[str, float]:
    metrics = {}
    for side, listed in found.mixing.items():
        metrics[f"{side}_entropy"] = float(np.mean([one.entropy for one in listed]))
        metrics[f"{side}_sample_spread"] = float(np.mean([one.sample_spread.mean() for one in listed]))
        metrics[f"{side}_token_spread"] = float(np.mean([one.token_spread.mean() for one in listed]))
        metrics[f"{side}_cosine"] = float(np.mean(found.cosine[side]))
    return metrics
