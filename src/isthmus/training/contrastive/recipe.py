"""The sections of contrastive recipes: two heads, the loss between them, the optimizer and the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from isthmus.errors import did_you_mean
from isthmus.losses import LOSSES
from isthmus.training.recipe import OptimOptions, Recipe, StopOptions
from isthmus.values import within


@dataclass(frozen=True)
class HeadOptions:
    """The two projectors.

    `width` "auto": the closed form's best on held-out pairs. `expand` None: the kind's own, unless `budget`,
    the parameters of each, sets it. `init`: start from a closed form. `beside`: after training, a closed form is added
    to the trained head as an ensemble, in the proportion that is best on held-out pairs. `norm`: a LayerNorm on each
    part of the features, such as CLS and the mean of patches ("layer"), one over all of them ("whole"), or none.
    """

    image: str = "linear"
    text: str = "linear"
    width: int | Literal["auto"] = within(512, 1)
    expand: float | None = within(None, 1e-6)
    budget: int | None = within(None, 1)
    dropout: float = within(0.0, 0, 0.99)
    norm: Literal["layer", "whole", "none"] = "layer"
    init: Literal["random", "cca", "ridge", "procrustes"] = "random"
    beside: Literal["none", "cca", "ridge", "procrustes"] = "none"


@dataclass(frozen=True)
class LossOptions:
    """The loss; `name`: one of `losses.LOSSES`.

    `scale` is 1 / temperature at the start ("auto": the closed form's best on held-out pairs); `learn` its
    logarithm ("log"), the temperature itself ("raw"), or neither.
    `positives`: a caption's own image ("pair"), also equal images and captions ("equal"), or also the
    near-duplicates that the data groups together ("group"). `bias` and `normalize` are the sigmoid loss's.
    `matryoshka`: widths below the head's at which the first dimensions alone must work too; the losses of these
    prefixes and of the whole are summed (Kusupati et al., NeurIPS 2022, arXiv:2205.13147).
    """

    name: str = "infonce"
    scale: float | Literal["auto"] = within(1 / 0.07, 1e-3, 1e4)
    learn: Literal["log", "raw", "no"] = "log"
    min_scale: float = within(1.0, 1e-3, 1e4)
    max_scale: float = within(100.0, 1e-3, 1e4)
    bias: float | Literal["auto"] = "auto"
    normalize: Literal["batch", "pairs"] = "batch"
    positives: Literal["pair", "equal", "group"] = "equal"
    matryoshka: tuple[int, ...] = within((), 1)


@dataclass(frozen=True)
class ContrastiveOptim(OptimOptions):
    """The optimizer, and the unit of a batch. `unit`: "pairs" of a caption and its image, or "images", each with all of
    its captions, which are then positives of one image and no negatives (SAIL)."""

    unit: Literal["pairs", "images"] = "pairs"


@dataclass(frozen=True)
class ContrastiveStop(StopOptions):
    """Validation, and what follows. `refit`: once all is chosen on the validation pairs (best epoch, the closed form's
    settings, scale, share), fit again on training and validation pairs together, with the same choices and steps."""

    refit: bool = False


@dataclass(frozen=True)
class DataOptions:
    """The encoder's input. `augment` "crop": a random part of each picture, flipped half of the time, every time anew;
    only where images are encoded while training (`PixelFeatures`)."""

    augment: Literal["none", "crop"] = "none"


@dataclass(frozen=True)
class ContrastiveRecipe(Recipe):
    """All choices of a contrastive run."""

    objective: ClassVar[str] = "contrastive"
    sections: ClassVar[tuple[str, ...]] = ("head", "loss", "optim", "stop", "data")

    head: HeadOptions = HeadOptions()
    loss: LossOptions = LossOptions()
    optim: ContrastiveOptim = ContrastiveOptim()
    stop: ContrastiveStop = ContrastiveStop()
    data: DataOptions = DataOptions()

    def identity(self) -> dict[str, Any]:
        """The refit is a run of its own."""
        values = super().identity()
        return values | {"stop": {name: value for name, value in values["stop"].items() if name != "refit"}}

    def conflicts(self) -> Iterator[str]:
        """Choices that are valid alone but contradict each other."""
        head, loss, optim = self.head, self.loss, self.optim
        if head.budget is not None and head.expand is not None:
            yield "head.budget and head.expand both fix the size; give one."
        if optim.epochs == 0 and head.init == "random":
            yield 'optim.epochs = 0 leaves a random head; set head.init = "cca", "ridge" or "procrustes".'
        if head.init == "random":
            for key, value in (("head.width", head.width), ("loss.scale", loss.scale)):
                if value == "auto":
                    yield f'{key} = "auto" is taken from a closed form; set head.init, or give a number.'
        if head.width == "auto" and (head.image, head.text, head.norm) != ("linear", "linear", "layer"):
            yield 'head.width = "auto" needs linear heads with norm = "layer"; give a number.'
        if any(":" in kind for kind in (head.image, head.text)) and (head.init != "random" or head.beside != "none"):
            yield 'closed forms are of pooled features: token heads need head.init = "random" and head.beside = "none".'
        if head.beside != "none" and (loss.name, head.norm) != ("infonce", "layer"):
            yield 'head.beside needs loss.name = "infonce", by which the scale of both is set, and head.norm = "layer".'
        yield from _prefix_conflicts(head, loss)
        if self.data.augment != "none" and (head.init != "random" or head.beside != "none"):
            yield 'data.augment changes features from step to step: a closed form needs data.augment = "none".'
        if loss.name not in LOSSES.names():
            yield f"no loss {loss.name!r}.{did_you_mean(loss.name, LOSSES.names())}"
        if loss.min_scale > loss.max_scale:
            yield f"loss.min_scale = {loss.min_scale:g} is above loss.max_scale = {loss.max_scale:g}."
        elif loss.scale != "auto" and not loss.min_scale <= loss.scale <= loss.max_scale:
            bounds = f"min_scale = {loss.min_scale:g} to max_scale = {loss.max_scale:g}"
            yield f"loss.scale = {loss.scale:g} lies outside {bounds}."
        yield from super().conflicts()


def _prefix_conflicts(head: HeadOptions, loss: LossOptions) -> Iterator[str]:
    """Choices that contradict `loss.matryoshka`."""
    widths = loss.matryoshka
    if not widths:
        return
    if list(widths) != sorted(set(widths)) or (isinstance(head.width, int) and widths[-1] >= head.width):
        yield f"loss.matryoshka = {list(widths)} must rise and stay below head.width = {head.width}."
    if head.width == "auto" or head.beside != "none":
        yield 'loss.matryoshka trains prefixes of one head: give head.width a number and set head.beside = "none".'
