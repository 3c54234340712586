"""All scores of one encoder pair and of single encoders, each with its interval and its value by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import evenly
from isthmus.metrics.probing import KS, knn_correct, linear_probe_correct
from isthmus.metrics.retrieval import Ranks
from isthmus.selection.asif import asif
from isthmus.selection.candidates import Candidate, pairs_of
from isthmus.selection.cka import Kernel, cka_influence, gaussian_floor, null_deviation, null_mean
from isthmus.selection.heldout import ClosedForms, probe
from isthmus.selection.neighbors import overlap, permuted
from isthmus.selection.sides import RBF_ITEMS, EncoderSample, item_features
from isthmus.selection.uncertainty import Draws, chance_recall, ci95, permutation_null

PROBE, FALLBACK = "probe_recall@10", "cca_recall@10"
CUTOFFS = (1, 5, 10)
PERMUTATIONS = 20

# Definitions of the scores, as in the report and select.json.
DEFINITIONS = {
    "cka_biased": "linear CKA, biased, as freeze-align computes it: its floor grows with width and falls with n",
    "cka": "linear CKA, unbiased: 0 for features that have nothing to do with each other",
    "rbf_cka": f"CKA with Gaussian kernels at the median distance, unbiased, on at most {RBF_ITEMS:,} images",
    "mutual_knn": "mean share of an image's nearest neighbours that are its caption's too, k = ⌈2 n^⅓⌉",
    "cca_recall@10": "held-out R@10 of regularised CCA; ridge and width chosen inside the training pairs",
    "ridge_recall@10": "held-out R@10 of ridge regression from images to texts",
    "procrustes_recall@10": "held-out R@10 of the rotation between both",
    "asif_recall@10": "held-out R@10 of ASIF: similarities to the training pairs as features",
    "probe_recall@10": "held-out R@10 of SAIL's alignment probe (LayerNorm + linear, sigmoid loss), mean of the seeds",
}
LABELS = {
    "cka_biased": "CKA, biased",
    "cka": "CKA",
    "rbf_cka": "CKA, RBF",
    "mutual_knn": "mutual k-NN",
    "cca_recall@10": "CCA R@10",
    "ridge_recall@10": "ridge R@10",
    "procrustes_recall@10": "Procrustes R@10",
    "asif_recall@10": "ASIF R@10",
    "probe_recall@10": "probe R@10",
}


@dataclass
class Score:
    """value: the score. ci95: bootstrap over groups. floor: the score of unrelated features: Gaussians of the same
    widths and number. null: mean and standard deviation when pairs are permuted. more: recalls at other cut-offs, or
    seeds. replicates: the value in every draw."""

    value: float
    floor: float
    null: Mapping[str, float | None]
    replicates: np.ndarray = field(default_factory=lambda: np.empty(0))
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, kept: dict[str, Any], draws: int) -> Score:
        """From its fields as JSON; TypeError, ValueError or LookupError where that is no score of `draws` draws."""
        replicates = np.array(kept["replicates"], np.float64)
        if replicates.shape != (draws,):
            raise ValueError(f"{replicates.shape} replicates, not {draws}")
        null = {name: None if kept["null"][name] is None else float(kept["null"][name]) for name in ("mean", "sd")}
        return cls(float(kept["value"]), float(kept["floor"]), null, replicates, dict(kept["more"]))

    def to_dict(self) -> dict[str, Any]:
        fields = {"value": self.value, "ci95": ci95(self.replicates), "floor": self.floor, "null": dict(self.null)}
        return fields | self.more


@dataclass
class PairScorer:
    """Scores pairs on the same items and the same draws. sample: the items of training-free scores. train, val: the
    pairs that held-out scores are fitted to and measured on.
    """

    sample: FeaturePairs
    train: FeaturePairs
    val: FeaturePairs
    seeds: Sequence[int]
    bootstrap: int
    seed: int

    def __post_init__(self) -> None:
        self.few = evenly(len(self.sample), RBF_ITEMS)
        groups = self.sample.bootstrap_group
        self.sample_draws = Draws(groups, self.bootstrap, self.seed)
        self.few_draws = Draws(groups[self.few], self.bootstrap, self.seed)
        self.val_draws = Draws(self.val.bootstrap_group, self.bootstrap, self.seed)
        self.closed_forms = ClosedForms()

    def pair(self, image: EncoderSample, text: EncoderSample) -> dict[str, Score]:
        """Every score of one pair by name."""
        train, val = (pairs_of(part, image.candidate, text.candidate) for part in (self.train, self.val))
        found = self.similarities(image, text)
        for kind, ranks in self.closed_forms.ranks(train, val, image.name, text.name).items():
            found[f"{kind}_recall@10"] = self.recall([ranks])
        found["asif_recall@10"] = self.recall([asif(train, val)])
        if self.seeds:
            found[PROBE] = self.recall(probe(train, val, seeds=self.seeds))
        return found

    def similarities(self, image: EncoderSample, text: EncoderSample) -> dict[str, Score]:
        """The training-free scores."""
        n = len(self.sample)
        k = image.neighbors.shape[1]
        shared = overlap(image.neighbors, text.neighbors)
        null = permutation_null(
            lambda order: float(overlap(image.neighbors, permuted(text.neighbors, order)).mean()),
            n, PERMUTATIONS, self.seed,
        )  # fmt: skip
        linear, rbf = (self.sample_draws, image.linear, text.linear), (self.few_draws, image.rbf, text.rbf)
        return {
            "cka_biased": _cka(*linear, unbiased=False, floor=gaussian_floor(n, image.width, text.width)),
            "cka": _cka(*linear),
            "rbf_cka": _cka(*rbf),
            "mutual_knn": Score(float(shared.mean()), k / (n - 1), null, self.sample_draws.means(shared)),
        }

    def recall(self, ranks: Sequence[Ranks]) -> Score:
        """Recall@10 with its interval; also recall at the other cut-offs, and for each seed."""
        value, replicates = self.val_draws.recall(ranks, 10)
        chance = chance_recall(ranks[0], 10)
        deviation = (chance * (1 - chance) / (2 * len(ranks[0].image))) ** 0.5  # of independent queries
        by_seed = [[float(np.mean([side.mean() for side in one.hits(k)])) for one in ranks] for k in CUTOFFS]
        more: dict[str, Any] = {f"recall@{k}": float(np.mean(v)) for k, v in zip(CUTOFFS, by_seed, strict=True)}
        if len(ranks) > 1:
            more["seeds"] = by_seed[-1]
        return Score(value, chance, {"mean": chance, "sd": deviation}, replicates, more)

    def unimodal(self, candidate: Candidate) -> dict[str, Any] | None:
        """k-NN and linear-probe accuracy of one encoder, with intervals; None without labels on both sides."""
        parts = [labelled(part) for part in (self.train, self.val)]
        if any(len(rows) == 0 for rows, _ in parts) or len(np.unique(parts[0][1])) < 2:
            return None
        (rows, labels), (held, truth) = parts
        x, y = item_features(candidate, self.train)[rows], item_features(candidate, self.val)[held]
        ks = [k for k in KS if k <= len(rows)] or [len(rows)]
        correct = {f"knn@{k}": hit for k, hit in knn_correct(x, labels, y, truth, ks=ks).items()}
        groups = self.train.bootstrap_group[rows]
        correct["linear"] = linear_probe_correct(x, labels, y, truth, groups=groups, seed=self.seed)
        draws = Draws(self.val.bootstrap_group[held], self.bootstrap, self.seed)
        found: dict[str, Any] = {
            name: {"value": float(hit.mean()), "ci95": ci95(draws.means(hit.astype(np.float64)))}
            for name, hit in correct.items()
        }
        return found | {"n": {"train": len(rows), "val": len(held), "classes": len(np.unique(labels))}}


def check_unimodal(found: Any) -> None:
    """TypeError or LookupError unless `found` is what `Scorer.unimodal` gives."""
    if found is None:
        return
    if set(found["n"]) != {"train", "val", "classes"} or "linear" not in found:
        raise LookupError("n, linear")
    for one in (found[name] for name in found if name != "n"):
        float(one["value"]), one["ci95"]


def labelled(part: FeaturePairs) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the images that have a label, and the labels: int64 [n], str [n]."""
    found = [(row, label) for row, label in enumerate(part.labels or ()) if label]
    return np.array([row for row, _ in found], np.int64), np.array([label for _, label in found], str)


def _cka(draws: Draws, image: Kernel, text: Kernel, *, unbiased: bool = True, floor: float = 0.0) -> Score:
    value, influence = cka_influence(image, text, unbiased=unbiased)
    null = {"mean": null_mean(image, text, unbiased=unbiased), "sd": null_deviation(image.n) if unbiased else None}
    return Score(value, floor, null, value + draws.means(influence))
