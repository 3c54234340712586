"""Open-vocabulary segmentation: mean intersection over union, pixel accuracy, and a line per class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from isthmus.encoders.pictures import reason
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import Given, named, opened
from isthmus.evaluation.protocols import find_protocol
from isthmus.evaluation.tasks import Prompts, task
from isthmus.metrics.bootstrap import estimate
from isthmus.metrics.results import Result, result
from isthmus.metrics.scores import group_vector
from isthmus.metrics.zeroshot import load_templates
from isthmus.progress import progress_bar, watched
from isthmus.segmentation.data import BACKGROUND, IGNORE, MaskedImages, read_masked_images

DEFINITION = (
    "Pixels of all images are counted into one confusion matrix; those of value 255 do not count. IoU of a class = "
    "pixels of the class that are given it / pixels that are of the class or are given it; miou = mean over the "
    "classes that occur in truth or prediction; pixel_accuracy = share of pixels given their class; "
    "mean_class_accuracy = mean over the classes that occur in truth of the share found. ci95 = 95 % intervals over "
    "groups of images (docs/intervals.md)."
)
ORACLE = (
    " oracle_class_iou, as freeze-align reports it and no other: each class that the truth of an image has (but not "
    "background) is given to the model, its scores over the image are scaled to 0 … 1, those above 0.4 are the class; "
    "mean IoU over these classes, then over images (oracle_class_iou), or over a class's images, then over classes "
    "(oracle_class_iou_by_class). It compares with no mIoU."
)
ORACLE_THRESHOLD = 0.4  # freeze-align's threshold on a class's scaled scores
ORACLE_METRICS = ("oracle_class_iou", "oracle_class_iou_by_class")
METRICS = ("miou", "pixel_accuracy", "mean_class_accuracy")


class PixelTally:
    """Counts the pixels of one image after the other.

    total: pixels by true class and class given, int64 [C, C]. Of each image only the areas of its classes are kept.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.total = np.zeros((len(classes), len(classes)), np.int64)
        self.areas: list[np.ndarray] = []
        self.oracle: list[np.ndarray] = []

    def add(self, truth: np.ndarray, predicted: np.ndarray, scores: Tensor | None = None) -> None:
        """Count an image: uint8 of one shape each; pixels whose truth is 255 are left out. scores [C, h, w], if given,
        are also judged with the true classes given (`oracle_ious`).

        Raises `InputError` for shapes that differ, and for any other value that is no class.
        """
        confusion = confusion_matrix(truth, predicted, len(self.classes))
        self.total += confusion
        self.areas.append(_areas(confusion))
        if scores is not None:
            self.oracle.append(oracle_ious(scores, truth, skip=self.background))

    @property
    def background(self) -> int | None:
        return self.classes.index(BACKGROUND) if BACKGROUND in self.classes else None

    def scores(self, *, groups: np.ndarray | None = None, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """mIoU and accuracies of all that was counted.

        groups: ids [n] of images that belong together, the unit of the bootstrap; default: every image its own.

        Returns {"metrics": {"miou", "pixel_accuracy", "mean_class_accuracy"}, "ci95": same keys, "n": {"images",
        "pixels", "classes", "groups"}, "confusion": int64 [C, C], "per_category": for each class its pixels, IoU and
        accuracy (None where it does not occur), "definition", "seed"}. Raises `InputError` where no pixel counts.
        """
        if not self.total.sum():
            raise InputError("No pixel of the masks belongs to a class: there is nothing to score.")
        unit = group_vector(groups, len(self.areas), "groups")
        per_group = np.zeros((int(unit.max()) + 1, 3, len(self.classes)), np.int64)
        np.add.at(per_group, unit, np.stack(self.areas))
        values, ci95 = estimate(
            lambda weights: _metrics(np.tensordot(weights, per_group, 1)),
            METRICS,
            len(per_group),
            bootstrap,
            seed,
            shares=METRICS,
        )
        definition = DEFINITION
        if self.oracle:
            oracle, oracle_ci95 = _oracle_means(np.stack(self.oracle), unit, bootstrap, seed)
            values, ci95, definition = values | oracle, ci95 | oracle_ci95, DEFINITION + ORACLE
        sizes = {"images": len(self.areas), "pixels": int(self.total.sum()), "classes": len(self.classes)}
        return {
            "metrics": values,
            "ci95": ci95,
            "n": {**sizes, "groups": len(per_group)},
            "confusion": self.total,
            "per_category": _per_class(_areas(self.total), self.classes),
            "definition": definition,
            "seed": seed,
        }


def oracle_ious(scores: Tensor, truth: np.ndarray, skip: int | None = None) -> np.ndarray:
    """IoU of each class that `truth` has when these classes are given, float64 [C]; NaN for the other classes and for
    `skip`.

    scores: [C, h, w]; truth: uint8 [H, W]. Scores of a class are interpolated and scaled to 0 … 1 over the image; those
    above 0.4 are the class. freeze-align does so on 256 × 256 pixels, and counts those of value 255 as background.
    """
    found = np.full(len(scores), np.nan)
    for label in set(np.unique(truth).tolist()) - {IGNORE, skip}:
        fine = F.interpolate(scores[None, label : label + 1], size=truth.shape, mode="bilinear")[0, 0]
        low, high = fine.min(), fine.max()
        given, true = ((fine - low) > ORACLE_THRESHOLD * (high - low)).numpy(), truth == label
        found[label] = (given & true).sum() / (given | true).sum()
    return found


def _oracle_means(
    ious: np.ndarray, unit: np.ndarray, bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Means over images, and over classes, of IoUs [n, C] with NaN where a class is not in an image."""
    there = ~np.isnan(ious)
    filled, some = np.where(there, ious, 0.0), there.any(axis=1)
    if not some.any():
        return {}, {}
    mean = np.divide(filled.sum(axis=1), there.sum(axis=1), out=np.zeros(len(ious)), where=some)

    def statistic(weights: np.ndarray) -> np.ndarray:
        weight = weights[unit].astype(np.float64)
        mass, total = weight @ there, weight @ filled
        images = (weight * some).sum()
        by_image = (weight * mean).sum() / images if images else np.nan
        return np.array([by_image, (total[mass > 0] / mass[mass > 0]).mean() if (mass > 0).any() else np.nan])

    return estimate(statistic, ORACLE_METRICS, int(unit.max()) + 1, bootstrap, seed, shares=ORACLE_METRICS)


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true class and class given, int64 [C, C]; those whose truth is 255 are left out.

    truth, predicted: uint8 of one shape. Raises `InputError` for shapes that differ, and for a value that no class has.
    """
    if truth.shape != predicted.shape:
        raise InputError(f"masks of different shapes: the truth has {truth.shape}, the prediction {predicted.shape}.")
    counted = truth != IGNORE
    true, given = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    if len(true) and max(true.max(), given.max()) >= classes:
        raise InputError(f"a pixel has the value {max(true.max(), given.max())}, but there are {classes} classes.")
    return np.bincount(true * classes + given, minlength=classes**2).reshape(classes, classes)


@task(primary="miou", columns=(*METRICS, "oracle_class_iou"))
def segmentation(
    model: Given,
    data: str | Path | MaskedImages,
    *,
    classes: str | Path | Sequence[str] | None = None,
    templates: Prompts | None = None,
    split: str | None = None,
    size: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    threshold: float | None = None,
    attention: Literal["qk", "qq"] = "qk",
    alone: Literal["attention", "residual"] | None = None,
    cls: bool = True,
    protocol: str | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Open-vocabulary segmentation of images with masks, by the text of the classes' names.

    data: a folder or a table, as `segmentation.data.read_masked_images` takes it.

    Args:
        classes: names in the order of the masks' values, in a file with one a line; default: classes.txt.
        split: only these rows of a table.
        size: pixels of the shorter side as the encoder sees it (its own).
        window: slide a square of this many pixels over the image (default: the whole image at once).
        stride: pixels from window to window (half a window).
        threshold: less probable pixels are the class 'background'.
        attention: attention of the last block: as trained (qk), or between queries (qq).
        alone: in the last block, use the attention without MLP and residuals (ClearCLIP), or with its own residual
            (SAIL).
        cls: for token heads: use patches only, without the class token.
        protocol: use a paper's settings, sail or freeze-align; options given here take precedence.
    """
    from isthmus.segmentation import Segmenter

    masked = data if isinstance(data, MaskedImages) else read_masked_images(data, classes, split=split)
    model, name = opened(model)
    exposure = Exposure(model, named(data), unseen, captions=False)
    given: dict[str, Any] = {"size": size, "window": window, "stride": stride, "threshold": threshold}
    given |= {"attention": attention, "alone": alone, "cls": cls, "templates": templates}
    preset = find_protocol(protocol)
    options = with_defaults(segmentation, given, preset.segmentation if preset else {})
    templates = options.pop("templates") or "default"
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    segmenter = Segmenter(model, masked.classes, prompts, **options)
    tally, rows, skipped = PixelTally(masked.classes), [], list(masked.pairs.skipped)
    for index in progress_bar(watched(), range(len(masked)), unit="image"):
        try:
            image = exposure.picture(masked.pairs, index)[1]
            if image is None:
                continue
            scores = segmenter.scores(image)
            labels = segmenter.labels(scores, image.height, image.width)
        except UsageError:
            raise
        except Exception as error:  # of a library too, whatever it may be, or for want of memory
            skipped.append((masked.ids[index], reason(error)))
            continue
        tally.add(masked.mask(index, image.size), labels, scores)
        rows.append(index)
    exposure.check(len(rows))
    if not rows:
        raise InputError(f"None of the {len(masked):,} images could be read; the first: {skipped[:1]}.")
    found = tally.scores(groups=masked.groups[rows], bootstrap=bootstrap, seed=seed)
    found |= exposure.report() | {
        "classes": masked.classes,
        "templates": prompts,
        "options": options,
        "skipped": skipped,
    }
    found["notes"] = [*masked.pairs.notes, *(preset.remarks() if preset else [])]
    return result(found, dataset=named(data), model=name, task="zeroshot_segmentation")


def with_defaults(task: Any, given: dict[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, with the preset's value wherever the task's own default was left."""
    own = {name: parameter.default for name, parameter in inspect.signature(task).parameters.items()}
    return {**given, **{name: value for name, value in preset.items() if given.get(name) == own.get(name)}}


def _areas(confusion: np.ndarray) -> np.ndarray:
    """Pixels of each class: correctly predicted, predicted, and true; int64 [3, C]."""
    return np.stack([np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)]).astype(np.int64)


def _ratios(areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy of each class, NaN where it does not occur."""
    right, given, true = areas.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return right / (given + true - right), right / true


def _metrics(areas: np.ndarray) -> np.ndarray:
    iou, accuracy = _ratios(areas)
    right, _, true = areas
    return np.array([np.nanmean(iou), right.sum() / true.sum(), np.nanmean(accuracy)])


def _per_class(areas: np.ndarray, classnames: Sequence[str]) -> list[dict[str, Any]]:
    iou, accuracy = _ratios(areas)
    metrics = [{"iou": _or_none(iou[i]), "accuracy": _or_none(accuracy[i])} for i in range(len(iou))]
    return [
        {"category": name, "n": int(pixels), "metrics": found}
        for name, pixels, found in zip(classnames, areas[2], metrics, strict=True)
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
