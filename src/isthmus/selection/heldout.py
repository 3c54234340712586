"""Retrieval on held-out pairs after a fit on training pairs: closed forms, and the trained probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.metrics.retrieval import Ranks, ranks
from isthmus.projectors.closed_form import KINDS, Spectra, Spectrum, choose, fit, max_width
from isthmus.projectors.projector import project
from isthmus.training import load_recipe, train_projectors

RIDGES = (0.1, 1.0)  # few, because with a few hundred held-out pairs a choice among many would be luck


class ClosedForms:
    """Ranks by CCA, ridge and Procrustes for many encoder pairs; the spectrum of each encoder is computed once.

    Ridge and width are chosen inside the training pairs, on a fifth of their groups, then all training pairs are
    fitted. Validation pairs are only for measuring.
    """

    def __init__(self) -> None:
        self.sides: dict[tuple[str, str], Spectrum] = {}

    def ranks(self, train: FeaturePairs, val: FeaturePairs, image: str, text: str) -> dict[str, Ranks]:
        """Ranks of `val` by kind. image, text: keys under which the encoders' spectra are kept.

        Raises `InputError` for fewer than 10 training pairs.
        """
        held = held_out(train.bootstrap_group)
        fitted, judged = train.subset(~held), train.subset(held)
        inner, whole = (self._spectra(pairs, part, image, text) for part, pairs in (("fit", fitted), ("all", train)))
        found = {}
        for kind in KINDS:
            best = choose(kind, fitted, judged, ridges=RIDGES, powers=(1.0,), spectra=inner).settings
            width = min(int(best["width"]), max_width(kind, train))
            form = fit(kind, train, width=width, ridge=best["ridge"], power=best["power"], spectra=whole)
            found[kind] = _ranks(*form.to_projectors(), val)
        return found

    def forget(self, name: str) -> None:
        """Drop an encoder that no further pair needs: a spectrum has D × D numbers."""
        self.sides = {key: side for key, side in self.sides.items() if key[1] != name}

    def _spectra(self, pairs: FeaturePairs, part: str, image: str, text: str) -> Spectra:
        keys = (f"image {part}", image), (f"text {part}", text)
        spectra = Spectra.of(pairs, *(self.sides.get(key) for key in keys))
        self.sides |= dict(zip(keys, (spectra.image, spectra.text), strict=True))
        return spectra


def held_out(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """bool [n]: the items of a random fifth of the groups, at least one."""
    every = np.unique(groups)
    chosen = np.random.default_rng(seed).permutation(every)[: max(1, len(every) // 5)]
    return np.isin(groups, chosen)


def probe(
    train: FeaturePairs,
    val: FeaturePairs,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    recipe: str | Path = "probe",
    overrides: Sequence[str] = (),
) -> list[Ranks]:
    """SAIL's alignment probe: LayerNorm and a linear map per side, trained by the sigmoid loss; ranks per seed.

    Nothing is chosen on `val`: the last epoch counts. `recipe` and `overrides` as in `load_recipe`; the packaged
    recipe's header says how it deviates from the paper.
    """
    chosen = load_recipe(recipe, overrides)
    trained = [train_projectors(train, None, chosen, seed=seed) for seed in seeds]
    return [_ranks(one.image_projector, one.text_projector, val) for one in trained]


def _ranks(image: nn.Module, text: nn.Module, val: FeaturePairs) -> Ranks:
    cpu = torch.device("cpu")
    return ranks(project(image, val.image, cpu), project(text, val.text, cpu), val.image_of)
