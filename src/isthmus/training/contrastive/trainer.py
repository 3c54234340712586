"""Train two projectors on cached features."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.matrix import check_varies
from isthmus.encoders.modality import Modality
from isthmus.projectors import Head
from isthmus.projectors.closed_form import max_width
from isthmus.training.contrastive.ensemble import set_beside
from isthmus.training.contrastive.joint import build_projectors
from isthmus.training.contrastive.locked_head import build_free
from isthmus.training.contrastive.objective import ContrastiveObjective
from isthmus.training.contrastive.recipe import ContrastiveRecipe
from isthmus.training.contrastive.refit import refit
from isthmus.training.contrastive.views import check_views
from isthmus.training.fit import Fitting, alone_in, fit


@dataclass
class Trained:
    """What `train_projectors` returns.

    image_projector, text_projector: modules in eval mode on the CPU, [N, D] -> [N, width], not normalised.
    scale, bias: the inverse temperature, and the sigmoid loss's bias (None for InfoNCE).
    recipe: the effective recipe, as a dict. summary: what ran, with every deviation from the recipe; where it has
    `refit`, the projectors are of this second fit on all pairs, and the validation numbers of the first.
    history: the records of `history.jsonl`.
    """

    image_projector: Head
    text_projector: Head
    scale: float
    bias: float | None
    recipe: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]


def train_projectors(
    train: FeaturePairs,
    val: FeaturePairs | None,
    recipe: ContrastiveRecipe,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = True,
    max_seconds: float | None = None,
    progress: bool | None = None,
    log: Sequence[str] = (),
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
    max_epochs: float | None = None,
    frozen: Modality | None = None,
) -> Trained:
    """Train an image and a text projector on cached features; the features are only read.

    One epoch visits every caption once, with its image: an image with five captions is seen five times, or, where the
    recipe's `optim.unit` is "images", once with all of them. The order and the dropout of a step are pure functions of
    the seed and the step, so that a resumed run ends in the same bits as one that was never interrupted (same machine,
    same number of threads and processes). On another machine it continues too, with a warning that the last bits may
    differ. It is refused if losses are compiled in only one of the two runs, or with another number of processes.

    Under `torchrun` each process computes its part of every batch, every row meets all negatives, and the first
    process writes; `out` must be a folder that all of them see.

    Args:
        train: pairs to train on.
        val: validation pairs for early stopping and the best epoch; without any, training runs to the end. The state
            before the first step is judged too, as epoch 0.
        recipe: from `load_recipe`; resolved here for the number of training pairs (captions).
        out: folder for `history.jsonl` and `checkpoint/`; `refit/` has those of a second fit. None keeps all in
            memory and cannot resume.
        seed: of weights, order and dropout, 0 or more.
        resume: go on from the checkpoint in `out`; False starts anew.
        max_seconds: stop this call after this time. The schedule stays that of all epochs. The summary says where it
            stopped, and a later call continues from there; a refit comes only after the end.
        max_epochs: stop this call after so many epochs, likewise.
        progress: a bar on a terminal or in a notebook, plain lines elsewhere; None: in a notebook alone.
        log: "tensorboard" and/or "wandb", besides the history; each is an extra.
        device: default: the GPU when there is one, else the CPU.
        frozen: "image" or "text": the features of this side are embeddings (unit rows) of an existing space, and only
            the other side's projector is trained, to match them. The frozen side's projector is then the identity.
        checkpoint_seconds: time between checkpoints; one is also written at the end and at Ctrl-C.

    Raises:
        InputError: fewer than two pairs; another process that trains into `out`; a checkpoint in `out` that is
            damaged or of another run (the message says what differs).
        UsageError: a recipe with options that the projectors do not have, or a tracker that is not installed.
        IsthmusError: a loss that is not finite; names the step and what to try.
        KeyboardInterrupt: Ctrl-C, after the checkpoint is written.
    """
    for side, matrix in zip(SIDES, (train.image, train.text), strict=True):
        if not hasattr(matrix, "identity"):  # images that are encoded while training are not checked before
            check_varies(side, matrix)
    objective = ContrastiveObjective(train, val, frozen)
    folder, began = None if out is None else Path(out), time.monotonic()
    how = Fitting(folder, seed, resume, max_seconds, progress, log, device, checkpoint_seconds, max_epochs)
    with alone_in(folder), torch.random.fork_rng():
        run = fit(objective, recipe, how)
        run.finish()
        returned, joined = set_beside(objective.result(), train, objective.val, run.plan.recipe, frozen)
        if joined:
            run.append(joined["validation"] | {"scale": returned[2]})
        summary = run.summary() | joined
        if run.plan.recipe.stop.refit:
            left = max_seconds and max(0.0, max_seconds - (time.monotonic() - began))
            again = refit(run, returned, joined.get("beside"), dataclasses.replace(how, max_seconds=left))
            returned = again.fitted if again else returned
            summary |= {"refit": again.facts, "ledger": again.cost} if again else {}
        return Trained(*returned, run.recipe.to_dict(), summary, run.history.records)


def plan_training(
    train: FeaturePairs, val: FeaturePairs | None, recipe: ContrastiveRecipe, *, frozen: Modality | None = None
) -> dict[str, Any]:
    """What `train_projectors` would do with the same arguments; reads no features.

    Returns the effective recipe, counts of pairs, images and validation pairs, batch, steps, parameters (for a width of
    "auto": at most), and deviations from the recipe.
    """
    objective = ContrastiveObjective(train, val, frozen)
    plan = objective.planned(recipe)
    head, held = plan.recipe.head, 0 if val is None else len(val.image_of)
    check_views(head, train, frozen)
    width = max_width(head.init, train) if head.width == "auto" else head.width
    with torch.device("meta"):
        projectors = build_projectors(head, train, width) if frozen is None else [build_free(head, train, frozen)]
    return {
        "recipe": plan.recipe.to_dict(),
        "pairs": objective.items,
        "images": len(train),
        "validation_pairs": held,
        "refit_pairs": objective.items + held if held and plan.recipe.stop.refit else 0,
        "batch": plan.batch,
        "steps": plan.steps,
        "parameters": sum(param.numel() for projector in projectors for param in projector.parameters()),
        "deviations": plan.deviations(),
    }
