"""Searching an index: one product, and what is known of the pictures found."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from isthmus.data.images import BadImage, decode
from isthmus.data.sources import read_file
from isthmus.errors import InputError
from isthmus.image_search.result import Hit
from isthmus.index.identity import model_fingerprint
from isthmus.index.reader import ImageIndex

if TYPE_CHECKING:
    from isthmus.models.dual_encoder import DualEncoder

ABSENT = (160, 160, 160)  # of a tile whose picture is nowhere


def check_model(index: ImageIndex, model: DualEncoder) -> None:
    """Raise `InputError` for a model other than the index's: their embeddings do not compare."""
    if model_fingerprint(model) != index.model["fingerprint"]:
        raise InputError(
            f"{index.path}: made by another model ({index.model['path']}), or by one that was trained again since. "
            "Search with that one, or build the index anew with `isthmus index`."
        )


def chosen_rows(index: ImageIndex, label: str | None, folder: str | None) -> np.ndarray | None:
    """The rows that filters leave; None: all. Raises `UsageError` where they leave none."""
    return None if label is None and folder is None else index.rows_where(label=label, folder=folder)


def nearest_pictures(index: ImageIndex, wanted: np.ndarray, k: int, rows: np.ndarray | None, text: bool) -> list[Hit]:
    """The k nearest pictures to an embedding [1, d], best first; with probabilities if it is that of a text."""
    scores, found = (one[0] for one in index.search(wanted, k, where=rows))
    sure = index.probability(scores, None if rows is None else len(rows)) if text else None
    return [
        Hit(
            score=float(score),
            probability=None if sure is None else float(sure[place]),
            row=int(row),
            **index.record(int(row)),
        )
        for place, (score, row) in enumerate(zip(scores, found, strict=True))
        if row >= 0
    ]


def shown_by(index: ImageIndex) -> Callable[[Hit], Image.Image]:
    """What gives the picture of a hit: its thumbnail, otherwise its file; grey where there is neither."""

    def picture(hit: Hit) -> Image.Image:
        small = index.thumbnail(hit["row"])
        if small is not None:
            return Image.open(io.BytesIO(small))
        try:
            return decode(read_file(Path(hit["path"] or "")))
        except BadImage:
            return Image.new("RGB", (16, 16), ABSENT)

    return picture
