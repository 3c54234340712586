"""Train two projectors on cached features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.locking import alone
from isthmus.projectors import Head
from isthmus.projectors.ridge import Modality
from isthmus.training.ensemble import set_beside
from isthmus.training.processes import Processes
from isthmus.training.progress import Progress, deferred_interrupt
from isthmus.training.recipe import Recipe
from isthmus.training.run import Run


@dataclass
class Trained:
    """What `train_projectors` returns.

    image_projector, text_projector: modules in eval mode on the CPU, [N, D] -> [N, width], not normalised.
    scale, bias: the inverse temperature, and the sigmoid loss's bias (None for InfoNCE).
    recipe: the recipe in force, as a dict. summary: what ran, with every deviation from the recipe.
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
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = True,
    max_seconds: float | None = None,
    progress: bool = False,
    log: Sequence[str] = (),
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
    frozen: Modality | None = None,
) -> Trained:
    """Train an image and a text projector on cached features; the features are only read.

    One epoch visits every caption once, with its image: an image with five captions is seen five times, or, where
    the recipe's `optim.unit` is "images", once with all of them. The
    order and the dropout of a step are pure functions of the seed and the step, so that a resumed run ends in
    the same bits as one that was never interrupted (same machine, same number of threads and processes). On another
    machine it goes on too, and warns that the last bits may differ; with losses compiled in one of the two only, or
    with another number of processes, it is refused.

    Under `torchrun` each process computes its part of every batch, every row meets all negatives, and the first
    process writes; `out` must be a folder that all of them see.

    Args:
        train: pairs to train on.
        val: pairs that early stopping and the best epoch are judged by; without any, training goes to the
            end. The state before the first step is judged too, as epoch 0.
        recipe: from `load_recipe`; resolved here for the number of training pairs (captions).
        out: folder for `history.jsonl` and `checkpoint/`. None keeps all in memory and cannot resume.
        seed: of weights, order and dropout, 0 or more.
        resume: go on from the checkpoint in `out`; False starts anew.
        max_seconds: stop this call after so long. The schedule stays that of all epochs; the summary says
            where it stopped, and a later call goes on from there.
        progress: a bar on a terminal, plain lines elsewhere.
        log: "tensorboard" and/or "wandb", besides the history; each is an extra.
        device: default: the GPU when there is one, else the CPU.
        frozen: "image" or "text": the features of this side are embeddings (unit rows) of a space that exists, and
            only the other side's projector is trained, onto them. The frozen side's projector is then the identity.
        checkpoint_seconds: time between checkpoints; one is also written at the end and at Ctrl-C.

    Raises:
        InputError: fewer than two pairs; another process that trains into `out`; a checkpoint in `out` that is
            damaged or of another run (the message says what differs).
        UsageError: a recipe that asks for what the projectors cannot do, or a tracker that is not installed.
        IsthmusError: a loss that is not finite; names the step and what to try.
        KeyboardInterrupt: Ctrl-C, after the checkpoint is written.
    """
    if seed < 0:
        raise UsageError(f"seed = {seed}: seeds are 0 or more.")
    if len(train.image_of) < 2:
        raise InputError(f"Training needs at least 2 pairs, got {len(train.image_of)}: there is nothing to contrast.")
    with _alone_in(out), torch.random.fork_rng(), deferred_interrupt() as interrupt:
        began = saved = time.monotonic()
        run = Run(train, val, recipe, out=Path(out) if out else None, seed=seed, device=device, frozen=frozen)
        run.start(resume, log)
        seconds_before = run.state.seconds
        with Progress(
            progress and run.processes.first, total=run.recipe.optim.epochs * run.plan.units, done=run.seen()
        ) as shown:
            while not run.finished():
                late = max_seconds is not None and time.monotonic() - began >= max_seconds
                if run.processes.any(late or interrupt.pressed, run.device):
                    break
                pairs = run.step()
                run.record()
                now = time.monotonic()
                run.state.seconds = seconds_before + now - began
                shown.advance(pairs, run.note())
                if now - saved >= checkpoint_seconds:
                    run.save()
                    saved = now
        run.save()
        if run.processes.any(interrupt.pressed, run.device):
            raise KeyboardInterrupt
        run.judge_last()
        returned, joined = set_beside(run.returned(), train, run.val, run.recipe, frozen)
        if joined:
            run.append(joined["validation"] | {"scale": returned[2]})
        return Trained(*returned, run.recipe.to_dict(), run.summary() | joined, run.history.records)


def _alone_in(out: str | Path | None) -> AbstractContextManager[None]:
    """Held by the process that writes: two runs would take each other's checkpoints for their own."""
    if out is None or not Processes().first:
        return nullcontext()
    return alone(Path(out) / "checkpoint", "training into this folder")
