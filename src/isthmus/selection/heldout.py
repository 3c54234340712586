"""Retrieval on held-out pairs after a fit on training pairs: closed forms, and the trained probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.evaluation.retrieval import Ranks, ranks
from isthmus.projectors import Projector
from isthmus.projectors.closed_form import KINDS, Side, Spectra, fit
from isthmus.training import load_recipe, train_projectors
from isthmus.training.validation import project


class ClosedForms:
    """Ranks by CCA, ridge and Procrustes for many encoder pairs; the spectrum of an encoder is computed once.

    Ridge 0.1 and power 1 throughout: a search would look at the validation pairs that the score is measured on.
    """

    def __init__(self) -> None:
        self.sides: dict[tuple[str, str], Side] = {}

    def ranks(self, train: FeaturePairs, val: FeaturePairs, image: str, text: str) -> dict[str, Ranks]:
        """Ranks of `val` by kind. image, text: what to remember the encoders' spectra under.

        Raises `InputError` for fewer than 10 training pairs.
        """
        known = self.sides.get(("image", image)), self.sides.get(("text", text))
        spectra = Spectra.of(train, *known)
        self.sides |= {("image", image): spectra.image, ("text", text): spectra.text}
        projectors = {kind: fit(kind, train, spectra=spectra).to_projectors() for kind in KINDS}
        return {kind: _ranks(*both, val) for kind, both in projectors.items()}


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


def _ranks(image: Projector, text: Projector, val: FeaturePairs) -> Ranks:
    cpu = torch.device("cpu")
    return ranks(project(image, val.image, cpu), project(text, val.text, cpu), val.image_of)
