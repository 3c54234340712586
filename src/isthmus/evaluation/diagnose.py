"""The task `diagnose`: gap, hubs, calibration and leaks, as numbers in one dictionary and plots on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import SIDES
from isthmus.data.matrix import evenly
from isthmus.data.pairs import Pairs
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.diagnosis.audit import audit, recall_by_novelty
from isthmus.evaluation.diagnosis.findings import Findings
from isthmus.evaluation.inputs import (
    Data,
    Embedded,
    Given,
    embed_for_evaluation,
    label_classes,
    named,
    opened,
)
from isthmus.evaluation.pages.diagnosis import write_report
from isthmus.evaluation.tasks import Prompts, task
from isthmus.metrics.bootstrap import estimate
from isthmus.metrics.calibration import softmax_confidence
from isthmus.metrics.geometry import hubness, modality_gap, occurrences, pair_distances, uniformity
from isthmus.metrics.nearest import top_k
from isthmus.metrics.results import Result, result
from isthmus.metrics.scores import group_vector
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store import Store
from isthmus.store.opening import holds_features, read_first

SPREAD = 20_000  # rows on which uniformity is measured, which compares all with all

DEFINITION = (
    "gap = ‖mean image − mean caption‖ over pairs (Liang et al. 2022); cone = mean cosine of two items of a modality. "
    "alignment = mean ‖x − y‖² of pairs, uniformity = log mean exp(−2‖x − y‖²) of a modality (Wang and Isola 2020). "
    "hub = of the k-occurrences of images among captions' k nearest (image_…), and of captions among images' (text_…): "
    "skewness, share never found (antihubs). ece = expected calibration error, 15 bins, of the probability of the "
    "first answer: softmax over all candidates at the model's scale (sigmoid of the pair's logit where it was trained "
    "with one). abstain = least score to answer at for the precision wanted, chosen on half of the groups, measured on "
    "the other. seen = images that are also in the training data. ci95 = 95 % intervals over groups of images "
    "(docs/intervals.md)."
)


@task(primary=None)
def diagnose(
    model: Given,
    data: Data,
    *,
    against: Pairs | Store | str | Path | None = None,
    report: str | Path | None = None,
    precision: float = 0.9,
    k: int = 10,
    near: float = 0.95,
    classes: str | Path | Sequence[str] | None = None,
    templates: Prompts | None = None,
    split: str | None = None,
    only: str | Path | Sequence[str] | None = None,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """What may be wrong with a joint space: gap, hubs, spread, calibration, and evaluation data that are not new.

    The labels' calibration is measured where the images have labels and the model's encoders are loaded, which a store
    alone needs only for `classes` and `templates`.

    Args:
        against: pairs or a store that the model was trained from: evaluated images that are also among those of them
            that trained the model are counted.
        precision: the share of right answers wanted of the threshold below which the model abstains (0.9).
        k: of the k-occurrences (10).
        near: the least cosine, of encoder features, at which an image counts as one of the training data's (0.95).
    """
    data = read_first(data, columns=columns, images=images, pages=pages, range=range)
    _check(precision, k, near, against)
    cached = holds_features(data) and (against is None or holds_features(against))
    model, name = opened(model, encoders=not cached or classes is not None or templates is not None)
    embedded = embed_for_evaluation(model, data, split=split, only=only, seed=seed, unseen=unseen)
    if len(embedded.text) < 2 or len(embedded.image) < 2:
        raise InputError("A diagnosis needs at least two images and two captions.")
    found = Findings(embedded, k=k, precision=precision)
    resampling = {"bootstrap": bootstrap, "seed": seed}
    _geometry(found, embedded, resampling)
    _answers(found, model, embedded, resampling)
    if model.encoders and any(embedded.labels or []):
        _labels(found, model, embedded, classes, templates or "default", resampling)
    if against is not None:
        found.audit = audit(model, data, against, split=split, ids=embedded.image_ids, near=near)
        _novelty(found, embedded, resampling)
    about = {"definition": DEFINITION, "skipped": embedded.skipped, "notes": embedded.notes}
    plain = found.to_dict() | embedded.seen | about | resampling
    written = result(plain, dataset=named(data), model=name, task="diagnose")
    if report is not None:
        write_report(found, written, Path(report))
    return written


def _check(precision: float, k: int, near: float, against: Any) -> None:
    """Refuse what cannot work, before anything is computed."""
    if not 0 < precision <= 1:
        raise UsageError(f"precision={precision}: a share of right answers, in (0, 1].")
    if not 0 < near <= 1:
        raise UsageError(f"near={near}: the least cosine of near-duplicates lies in (0, 1].")
    if k < 1:
        raise UsageError(f"k={k}: occurrences among the k nearest need at least one.")
    if isinstance(against, str | Path) and not Path(against).exists():
        raise InputError(f"{against}: no such file or folder.")


def _geometry(found: Findings, embedded: Embedded, resampling: dict[str, int]) -> None:
    """Gap, alignment and uniformity."""
    found.metrics |= modality_gap(embedded.image, embedded.text, embedded.image_of)
    distance = found.distances = pair_distances(embedded.image, embedded.text, embedded.image_of)
    unit = group_vector(embedded.groups, len(embedded.image), "groups")[embedded.image_of]

    def alignment(weights: np.ndarray) -> np.ndarray:
        return np.array([np.average(distance, weights=weights[unit])])

    found.add(*estimate(alignment, ["alignment"], int(unit.max()) + 1, *resampling.values()))
    for side in SIDES:
        emb = getattr(embedded, side)
        some = evenly(len(emb), SPREAD)
        found.metrics[f"{side}_uniformity"] = uniformity(emb[some])


def _answers(found: Findings, model: DualEncoder, embedded: Embedded, resampling: dict[str, int]) -> None:
    """Both directions of retrieval: how often each item is found, and how well confidence matches accuracy."""
    image, text, owner = embedded.image, embedded.text, embedded.image_of
    captioned = np.unique(owner)
    to_image, to_text = top_k(text, image, found.k), top_k(image[captioned], text, found.k)
    for side, (_, index) in zip(SIDES, (to_image, to_text), strict=True):
        found.counts[side] = occurrences(index, len(getattr(embedded, side)))
        hubs = hubness(found.counts[side], len(index), index.shape[1])
        found.metrics |= {f"{side}_hub_{name}": value for name, value in hubs.items()}
    directions = (
        ("image_retrieval", text, image, to_image, to_image[1][:, 0] == owner, owner),
        ("text_retrieval", image[captioned], text, to_text, owner[to_text[1][:, 0]] == captioned, captioned),
    )
    for name, queries, candidates, (scores, _), right, image_of in directions:
        best = scores[:, 0]
        sure = _probability(model, queries, candidates, best)
        found.judge(name, sure, best, right, embedded.groups[image_of], image_of, resampling)


def _probability(model: DualEncoder, queries: Any, items: Any, best: np.ndarray) -> np.ndarray:
    """The probability that the first answer is right, by the loss the model was trained with."""
    if model.bias is not None:
        return 1 / (1 + np.exp(-(model.scale * best.astype(np.float64) + model.bias)))
    return softmax_confidence(queries, items, best, model.scale)


def _labels(
    found: Findings, model: DualEncoder, embedded: Embedded, classes: Any, templates: Any, resampling: dict[str, int]
) -> None:
    """Calibration of the softmax over the classes in zero-shot classification."""
    rows, truth, _, class_emb, _ = label_classes(model.encode_text, embedded, classes, templates)
    scores, index = top_k(embedded.image[rows], class_emb, 1)
    sure = softmax_confidence(embedded.image[rows], class_emb, scores[:, 0], model.scale)
    found.judge("zeroshot", sure, scores[:, 0], index[:, 0] == truth, embedded.groups[rows], rows, resampling)


def _novelty(found: Findings, embedded: Embedded, resampling: dict[str, int]) -> None:
    """How many of the images training has seen, and R@1 of seen and unseen ones."""
    assert found.audit is not None
    seen_ids = found.audit.seen()
    seen = np.array([name in seen_ids for name in embedded.image_ids])
    found.metrics["seen_share"] = float(seen.mean())
    both = [found.judged[name] for name in ("image_retrieval", "text_retrieval")]
    hits, owners = [one.right for one in both], [one.image_of for one in both]
    found.add(*recall_by_novelty(hits, owners, seen, embedded.groups, *resampling.values()))
